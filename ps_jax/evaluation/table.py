"""Detections of a whole partition in one flat table."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class DetectionTable(NamedTuple):
    """All detections of S scenes, the rows of one scene next to each other, best score first.

    Attributes:
      start: i64[S + 1]; rows start[s] : start[s + 1] belong to scene s.
      box: f64[rows, 4] in pixels of the original picture.
      score: f64[rows].
      embedding: f[rows, width] as the model makes it; width 0 where similarities are kept instead.
    """

    start: Int[np.ndarray, " bounds"]
    box: Float[np.ndarray, "rows 4"]
    score: Float[np.ndarray, " rows"]
    embedding: Float[np.ndarray, "rows width"]

    def rows(self, scene: int | np.integer) -> slice:
        """The rows of scene number `scene`."""
        return slice(int(self.start[scene]), int(self.start[scene + 1]))

    def above(self, threshold: float) -> "DetectionTable":
        """The detections of score >= `threshold`, both as float32, which is what models give."""
        keep = self.score >= np.float32(threshold)
        kept_before = np.concatenate([[0], np.cumsum(keep)])
        return DetectionTable(kept_before[self.start], self.box[keep], self.score[keep], self.embedding[keep])


def empty_table(scenes: int) -> DetectionTable:
    """A table of scenes in which nobody was detected."""
    return DetectionTable(np.zeros(scenes + 1, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros((0, 0)))


def make_table(scenes: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> DetectionTable:
    """Table of per-scene (box [n, 4], score [n], embedding [n, width]) in the order given."""
    box, score, embedding = (list(column) for column in zip(*scenes, strict=True))
    start = np.cumsum([0] + [len(one) for one in score], dtype=np.int64)
    return DetectionTable(
        start,
        np.concatenate(box).astype(np.float64).reshape(-1, 4),
        np.concatenate(score).astype(np.float64),
        np.concatenate(embedding),
    )
