"""Re-identification on its own: people who were cut out already, ranked (the protocol of Market-1501).

For each query the gallery is ranked by cosine similarity. Pictures of the query's person by the query's camera do not
count, nor do pictures of nobody in particular (junk).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from input_pipeline.scenes import UNKNOWN
from ps_jax.evaluation.inference import CompiledSystem, run_object_centric
from ps_jax.evaluation.report import write_atomically
from ps_jax.evaluation.search import similarity_rows
from ps_jax.evaluation.settings import Settings
from ps_jax.evaluation.similarity import unit_rows

TOP = (1, 5, 10)


class Pictures(NamedTuple):
    """Cut-out people.

    Attributes:
      feature: f64[picture, width] of length one.
      identity: i64[picture], -1 junk.
      camera: i64[picture].
    """

    feature: np.ndarray
    identity: np.ndarray
    camera: np.ndarray


def rank_gallery(queries: Pictures, gallery: Pictures) -> tuple[Float[np.ndarray, " query"], np.ndarray]:
    """Average precision of each query, and whether a right answer is among the first 1, 5 and 10.

    Average precision is the mean over right answers of the precision there. A query with no right answer in the gallery
    counts 0.

    Returns:
      f64[query], bool[query, 3].
    """
    precisions = np.zeros(len(queries.identity))
    hits = np.zeros((len(queries.identity), len(TOP)), bool)
    similarity = similarity_rows(queries.feature, gallery.feature)
    for number, (row, identity, camera) in enumerate(
        zip(similarity, queries.identity, queries.camera, strict=True)
    ):
        counts = _counts(gallery, int(identity), int(camera))
        order = np.argsort(-row[counts], kind="stable")
        (place,) = np.nonzero(gallery.identity[counts][order] == identity)
        if len(place):
            precisions[number] = np.mean(np.arange(1, len(place) + 1) / (place + 1))
            hits[number] = place[0] < np.array(TOP)
    return precisions, hits


def _counts(gallery: Pictures, identity: int, camera: int) -> Bool[np.ndarray, " picture"]:
    """Which pictures of the gallery count for a query."""
    seen_here = (gallery.identity == identity) & (gallery.camera == camera)
    return (gallery.identity != UNKNOWN) & ~seen_here


def evaluate_reid(
    system: Any,
    variables: Any,
    source: Any,
    config: ConfigDict | Mapping[str, Any],
    out_dir: str | Path | None,
    partition: str,
    versions: Mapping[str, Any],
) -> dict[str, Any]:
    """Evaluates the embedding of cut-out people and writes `results.json`.

    Args:
      system, variables, source, config, out_dir, partition: see `ps_jax.evaluation.evaluate`.
      versions: what the result was made with.

    Returns:
      The results: "reid" (mAP, top1, top5, top10, numbers of queries and pictures) and "versions".

    Raises:
      PersonSearchError: options, data or weights are not as they should be.
    """
    settings, split = Settings.of(config), source.split(partition)
    gallery = split.galleries[split.default_gallery]
    findings = run_object_centric(
        CompiledSystem(system, variables),
        source,
        split,
        gallery.queries,
        query_rule="box",
        true_boxes=True,
        batch_size=settings.batch_size,
        detect=False,
    )
    everybody = Pictures(
        unit_rows(findings.people.embedding, system.branches),
        np.array([scene.people[0].identity for scene in split.scenes]),
        np.array([scene.camera for scene in split.scenes]),
    )
    asked = np.isin(np.arange(len(split.scenes)), [split.positions[query.scene] for query in gallery.queries])
    queries, others = (Pictures(*(x[rows] for x in everybody)) for rows in (asked, ~asked))
    precisions, hits = rank_gallery(queries, others)
    numbers = {
        "mAP": float(precisions.mean()),
        **{f"top{k}": float(hits[:, place].mean()) for place, k in enumerate(TOP)},
        "queries": len(precisions),
        "pictures": len(others.identity),
    }
    results = {
        "dataset": split.dataset,
        "partition": partition,
        "reid": numbers,
        "versions": dict(versions),
    }
    print(
        f"{split.dataset} {partition}: {numbers['queries']} queries, {numbers['pictures']} pictures: "
        + ", ".join(f"{name} {100 * numbers[name]:.2f}" for name in ("mAP", "top1", "top5", "top10"))
    )
    if out_dir is not None:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        write_atomically(Path(out_dir) / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    return results
