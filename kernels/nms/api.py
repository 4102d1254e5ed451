"""Non-maximum suppression: exact, with fixed shapes.

Boxes are f32[N, 4] `xyxy` in pixels, scores f32[N], `valid` bool[N]; the result is bool[N] in the order of
the input. Equal to torchvision's `nms` and `batched_nms` on the CPU, box by box:

- boxes are visited by falling score, of equal scores the lower index first;
- a box that stands is kept and suppresses every later box whose intersection over union with it is strictly
  greater than the threshold; areas and overlap are float32, the threshold is compared in full precision;
- entries that are not valid are never kept and suppress nothing; a box without area overlaps nothing.

With `max_kept`, only the best so many of the standing boxes are kept; the others count as suppressed.

All functions can be jitted and vmapped. There are no gradients: the result is boolean.

Forms, the same to the box: `suppress_greedily`, one box a step, for processors; `suppress_by_tiles`, many boxes a
step, for GPUs. There is no hand-written kernel, as none has been measured to be quicker.
"""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels._implementation import check_implementation, run_form
from kernels.nms.xla import suppress_by_tiles, suppress_greedily


def nms(
    boxes: Float[Array, "boxes 4"],
    scores: Float[Array, " boxes"],
    valid: Bool[Array, " boxes"],
    iou_threshold: float,
    implementation: str | None = None,
    max_kept: int | None = None,
) -> Bool[Array, " boxes"]:
    """Keeps the best-scored box of every heap of overlapping boxes.

    Args:
      boxes: f32[N, 4], `xyxy` pixels.
      scores: f32[N].
      valid: bool[N], false for padding.
      iou_threshold: boxes that overlap by more than this suppress each other; a Python number.
      implementation: None or "xla".
      max_kept: keep at most so many, the best; None: all that stand.

    Returns:
      bool[N], the boxes that stand.

    Raises:
      ValueError: if `implementation` is another one, or `max_kept` is less than 1.
    """
    return _suppress("nms", boxes, scores, None, valid, iou_threshold, max_kept, implementation)


def batched_nms(
    boxes: Float[Array, "boxes 4"],
    scores: Float[Array, " boxes"],
    classes: Int[Array, " boxes"],
    valid: Bool[Array, " boxes"],
    iou_threshold: float,
    by_offset: bool = False,
    implementation: str | None = None,
    max_kept: int | None = None,
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
      max_kept: keep at most so many, the best; None: all that stand.

    Returns:
      bool[N], the boxes that stand.

    Raises:
      ValueError: if `implementation` is another one, or `max_kept` is less than 1.
    """
    if by_offset:
        largest = jnp.max(boxes, initial=-jnp.inf, where=valid[:, None])
        largest = jnp.where(jnp.any(valid), largest, 0.0)
        boxes = boxes + (classes.astype(boxes.dtype) * (largest + 1))[:, None]
    by_class = None if by_offset else classes
    return _suppress("batched_nms", boxes, scores, by_class, valid, iou_threshold, max_kept, implementation)


def _suppress(operation, boxes, scores, classes, valid, iou_threshold, max_kept, implementation):
    check_implementation(operation, implementation, has_kernel=False)
    if max_kept is not None and max_kept < 1:
        raise ValueError(f"max_kept is {max_kept}, wanted 1 or more, or None")
    count = boxes.shape[0]
    if count == 0:
        return valid
    classes = jnp.zeros(count, jnp.int32) if classes is None else classes
    # Best first, of equal scores the lower index, padding last.
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
    options = {"iou_threshold": iou_threshold, "max_kept": count if max_kept is None else max_kept}
    forms = {
        "greedy": functools.partial(suppress_greedily, **options),
        "tiles": functools.partial(suppress_by_tiles, **options),
    }
    arrays = boxes.astype(jnp.float32)[order], classes[order], valid[order]
    keep = run_form("nms", implementation, forms, *arrays)
    return jnp.zeros_like(valid).at[order].set(keep)
