"""Non-maximum suppression: exact, with fixed shapes.

Boxes are f32[N, 4] `xyxy` in pixels, scores f32[N], `valid` bool[N]; the result is bool[N] in the order of
the input. Equal to torchvision's `nms` and `batched_nms` on the CPU, box by box:

- boxes are visited by falling score, of equal scores the lower index first;
- a box that stands is kept and suppresses every later box whose intersection over union with it is strictly
  greater than the threshold; areas and overlap are float32, the threshold is compared in full precision;
- entries that are not valid are never kept and suppress nothing; a box without area overlaps nothing.

All functions can be jitted and vmapped. There are no gradients: the result is boolean.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels._implementation import check_implementation
from kernels.nms.xla import suppress


def nms(
    boxes: Float[Array, "boxes 4"],
    scores: Float[Array, " boxes"],
    valid: Bool[Array, " boxes"],
    iou_threshold: float,
    implementation: str | None = None,
) -> Bool[Array, " boxes"]:
    """Keeps the best-scored box of every heap of overlapping boxes.

    Args:
      boxes: f32[N, 4], `xyxy` pixels.
      scores: f32[N].
      valid: bool[N], false for padding.
      iou_threshold: boxes that overlap by more than this suppress each other; a Python number.
      implementation: None or "xla".

    Returns:
      bool[N], the boxes that stand.
    """
    check_implementation("nms", implementation)
    return suppress(boxes, scores, None, valid, iou_threshold)


def batched_nms(
    boxes: Float[Array, "boxes 4"],
    scores: Float[Array, " boxes"],
    classes: Int[Array, " boxes"],
    valid: Bool[Array, " boxes"],
    iou_threshold: float,
    by_offset: bool = False,
    implementation: str | None = None,
) -> Bool[Array, " boxes"]:
    """`nms` in which only boxes of the same class (or pyramid level, or image) suppress each other.

    Args:
      boxes: f32[N, 4], `xyxy` pixels.
      scores: f32[N].
      classes: i32[N].
      valid: bool[N], false for padding.
      iou_threshold: boxes that overlap by more than this suppress each other; a Python number.
      by_offset: instead of comparing classes, move the boxes of each class away from those of the others by
        a multiple of the largest coordinate, as torchvision does with up to 1000 boxes on the CPU. The moved
        coordinates are rounded, so overlaps close to the threshold can fall on the other side.
      implementation: None or "xla".

    Returns:
      bool[N], the boxes that stand.
    """
    check_implementation("batched_nms", implementation)
    if not by_offset:
        return suppress(boxes, scores, classes, valid, iou_threshold)
    largest = jnp.max(boxes, initial=-jnp.inf, where=valid[:, None])
    largest = jnp.where(jnp.any(valid), largest, 0.0)
    moved = boxes + (classes.astype(boxes.dtype) * (largest + 1))[:, None]
    return suppress(moved, scores, None, valid, iou_threshold)
