"""Overlap and average precision, which detection and search are measured by, in float64 on the host."""

import numpy as np
from jaxtyping import Bool, Float


def pairwise_iou(
    first: Float[np.ndarray, "rows 4"], second: Float[np.ndarray, "columns 4"]
) -> Float[np.ndarray, "rows columns"]:
    """Intersection over union of every pair of (x1, y1, x2, y2) boxes in float64.

    Continuous coordinates (no +1), negative extents count as empty, and a pair of empty boxes overlaps by 0.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    extent = np.clip(np.minimum(first[:, None, 2:], second[None, :, 2:]) - corner, 0, None)
    intersection = extent[..., 0] * extent[..., 1]
    area_first = (first[:, 2] - first[:, 0]) * (first[:, 3] - first[:, 1])
    area_second = (second[:, 2] - second[:, 0]) * (second[:, 3] - second[:, 1])
    union = area_first[:, None] + area_second[None] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def precision_recall(
    correct: Bool[np.ndarray, " ranked"], score: Float[np.ndarray, " ranked"]
) -> tuple[Float[np.ndarray, " thresholds"], Float[np.ndarray, " thresholds"]]:
    """Precision and recall at every distinct score, from the highest down.

    Args:
      correct: bool[ranked].
      score: f[ranked], higher ranks first; equal scores form one threshold.

    Returns:
      precision f64[thresholds], recall f64[thresholds] relative to the correct ones in the list (as
      scikit-learn). Both empty where nothing is correct.
    """
    total = int(np.sum(correct))
    if total == 0:
        return np.zeros(0), np.zeros(0)
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    hits = np.cumsum(correct[order], dtype=np.float64)[ends]
    return hits / (ends + 1), hits / total


def average_precision(correct: Bool[np.ndarray, " ranked"], score: Float[np.ndarray, " ranked"]) -> float:
    """Sum over distinct scores of (R_k - R_(k-1)) P_k, not interpolated; 0 where nothing is correct.

    Equal to scikit-learn's `average_precision_score`.
    """
    # Only scores of right answers raise the recall, and two sorts of numbers cost less than one of indices.
    right, all_scores = np.sort(score[correct]), np.sort(score)
    if not len(right):
        return 0.0
    threshold = np.unique(right)[::-1]
    hits = len(right) - np.searchsorted(right, threshold)
    taken = len(all_scores) - np.searchsorted(all_scores, threshold)
    return float(np.sum(np.diff(hits, prepend=0) / len(right) * (hits / taken)))
