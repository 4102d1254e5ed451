"""Non-maximum suppression in plain JAX, in a form for processors and one for devices that work in parallel.

Both give the same answer to the last box: overlaps come from one function, in float32, and whether a box stands
depends on nothing but comparisons.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kernels._overlap import intersection_and_union

TILE = 2048


def _round_down(threshold: float) -> np.float32:
    """The largest float32 that is not above a threshold.

    A float32 overlap exceeds the threshold in double precision exactly if it exceeds this number.
    """
    rounded = np.float32(threshold)
    if float(rounded) > threshold:
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    return rounded


def _conflicts(a, classes_a, b, classes_b, threshold):
    """Whether boxes of the same class overlap by more than the threshold, broadcast."""
    intersection, union = intersection_and_union(a, b)
    overlaps = intersection / jnp.where(union > 0, union, 1.0) > _round_down(threshold)
    return overlaps & (classes_a == classes_b)


def suppress_greedily(
    boxes: Float[Array, "boxes 4"],
    classes: Int[Array, " boxes"],
    valid: Bool[Array, " boxes"],
    iou_threshold: float,
    max_kept: int,
) -> Bool[Array, " boxes"]:
    """Takes the first box that is left and strikes out what it suppresses, as often as boxes are kept.

    As many short steps as boxes stand: the less work, and on a GPU as many waits.

    Args:
      boxes: f32[N, 4], best first.
      classes: i32[N].
      valid: bool[N].
      iou_threshold: a Python number.
      max_kept: stop when so many are kept.

    Returns:
      bool[N], the boxes that stand.
    """
    index = jnp.arange(boxes.shape[0])

    def unfinished(state):
        left, _, kept = state
        return jnp.any(left) & (kept < max_kept)

    def take(state):
        left, keep, kept = state
        best = jnp.argmax(left)
        # Under vmap this also runs, idly, for those that are finished.
        found = left[best] & (kept < max_kept)
        strikes = _conflicts(boxes, classes, boxes[best], classes[best], iou_threshold) | (index == best)
        return left & ~(strikes & found), keep.at[best].max(found), kept + found

    state = valid, jnp.zeros_like(valid), jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(unfinished, take, state)[1]


def suppress_by_tiles(
    boxes: Float[Array, "boxes 4"],
    classes: Int[Array, " boxes"],
    valid: Bool[Array, " boxes"],
    iou_threshold: float,
    max_kept: int,
) -> Bool[Array, " boxes"]:
    """Settles tiles of boxes one after the other, all boxes of a tile together; arguments as `suppress_greedily`.

    Within a tile a box stands if no standing box suppresses it. From "all stand", each round settles at least
    the next box in the order of scores, so a round that changes nothing has found the only answer. The number
    of rounds is that of the longest chain "a suppresses b, which would have suppressed c, ...": a few. What
    stands in a tile then strikes out boxes of the tiles after it.
    """
    count = boxes.shape[0]
    tiles = math.ceil(count / TILE)
    tile = math.ceil(count / tiles)
    # Put together at the end: on jax 0.11 XLA dies in compiling a slice assignment of booleans under `pmap`.
    kept = []
    left = valid  # of this tile and those after it
    for start in range(0, count, tile):
        mine, mine_classes = boxes[start : start + tile], classes[start : start + tile]
        after, after_classes = boxes[start + tile :], classes[start + tile :]
        candidates, left = left[:tile], left[tile:]
        earlier = jnp.tril(jnp.ones((mine.shape[0], mine.shape[0]), bool), -1)
        # In rows the box that may be suppressed, in columns the one that may suppress it.
        suppresses = earlier & _conflicts(
            mine[:, None], mine_classes[:, None], mine[None], mine_classes[None], iou_threshold
        )

        def unsettled(state):
            stands, previous = state
            return jnp.any(stands != previous)

        def one_round(state, suppresses=suppresses, candidates=candidates):
            stands, _ = state
            return candidates & ~jnp.any(suppresses & stands, axis=1), stands

        stands, _ = jax.lax.while_loop(unsettled, one_round, (candidates, jnp.zeros_like(candidates)))
        kept.append(stands)
        if after.shape[0]:
            struck = _conflicts(
                after[:, None], after_classes[:, None], mine[None], mine_classes[None], iou_threshold
            )
            left &= ~jnp.any(struck & stands, axis=1)
    keep = jnp.concatenate(kept)
    return keep & (jnp.cumsum(keep) <= max_kept)
