"""Context bipartite graph matching (SeqNet, section 3.4): who walks beside the query helps to find the query.

The people around the query are matched one to one with the detections of a gallery scene. Where the query's
own partner comes out of that matching, its similarity is raised to the best similarity in the matching.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from ps_jax.errors import ConfigError
from ps_jax.evaluation.metrics import pairwise_iou
from ps_jax.evaluation.protocols import SearchItems
from ps_jax.evaluation.search import gallery_rows
from ps_jax.evaluation.table import DetectionTable


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
        if self.candidates not in ("detections", "scenes"):
            raise ConfigError(
                f'eval.cbgm.candidates: {self.candidates!r} is neither "detections" nor "scenes"'
            )

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
        rows, bounds = gallery_rows(items.scene, table)
        ranked = np.argsort(-similarity[rows], kind="stable")
        scenes = items.scene[np.searchsorted(bounds, ranked, side="right") - 1]
        if self.candidates == "detections":
            scenes = scenes[: self.k1]
        _, first = np.unique(scenes, return_index=True)
        changed = similarity.copy()
        for scene in scenes[np.sort(first)][: self.k1]:
            here = table.rows(int(scene))
            weights = context[: self.k2] @ feature[here].T
            people, detections = best_matching(weights)
            partner = detections[people == 0]
            if len(partner):
                changed[here.start + partner[0]] = weights[people, detections].max()
        return changed


def best_matching(
    weights: Float[np.ndarray, "left right"],
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Pairs (left, right) of the one-to-one matching of largest total weight; it uses up the smaller side."""
    return linear_sum_assignment(weights, maximize=True)


def context_rows(
    query_box: Float[np.ndarray, " 4"], box: Float[np.ndarray, "detections 4"]
) -> Int[np.ndarray, " kept"]:
    """Detections of the query's scene that are somebody else: those overlapping the query by 0.5 or less.

    SeqNet puts the query box among the scene's detections with score 1, and non-maximum suppression at 0.5
    then removes the detections of the query itself.
    """
    return np.flatnonzero(pairwise_iou(query_box[None], box)[0] <= 0.5)
