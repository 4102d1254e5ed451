"""From a picture with a box to ranked answers: who in the gallery looks most like this person."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from ps_jax.errors import DataError, GalleryError
from ps_jax.evaluation.cbgm import ContextMatching, context_rows
from ps_jax.evaluation.metrics import pairwise_iou
from ps_jax.evaluation.protocols import SearchItems
from ps_jax.evaluation.table import make_table
from ps_jax.search.detector import Detector, Found
from ps_jax.search.gallery import Gallery
from ps_jax.search.records import EVERYBODY, Part, People, Restriction

LOCATION = ("model", "fps")  # entries of a gallery's `about` that say nothing of what features mean
MOST_ANSWERS = 1000
LEAST_OVERLAP = 0.1  # of a box that somebody gives with the detection that stands for it


class Query(NamedTuple):
    """A person to look for.

    Attributes:
      feature: f32[width], of length one.
      around: f32[people, width], of the others in the picture, best score first, for context matching.
      path: the picture's file, absolute, whose scenes are left out of the answers; "" leaves nothing out.
    """

    feature: Float[np.ndarray, " width"]
    around: Float[np.ndarray, "people width"]
    path: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A person of the gallery.

    Attributes:
      part: where it was recorded.
      moment: seconds since the beginning of the video; 0 in a picture.
      time: seconds since 1970.
      box: xyxy in pixels of the picture or frame.
      score: of the detection.
      similarity: to the query; after context matching it may be another person's of the scene.
    """

    part: Part
    moment: float
    time: float
    box: tuple[float, ...]
    score: float
    similarity: float


def check_model(gallery: Gallery, detector: Detector) -> None:
    """Raises GalleryError unless the gallery was indexed by this model, with these settings."""
    differing = [
        f"{name} {value}, the model's is {detector.about.get(name)}"
        for name, value in gallery.about.items()
        if name not in LOCATION and detector.about.get(name) != value
    ]
    if differing:
        raise GalleryError(
            f"the gallery was indexed by another model ({'; '.join(differing)}): name that one with --model, or index "
            "again with this one into another --gallery"
        )


def make_query(
    detector: Detector,
    image: UInt8[np.ndarray, "height width 3"],
    found: Found,
    box: Sequence[float],
    path: str = "",
) -> Query:
    """The query of a box in a picture, by the rule of the model's configuration.

    Args:
      detector: as the gallery was indexed with.
      image: u8[height, width, 3].
      found: all that the detector sees in it, as `Detector.look` gives it.
      box: xyxy in pixels of the image.
      path: the picture's file, see `Query`.

    Raises:
      DataError: the box is empty or outside the picture.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (float(value) for value in box)
    clipped = np.array([[max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)]], np.float64)
    if not np.isfinite(clipped).all() or np.any(clipped[0, 2:] - clipped[0, :2] < 1):
        raise DataError(
            f"the box {x1:g} {y1:g} {x2:g} {y2:g} is empty or outside the picture of {width} x {height} pixels; "
            "wanted are x1 y1 x2 y2"
        )
    overlap = pairwise_iou(clipped, found.box.astype(np.float64))[0]
    # A query of a data set is an annotated person; a box that somebody draws may be of a person whom the system does
    # not see, and is then not to become a neighbour.
    if detector.settings.query == "best_detection" and overlap.max(initial=0.0) >= LEAST_OVERLAP:
        embedding = found.embedding[overlap.argmax()][None]
    else:
        embedding = detector.embed(image, clipped)
    found = found.above(detector.settings.score_threshold)
    others = context_rows(clipped[0], found.box.astype(np.float64))
    return Query(
        detector.query_features(embedding)[0],
        detector.query_features(found.embedding[others]),
        os.path.abspath(path) if path else "",
    )


def find(
    gallery: Gallery,
    queries: Sequence[Query],
    count: int,
    restriction: Restriction = EVERYBODY,
    context: ContextMatching | None = None,
) -> list[Answer]:
    """The people most like the queries, at most one of each scene, best first.

    Args:
      gallery: where to look.
      queries: one person, once or several times; the mean of the unit features is looked for.
      count: answers wanted.
      restriction: who is searched.
      context: context matching among the scenes that come first; of several queries each with its own people.

    Raises:
      GalleryError: a query's feature is not of the gallery's width.
    """
    if any(query.feature.shape != (gallery.width,) for query in queries):
        raise GalleryError(f"the gallery's features have {gallery.width} numbers, the query's have not")
    count = min(count, MOST_ANSWERS)
    mean = np.mean([query.feature for query in queries], axis=0)
    vector = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    own = {part.id for part in gallery.parts.values() if part.path in {query.path for query in queries}}
    wanted = count if context is None else max(count, context.k1)
    asked = 4 * wanted + 16
    while True:
        hits = gallery.search(vector[None], asked, restriction)[0]
        keep = (
            ~np.isin(hits.people.part, np.fromiter(own, np.int64))
            if own
            else np.ones(len(hits.similarity), bool)
        )
        similarity, people = hits.similarity[keep], hits.people.take(keep)
        first = _first_of_scenes(people)
        if len(first) >= wanted or len(hits.similarity) < asked:
            break
        asked *= 4
    similarity, people = similarity[first[:wanted]], people.take(first[:wanted])
    if context is not None and len(first):
        similarity, people = _rematched(gallery, queries, vector, people, restriction, context)
    answers = [
        Answer(
            gallery.parts[int(part)],
            float(moment),
            float(time),
            tuple(map(float, box)),
            float(score),
            float(value),
        )
        for part, moment, time, box, score, value in zip(*people[:5], similarity, strict=True)
    ]
    return answers[:count]


def _first_of_scenes(people: People) -> np.ndarray:
    """Numbers of the rows that are the first of their scene, in order."""
    keys = np.empty(len(people.part), [("part", np.int64), ("moment", np.float64)])
    keys["part"], keys["moment"] = people.part, people.moment
    _, first = np.unique(keys, return_index=True)
    return np.sort(first)


def _keys(people: People) -> list[tuple[int, float]]:
    """The scene of each row."""
    return list(zip(people.part.tolist(), people.moment.tolist(), strict=True))


def _rematched(
    gallery: Gallery,
    queries: Sequence[Query],
    vector: Float[np.ndarray, " width"],
    people: People,
    restriction: Restriction,
    context: ContextMatching,
) -> tuple[Float[np.ndarray, " scenes"], People]:
    """The best of each of these scenes after context matching, best first."""
    scenes = {key: number for number, key in enumerate(_keys(people))}
    around = gallery.scenes({part for part, _ in scenes})
    around = around.take(restriction.allows(around))
    number = np.array([scenes.get(key, -1) for key in _keys(around)], int)
    around = around.take(np.concatenate([np.flatnonzero(number == n) for n in range(len(scenes))]))
    number = np.sort(number[number >= 0])
    tables = [around.take(number == n) for n in range(len(scenes))]
    table = make_table((one.box, one.score, one.feature) for one in tables)
    plain = np.asarray(around.feature, np.float64) @ vector.astype(np.float64)
    nowhere = np.zeros(0, np.int64)
    items = SearchItems(np.arange(len(scenes)), nowhere, np.zeros((0, 4)), nowhere)
    changed = plain
    for query in queries:
        company = np.concatenate([vector[None], query.around]).astype(np.float64)
        rematched = context.rematch(items, table, plain, around.feature.astype(np.float64), company)
        changed = np.maximum(changed, rematched)
    best = [int(table.start[n] + changed[table.rows(n)].argmax()) for n in range(len(scenes))]
    order = np.array(best)[np.argsort(-changed[best], kind="stable")]
    return changed[order].astype(np.float32), around.take(order)
