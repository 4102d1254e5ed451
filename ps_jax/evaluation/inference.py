"""Runs a system over every scene of a partition and brings what it finds back to original pixels.

Every function is compiled once for each padded scene size: boxes to embed and queries to look for come in
chunks of a fixed number, and the last batch of a size is filled up by the source.
"""

import collections
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from input_pipeline.scenes import Query, Split
from ps_jax.errors import CheckpointError, DataError
from ps_jax.evaluation.metrics import pairwise_iou
from ps_jax.evaluation.similarity import gallery_features, unit_rows
from ps_jax.evaluation.table import DetectionTable, empty_table, make_table
from ps_jax.interface import Batch, Detections

MAX_BOX_CHUNK = 32


class CompiledSystem:
    """A system's inference functions under `jax.jit`, with its variables.

    Attributes:
      branches: embeddings that lie side by side in one, see `System.branches`.
      traces: how often each function was traced; equals the number of different padded sizes it met.
    """

    def __init__(self, system: Any, variables: Any):
        self.traces: collections.Counter[str] = collections.Counter()
        self._variables = jax.device_put(variables)
        self.branches = system.branches

        def detect(variables, scenes):
            self.traces["detect"] += 1
            return _float32(system.detect(variables, scenes))

        def embed(variables, scenes, boxes):
            self.traces["embed"] += 1
            return _float32(system.embed(variables, scenes, boxes))

        def detect_and_embed(variables, scenes, boxes):
            # In one program, so that the compiler computes the trunk once for both.
            self.traces["detect_and_embed"] += 1
            return _float32((system.detect(variables, scenes), system.embed(variables, scenes, boxes)))

        def embed_both(variables, scenes, boxes):
            # In one program too: a system that makes no difference between the two computes them once.
            self.traces["embed_both"] += 1
            return _float32(
                (system.embed(variables, scenes, boxes), system.embed_queries(variables, scenes, boxes))
            )

        def look(variables, scenes):
            self.traces["look"] += 1
            return system.look(variables, scenes)

        def find(variables, scenes, queries, looked):
            self.traces["find"] += 1
            return _float32(system.find(variables, scenes, queries, looked))

        functions = (detect, embed, detect_and_embed, embed_both, look, find)
        self._functions = {function.__name__: jax.jit(function) for function in functions}

    def __call__(self, name: str, batch: Batch, *inputs: Any) -> Any:
        """Runs one of the functions on a batch; returns host arrays."""
        return jax.device_get(self._functions[name](self._variables, batch.scenes, *inputs))

    def look(self, batch: Batch) -> Any:
        """What "find" takes after the queries: it stays on the device, for all queries that are looked for."""
        return self._functions["look"](self._variables, batch.scenes)


class SideBySide:
    """Two compiled systems in the place of one: detections of the first, embeddings of both side by side.

    Each system's embeddings are of unit length, so that none outweighs the other's: to be compared as one. Only for
    what needs no query.
    """

    branches = 1

    def __init__(self, first: CompiledSystem, second: CompiledSystem):
        self._first, self._second = first, second

    def __call__(self, name: str, batch: Batch, *boxes: np.ndarray) -> Any:
        """Runs "detect", "embed" or "detect_and_embed" on a batch; returns host arrays."""
        if name == "embed":
            return self._beside(self._first(name, batch, *boxes), self._second(name, batch, *boxes))
        found = self._first("detect", batch)
        embedding = self._beside(found.embedding, _embedded(self._second, batch, found))
        found = found._replace(embedding=np.where(found.valid[..., None], embedding, np.float32(0)))
        return (found, self("embed", batch, *boxes)) if name == "detect_and_embed" else found

    def _beside(self, *embeddings: np.ndarray) -> np.ndarray:
        rows = [
            unit_rows(x.reshape(-1, x.shape[-1]), system.branches).reshape(x.shape)
            for x, system in zip(embeddings, (self._first, self._second), strict=True)
        ]
        return np.concatenate(rows, axis=-1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Findings:
    """What a system makes of a partition, independent of any query.

    Attributes:
      detections: detected people of every scene; empty where detection needs a query.
      people: the annotated boxes with score 1 and their embeddings; empty where not asked for.
      queries: f32[queries, width], the query embeddings, to compare with those of detections.
      sought: f32[queries, sought_width], the embeddings that a query-centric search looks for; None where detection
        needs no query.
    """

    detections: DetectionTable
    people: DetectionTable
    queries: Float[np.ndarray, "queries width"]
    sought: Float[np.ndarray, "queries sought_width"] | None


@dataclass(frozen=True, eq=False)
class FoundByQuery:
    """What a query-centric system finds: detections of pairs of query and scene.

    Attributes:
      tables: for each query a table over all scenes, without embeddings.
      similarities: for each query its table's similarities, f64[rows].
    """

    tables: tuple[DetectionTable, ...]
    similarities: tuple[np.ndarray, ...]


class BoxRequests:
    """The boxes to embed in each scene: annotated people where asked for, and every query's box.

    A query box that is the box of an annotated person is embedded once; any other is added.
    """

    def __init__(self, split: Split, queries: Sequence[Query], true_boxes: bool):
        boxes = [[person.box for person in scene.people] if true_boxes else [] for scene in split.scenes]
        self.places: list[tuple[int, int]] = []
        for query in queries:
            position = split.positions[query.scene]
            if query.box not in boxes[position]:
                boxes[position].append(query.box)
            self.places.append((position, boxes[position].index(query.box)))
        self.boxes = [np.array(scene, np.float64).reshape(-1, 4) for scene in boxes]
        most = max(map(len, self.boxes), default=0)
        self.chunk = min(MAX_BOX_CHUNK, -(-most // 8) * 8)


def run_object_centric(
    compiled: CompiledSystem | SideBySide,
    source: Any,
    split: Split,
    queries: Sequence[Query],
    *,
    query_rule: str,
    true_boxes: bool,
    batch_size: int = 1,
    detect: bool = True,
    detector: CompiledSystem | None = None,
) -> Findings:
    """Detects everybody in every scene, embeds the queries and, where asked for, the annotated people.

    Args:
      compiled: the system, or two of them.
      source: yields the scenes: `source.scene_batches(partition, batch_size=...)`.
      split: the partition's records.
      queries: Q queries.
      query_rule: "box", the embedding at the query's box, or "best_detection", that of the detection with the
        largest overlap in the query's scene (at the box where nothing overlaps it).
      true_boxes: also embed all annotated boxes.
      batch_size: scenes in a batch.
      detect: False for only embedding, for a query-centric search.
      detector: another system whose detections are taken, boxes and scores; this one embeds them.

    Returns:
      The findings, in the order of the split's scenes.

    Raises:
      CheckpointError: the model's numbers are not finite.
      DataError: the source did not yield every scene.
    """
    requests = BoxRequests(split, queries, true_boxes)
    detections: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    embeddings: dict[int, np.ndarray] = {}
    sought: dict[int, np.ndarray] = {}
    for batch in _batches(source, split, batch_size, "detect" if detect else "embed"):
        chunks = _box_chunks(batch, split, requests)
        parts, found = [], None
        if not detect:
            parts = [compiled("embed_both", batch, chunk) for chunk in chunks]
        elif detector is not None:
            found = _detected_by(detector, compiled, batch)
            parts = [(compiled("embed", batch, chunk),) for chunk in chunks]
        elif chunks:
            found, first = compiled("detect_and_embed", batch, chunks.pop(0))
            parts = [(first,), *((compiled("embed", batch, chunk),) for chunk in chunks)]
        else:
            found = compiled("detect", batch)
        for row, position in _real_rows(batch):
            if parts:
                count = len(requests.boxes[position])
                for place, values in zip((embeddings, sought), zip(*parts, strict=True), strict=False):
                    place[position] = np.concatenate([value[row] for value in values])[:count]
                    _check_finite(place[position], split, position)
            if found is not None:
                box, score, embedding, valid = (np.asarray(field)[row] for field in found)
                box = box[valid] * _ratio(batch, row, split, position)
                detections[position] = (box, score[valid], embedding[valid])
                _check_finite(box, split, position)
                _check_finite(embedding[valid], split, position)
    count = len(split.scenes)
    table = make_table(detections[position] for position in range(count)) if detect else empty_table(count)
    people = _people_table(split, embeddings) if true_boxes else empty_table(count)
    return Findings(
        table,
        people,
        _query_vectors(queries, requests, embeddings, table, query_rule),
        np.stack([sought[position][number] for position, number in requests.places]) if sought else None,
    )


def _detected_by(
    detector: CompiledSystem | SideBySide, compiled: CompiledSystem | SideBySide, batch: Batch
) -> Detections:
    """What one system detects, as another one embeds it."""
    found = detector("detect", batch)
    return found._replace(embedding=_embedded(compiled, batch, found))


def _embedded(compiled: CompiledSystem | SideBySide, batch: Batch, found: Detections) -> np.ndarray:
    """f32[scenes, detections, width], a system's embeddings of what has been detected; zeros behind the last one."""
    slots = found.box.shape[1]
    used = found.valid.nonzero()[1].max(initial=0) + 1
    boxes = np.pad(found.box, ((0, 0), (0, -slots % MAX_BOX_CHUNK), (0, 0)))
    embedded = [
        compiled("embed", batch, boxes[:, start : start + MAX_BOX_CHUNK])
        for start in range(0, used, MAX_BOX_CHUNK)
    ]
    embedding = np.zeros((*boxes.shape[:2], embedded[0].shape[-1]), np.float32)
    embedding[:, : len(embedded) * MAX_BOX_CHUNK] = np.concatenate(embedded, axis=1)
    return embedding[:, :slots]


def _query_vectors(
    queries: Sequence[Query],
    requests: BoxRequests,
    embeddings: Mapping[int, np.ndarray],
    table: DetectionTable,
    query_rule: str,
) -> np.ndarray:
    """f32[queries, width], the queries' embeddings at their boxes or of their best detections."""
    vectors = []
    for query, (position, number) in zip(queries, requests.places, strict=True):
        vector = embeddings[position][number]
        if query_rule == "best_detection":
            rows = table.rows(position)
            overlap = pairwise_iou(np.array([query.box], np.float64), table.box[rows])[0]
            if overlap.max(initial=0.0) > 0:
                vector = table.embedding[rows][overlap.argmax()]
        vectors.append(vector)
    return np.stack(vectors)


def _people_table(split: Split, embeddings: Mapping[int, np.ndarray]) -> DetectionTable:
    """The annotated boxes as detections of score 1."""
    width = next(iter(embeddings.values())).shape[1]
    nobody = np.zeros((0, width), np.float32)
    return make_table(
        (
            np.array([person.box for person in scene.people], np.float64).reshape(-1, 4),
            np.ones(len(scene.people)),
            embeddings.get(position, nobody)[: len(scene.people)],
        )
        for position, scene in enumerate(split.scenes)
    )


def run_query_centric(
    compiled: CompiledSystem,
    source: Any,
    split: Split,
    findings: Findings,
    relevant: Sequence[np.ndarray],
    *,
    similarity: str,
    score_threshold: float,
    batch_size: int = 1,
    query_chunk: int = 16,
) -> FoundByQuery:
    """Looks for every query in every scene of its galleries.

    Args:
      compiled: the system.
      source, split: as in `run_object_centric`.
      findings: the queries' embeddings, from `run_object_centric` with `detect=False`.
      relevant: for each scene of the split i64[relevant], the queries that are looked for in it.
      similarity: as in `ps_jax.evaluation.similarity`.
      score_threshold: detections below it are not kept.
      batch_size: scenes in a batch.
      query_chunk: queries that are looked for at a time.

    Returns:
      Detections of every pair of query and scene that is relevant.
    """
    vectors = findings.sought
    assert vectors is not None, "made with detect=False"
    queries = unit_rows(findings.queries, compiled.branches)
    kept: list[tuple[np.ndarray, ...]] = []
    for batch in _batches(source, split, batch_size, "find"):
        rows = _real_rows(batch)
        wanted = np.unique(np.concatenate([relevant[position] for _, position in rows]))
        batch = batch._replace(scenes=jax.device_put(batch.scenes))
        looked = compiled.look(batch) if len(wanted) else None
        for start in range(0, len(wanted), query_chunk):
            numbers = wanted[start : start + query_chunk]
            padded = np.zeros((query_chunk, vectors.shape[1]), np.float32)
            padded[: len(numbers)] = vectors[numbers]
            found = compiled("find", batch, padded, looked)
            for row, position in rows:
                to_original = _ratio(batch, row, split, position)
                looked_for = np.isin(numbers, relevant[position])
                score = found.score[row, : len(numbers)]
                keep = found.valid[row, : len(numbers)] & looked_for[:, None]
                keep &= score >= np.float32(score_threshold)
                which, place = np.nonzero(keep)
                embedding = found.embedding[row][which, place]
                _check_finite(embedding, split, position)
                feature = gallery_features(embedding, score[which, place], similarity, compiled.branches)
                number = numbers[which]
                kept.append(
                    (
                        number,
                        np.full(len(number), position),
                        (found.box[row][which, place] * to_original).astype(np.float32),
                        score[which, place],
                        np.sum(feature * queries[number], axis=1),
                    )
                )
    empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    numbers, positions, box, score, cosine = (np.concatenate(c) for c in zip(empty, *kept, strict=True))
    order = np.lexsort((positions, numbers))  # stable: the best score of a pair stays first
    bounds = np.searchsorted(numbers[order], np.arange(len(vectors) + 1))
    tables, similarities = [], []
    for first, last in itertools.pairwise(bounds):
        mine = order[first:last]
        starts = np.searchsorted(positions[mine], np.arange(len(split.scenes) + 1))
        no_embedding = np.zeros((len(mine), 0), np.float32)
        tables.append(DetectionTable(starts, box[mine], score[mine].astype(np.float64), no_embedding))
        similarities.append(cosine[mine])
    return FoundByQuery(tuple(tables), tuple(similarities))


def _batches(source: Any, split: Split, batch_size: int, task: str) -> Iterator[Batch]:
    """The batches of all scenes, with a progress bar; makes sure that each scene came once."""
    seen = np.zeros(len(split.scenes), int)
    bar = tqdm(
        total=len(split.scenes), desc=task, unit="scene", dynamic_ncols=True, disable=not sys.stderr.isatty()
    )
    with bar:
        for batch in source.scene_batches(split.partition, batch_size=batch_size):
            positions = [position for _, position in _real_rows(batch)]
            np.add.at(seen, positions, 1)
            yield batch
            bar.update(len(positions))
    if np.any(seen != 1):
        name = split.scenes[int(np.argmax(seen != 1))].name
        raise DataError(
            f"{split.dataset} {split.partition}: {int(np.sum(seen != 1))} scenes, such as {name}, came "
            "not once from the source; prepare the data again"
        )


def _real_rows(batch: Batch) -> list[tuple[int, int]]:
    """(row in the batch, position in the split) of the scenes that are no fillers."""
    return [(row, int(index)) for row, index in enumerate(np.asarray(batch.index)) if index >= 0]


def _ratio(batch: Batch, row: int, split: Split, position: int) -> Float[np.ndarray, " 4"]:
    """f64[4], original pixels a resized pixel, for (x1, y1, x2, y2)."""
    height, width = np.asarray(batch.scenes.size[row], np.float64)
    scene = split.scenes[position]
    return np.array([scene.width / width, scene.height / height] * 2)


def _box_chunks(batch: Batch, split: Split, requests: BoxRequests) -> list[np.ndarray]:
    """Boxes to embed in resized pixels, f32[batch, chunk, 4] each, zeros where a scene has fewer."""
    rows = _real_rows(batch)
    most = max((len(requests.boxes[position]) for _, position in rows), default=0)
    chunks = -(-most // requests.chunk) if most else 0
    boxes = np.zeros((len(batch.index), chunks * requests.chunk, 4), np.float32)
    for row, position in rows:
        wanted = requests.boxes[position]
        boxes[row, : len(wanted)] = wanted / _ratio(batch, row, split, position)
    return list(np.split(boxes, chunks, axis=1)) if chunks else []


def _check_finite(values: np.ndarray, split: Split, position: int) -> None:
    if not np.all(np.isfinite(values)):
        raise CheckpointError(
            f"scene {split.scenes[position].name}: the model's numbers are not finite; its weights are "
            "damaged or its training diverged, take an earlier checkpoint"
        )


def _float32(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: x.astype(np.float32) if jax.numpy.issubdtype(x.dtype, np.floating) else x, tree
    )
