"""Context bipartite graph matching (SeqNet, section 3.4): who walks beside the query helps to find the query.

The people around the query are matched one to one with the detections of a gallery scene. Where the query's
own partner comes out of that matching, its similarity is raised to the best similarity in the matching.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from ps_jax.errors import ConfigError
from ps_jax.evaluation.metrics import pairwise_iou
from ps_jax.evaluation.protocols import SearchItems
from ps_jax.evaluation.search import first_rows, gallery_rows
from ps_jax.evaluation.similarity import unit_rows
from ps_jax.evaluation.table import DetectionTable

CANDIDATES = ("detections", "scenes")  # the first as released, the second as in the paper


@dataclass(frozen=True)
class ContextMatching:
    """Settings of the matching.

    Attributes:
      k1: how many of the most similar candidates name the scenes that are looked at again.
      k2: people of the query's scene that take part, the query included.
      candidates: "detections" as in the released code, where several of the k1 may share a scene; "scenes" as
        in the paper, the k1 scenes of the most similar detection.
    """

    k1: int
    k2: int
    candidates: str = "detections"

    def __post_init__(self):
        if self.k1 < 1 or self.k2 < 1:
            raise ConfigError(
                f"eval.cbgm: k1 = {self.k1} and k2 = {self.k2} must both be at least 1 (or both 0: off)"
            )
        if self.candidates not in CANDIDATES:
            raise ConfigError(
                f'eval.cbgm.candidates: {self.candidates!r} is neither "detections" nor "scenes"'
            )

    @property
    def words(self) -> str:
        """The settings as every result prints them."""
        return f"k1={self.k1} k2={self.k2} candidates={self.candidates}"

    def rematch(
        self,
        items: SearchItems,
        table: DetectionTable,
        similarity: Float[np.ndarray, " rows"],
        feature: Float[np.ndarray, "rows width"],
        context: Float[np.ndarray, "people width"],
    ) -> Float[np.ndarray, " rows"]:
        """Similarities of one query after the matching.

        Args:
          items: the query's gallery.
          table: all detections above the score threshold.
          similarity: f64[rows] of the table to the query.
          feature: f64[rows, width], gallery features, weighted by score where the similarity is.
          context: f64[people, width], unit features of the query's scene: the query first, then its
            detections by descending score.

        Returns:
          A changed copy of `similarity`.
        """
        changed = similarity.copy()
        for scene in self._scenes(items.scene, table, similarity):
            here = table.rows(scene)
            weights = context[: self.k2] @ feature[here].T
            people, detections = best_matching(weights)
            partner = detections[people == 0]
            if len(partner):
                changed[here.start + partner[0]] = weights[people, detections].max()
        return changed

    def _scenes(
        self, listed: Int[np.ndarray, " items"], table: DetectionTable, similarity: Float[np.ndarray, " rows"]
    ) -> list[int]:
        """The scenes to look at again, the one of the most similar detection first."""
        rows, bounds = gallery_rows(listed, table)
        similarity = similarity[rows]
        if self.candidates == "detections":
            first = first_rows(similarity, self.k1)
            return list(dict.fromkeys(listed[np.searchsorted(bounds, first, side="right") - 1].tolist()))
        occupied = np.flatnonzero(np.diff(bounds))  # an empty scene has no most similar detection
        best = np.maximum.reduceat(similarity, bounds[occupied]) if len(occupied) else similarity
        count = self.k1
        while True:
            scenes = list(dict.fromkeys(listed[occupied[first_rows(best, count)]].tolist()))
            if len(scenes) >= self.k1 or count >= len(best):
                return scenes[: self.k1]
            count *= 2  # some scenes are listed twice


def best_matching(
    weights: Float[np.ndarray, "left right"],
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Pairs (left, right) of the one-to-one matching of largest total weight; it uses up the smaller side."""
    return linear_sum_assignment(weights, maximize=True)


def context_features(
    vector: Float[np.ndarray, " width"],
    query_box: Sequence[float],
    table: DetectionTable,
    scene: int,
    k2: int,
    branches: int = 1,
) -> Float[np.ndarray, "people width"]:
    """Who is around a query: unit features of the query and of the others detected in its scene.

    Features are not weighted by the score here, whatever the similarity, as in the released code.

    Args:
      vector: f64[width], the query's unit feature.
      query_box: (x1, y1, x2, y2) of the query in pixels of the original picture.
      table: all detections above the score threshold.
      scene: number of the query's scene.
      k2: people asked for, the query included.
      branches: see `ps_jax.evaluation.similarity`.

    Returns:
      f64[people, width], at most `k2` rows: the query, then the others by descending score.
    """
    rows = table.rows(scene)
    others = context_rows(np.asarray(query_box, np.float64), table.box[rows])
    order = np.argsort(-table.score[rows][others], kind="stable")[: k2 - 1]
    return np.concatenate([vector[None], unit_rows(table.embedding[rows][others[order]], branches)])


def context_rows(
    query_box: Float[np.ndarray, " 4"], box: Float[np.ndarray, "detections 4"]
) -> Int[np.ndarray, " kept"]:
    """Detections of the query's scene that are somebody else: those overlapping the query by 0.5 or less.

    SeqNet puts the query box among the scene's detections with score 1, and non-maximum suppression at 0.5
    then removes the detections of the query itself.
    """
    return np.flatnonzero(pairwise_iou(query_box[None], box)[0] <= 0.5)
