"""Which annotated box an anchor or proposal stands for."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

BACKGROUND = -1
"""Matched to no box: a negative example."""
IGNORED = -2
"""Overlaps too much for a negative and too little for a positive example."""


def match_anchors(
    iou: Float[Array, "boxes anchors"],
    gt_valid: Bool[Array, " boxes"],
    high: float,
    low: float,
    allow_low_quality: bool,
    least: float = 0.0,
) -> Int[Array, " anchors"]:
    """Matches every anchor with an annotated box by overlap, as torchvision's Matcher.

    An anchor's best box counts if they overlap by `high` or more; below `low` the anchor is background,
    between the two it is ignored. With `allow_low_quality`, every anchor that ties for the best overlap with
    some box also keeps its own best box, however small that overlap is.

    Args:
      iou: f32[N, M], overlap of annotated boxes (rows) with anchors (columns).
      gt_valid: bool[N], false for padding.
      high: least overlap of a match.
      low: least overlap of an anchor that is not background.
      allow_low_quality: whether a box keeps its best anchors even below `high`.
      least: overlap that these must have.

    Returns:
      i32[M]: a row of `iou`, `BACKGROUND` or `IGNORED`. Without any valid box all anchors are background.

    Raises:
      ValueError: if `low` is larger than `high`.
    """
    if low > high:
        raise ValueError(f"low is {low}, larger than high, which is {high}")
    if iou.shape[0] == 0:
        return jnp.full(iou.shape[1], BACKGROUND, jnp.int32)
    # One stored copy of the overlaps: recomputed in two fused loops they may round differently, and the test
    # for equality below would miss a box's best anchor.
    iou = jax.lax.optimization_barrier(jnp.where(gt_valid[:, None], iou, -1.0))
    best_iou = iou.max(axis=0)
    best_box = iou.argmax(axis=0).astype(jnp.int32)
    matched = jnp.where(best_iou < low, BACKGROUND, jnp.where(best_iou < high, IGNORED, best_box))
    if allow_low_quality:
        best_of_box = iou.max(axis=1, keepdims=True)
        is_best = jnp.any((iou == best_of_box) & (best_of_box >= least) & gt_valid[:, None], axis=0)
        matched = jnp.where(is_best, best_box, matched)
    return matched
