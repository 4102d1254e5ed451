"""RoIAlign in plain JAX: a gather of the cells around all samples of a box, weighted and summed.

Two forms of the same sums: one box after the other, so that memory does not grow with their number, and all
boxes at once, for devices that want much work at a time.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.roi_align._taps import Taps


def _pool_one(table, taps: Taps):
    """One box: [row, channel] table, taps without the axis of the boxes -> [bin_y, bin_x, channel]."""
    patch = table[taps.rows_y[..., :, None] + taps.rows_x[..., None, :]]
    weights = taps.weights_y[..., :, None] * taps.weights_x[..., None, :]
    return jnp.sum(patch * weights[..., None], axis=(2, 3))


def pool_one_by_one(
    table: Float[Array, "row channel"], taps: Taps
) -> Float[Array, "roi out_height out_width channel"]:
    """Visits the boxes in turn."""
    return jax.lax.map(lambda taps: _pool_one(table, taps), taps)


def pool_at_once(
    table: Float[Array, "row channel"], taps: Taps
) -> Float[Array, "roi out_height out_width channel"]:
    """Visits all boxes together."""
    return jax.vmap(_pool_one, in_axes=(None, 0))(table, taps)
