"""Non-maximum suppression in plain JAX: all overlaps at once, then as many rounds as chains are long."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kernels._overlap import intersection_and_union


def _round_down(threshold: float) -> np.float32:
    """The largest float32 that is not above a threshold.

    A float32 overlap exceeds the threshold in double precision exactly if it exceeds this number.
    """
    rounded = np.float32(threshold)
    if float(rounded) > threshold:
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    return rounded


def suppress(
    boxes: Float[Array, "boxes 4"],
    scores: Float[Array, " boxes"],
    classes: Int[Array, " boxes"] | None,
    valid: Bool[Array, " boxes"],
    iou_threshold: float,
) -> Bool[Array, " boxes"]:
    """The contract of `nms`; with `classes`, boxes of different classes do not suppress each other."""
    index = jnp.arange(boxes.shape[0])
    boxes = boxes.astype(jnp.float32)
    intersection, union = intersection_and_union(boxes[:, None], boxes[None, :])
    # In rows the box that may be suppressed, in columns the one that may suppress it.
    overlaps = intersection / jnp.where(union > 0, union, 1.0) > _round_down(iou_threshold)
    earlier = (scores[None, :] > scores[:, None]) | (
        (scores[None, :] == scores[:, None]) & (index[None, :] < index[:, None])
    )
    suppresses = overlaps & earlier & valid[None, :]
    if classes is not None:
        suppresses &= classes[None, :] == classes[:, None]

    # A box stands if no standing box suppresses it. From "all stand", each round settles at least the next
    # box in the order of scores, so a round that changes nothing has found the only answer. The number of
    # rounds is that of the longest chain "a suppresses b, which would have suppressed c, ...": a few.
    def unsettled(state):
        keep, previous = state
        return jnp.any(keep != previous)

    def one_round(state):
        keep, _ = state
        return valid & ~jnp.any(suppresses & keep[None, :], axis=1), keep

    keep, _ = jax.lax.while_loop(unsettled, one_round, (valid, jnp.zeros_like(valid)))
    return keep
