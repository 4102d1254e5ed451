"""Search mAP and top-k: every query ranks the detections of its gallery.

Per scene of the gallery that shows the query's person, the most similar detection that overlaps the person
well enough is right, every other detection of the gallery is wrong. A query's average precision is multiplied
by the share of its positives that were found, so a person who was not detected costs.

Ties: of equally similar detections the one earlier in the gallery ranks first, and within a scene the one of
the higher detection score. Average precision groups ties, so only top-k depends on this.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ps_jax.errors import ConfigError
from ps_jax.evaluation.metrics import average_precision, pairwise_iou
from ps_jax.evaluation.protocols import SearchItems, SearchTask
from ps_jax.evaluation.table import DetectionTable

TOP = (1, 5, 10)
IOU_RULES = ("variable", "fixed")


@dataclass(frozen=True, eq=False)
class Ranking:
    """How one query went.

    Attributes:
      ap: average precision times `found` / `positives`.
      hits: for each k of `TOP`, whether a right detection is among the first k.
      found: positives with a right detection.
      positives: people to find, repeated gallery entries counted each time.
      box: f64[ranked, 4], the first detections of the ranking, at most `max(TOP)`, in original pixels.
      scene: i64[ranked], the scenes they lie in.
      similarity: f64[ranked].
      correct: bool[ranked].
    """

    ap: float
    hits: tuple[bool, ...]
    found: int
    positives: int
    box: Float[np.ndarray, "ranked 4"]
    scene: Int[np.ndarray, " ranked"]
    similarity: Float[np.ndarray, " ranked"]
    correct: Bool[np.ndarray, " ranked"]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The rankings of all queries of a task."""

    rankings: tuple[Ranking, ...]

    @property
    def average_precisions(self) -> Float[np.ndarray, " queries"]:
        return np.array([ranking.ap for ranking in self.rankings])

    @property
    def mean_average_precision(self) -> float:
        """Mean over all queries; one without any positive in its gallery counts as 0."""
        return float(np.mean(self.average_precisions)) if self.rankings else 0.0

    @property
    def top(self) -> dict[int, float]:
        """k of `TOP` -> share of queries with a right detection among the first k."""
        count = max(1, len(self.rankings))
        return {k: sum(r.hits[i] for r in self.rankings) / count for i, k in enumerate(TOP)}

    @property
    def answerable(self) -> "SearchResult":
        """The same without the queries that have no positive in their gallery."""
        return SearchResult(tuple(ranking for ranking in self.rankings if ranking.positives))


def evaluate_search(
    task: SearchTask,
    answers: Iterable[tuple[DetectionTable, Float[np.ndarray, " rows"]]],
    iou_rule: str = "variable",
) -> SearchResult:
    """Ranks the detections of every query's gallery.

    Args:
      task: Q queries with galleries.
      answers: for each query in turn, the detections of all scenes (already cut at the score threshold) and
        their similarities to the query. The table is the same for all queries, unless detection itself
        depends on the query.
      iou_rule: "variable", min(0.5, wh / ((w + 10)(h + 10))) with the annotated box's size in original
        pixels, or "fixed", 0.5.

    Returns:
      One ranking a query.
    """
    if iou_rule not in IOU_RULES:
        raise ConfigError(f"eval.iou: {iou_rule!r} is unknown; choose one of {', '.join(IOU_RULES)}")
    rankings = [
        rank(items, table, similarity, iou_rule, task.released_ties)
        for items, (table, similarity) in zip(task.items, answers, strict=True)
    ]
    return SearchResult(tuple(rankings))


def rank(
    items: SearchItems,
    table: DetectionTable,
    similarity: Float[np.ndarray, " rows"],
    iou_rule: str,
    released_ties: bool = False,
) -> Ranking:
    """The ranking of one query; arguments as in `evaluate_search` and `SearchTask`."""
    rows, bounds = gallery_rows(items.scene, table)
    similarity = similarity[rows]
    correct = np.zeros(len(rows), bool)
    thresholds = iou_thresholds(items.box, iou_rule)
    found = 0
    for positive, box, threshold in zip(items.positive, items.box, thresholds, strict=True):
        here = slice(bounds[positive], bounds[positive + 1])
        overlaps = pairwise_iou(box[None], table.box[rows[here]])[0] >= threshold
        if overlaps.any():
            # The first maximum of a stable descending order, without sorting.
            best = np.argmax(np.where(overlaps, similarity[here], -np.inf))
            correct[here.start + best] = True
            found += 1
    total = int(items.weight.sum())
    order = np.argsort(similarity)[::-1][: max(TOP)] if released_ties else first_rows(similarity, max(TOP))
    ap = average_precision(correct, similarity) * found / total if found else 0.0
    hits = tuple(bool(correct[order[:k]].any()) for k in TOP)
    scene = items.scene[np.searchsorted(bounds, order, side="right") - 1]
    return Ranking(ap, hits, found, total, table.box[rows[order]], scene, similarity[order], correct[order])


def first_rows(similarity: Float[np.ndarray, " rows"], count: int) -> Int[np.ndarray, " first"]:
    """The rows of the `count` largest similarities, largest first; of equal ones the earlier row."""
    candidates = np.arange(len(similarity))
    if len(similarity) > count:
        least = np.partition(similarity, -count)[-count]
        candidates = np.flatnonzero(similarity >= least)
    return candidates[np.argsort(-similarity[candidates], kind="stable")[:count]]


def gallery_rows(
    scene: Int[np.ndarray, " items"], table: DetectionTable
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " bounds"]]:
    """Rows of the table for a list of scenes, scene after scene, and where each scene begins and ends."""
    first = table.start[scene]
    count = table.start[scene + 1] - first
    bounds = np.concatenate([[0], np.cumsum(count)])
    return np.repeat(first - bounds[:-1], count) + np.arange(bounds[-1]), bounds


def iou_thresholds(box: Float[np.ndarray, "people 4"], rule: str) -> Float[np.ndarray, " people"]:
    """The overlap a detection needs with each annotated box (original pixels): less for small people."""
    if rule == "fixed":
        return np.full(len(box), 0.5)
    width, height = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    return np.minimum(0.5, width * height / ((width + 10) * (height + 10)))


def similarity_rows(
    query: Float[np.ndarray, "queries width"], feature: Float[np.ndarray, "rows width"], block: int = 256
) -> Iterable[Float[np.ndarray, " rows"]]:
    """Similarities of each query in turn to all gallery features, one matrix product for `block` queries."""
    for start in range(0, len(query), block):
        yield from query[start : start + block] @ feature.T
