"""RoIAlign as two products of matrices: first over the rows of the map, then over its columns.

Without offsets the bins of a box have the same vertical taps along a row of bins, so a box is
vertical [bin_y, height] * map * horizontal [width, bin_x]. All is matmul, its gradient too: no gather, no
scatter, the same result every time; and many products with zero.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.roi_align._taps import Taps

PRECISION = jax.lax.Precision.HIGHEST  # float32, also where the default is less


def pool_separably(
    levels: Sequence[jax.Array], taps: Taps
) -> Float[Array, "roi out_height out_width channel"]:
    """The sums of `xla.pool_at_once` over the same rows, without offsets.

    The rows of other images than a box's own are multiplied by zero, level by level: the work grows with the
    size of all maps together.
    """
    count, bins_y, bins_x = taps.rows_y.shape[0], taps.rows_y.shape[1], taps.rows_x.shape[2]
    channels = levels[0].shape[-1]
    total, begin = 0.0, 0
    for level in levels:
        batch, height, width, _ = level.shape
        line = (taps.rows_y[:, :, 0] - begin) // width  # which row of cells of all images of this level
        here = (taps.rows_y[:, :, 0] >= begin) & (line < batch * height)
        begin += batch * height * width
        vertical = _dense(jnp.where(here, line, -1), taps.weights_y[:, :, 0], batch * height)
        lines = _product("ly,yz->lz", vertical.reshape(count * bins_y, -1), level.reshape(batch * height, -1))
        horizontal = _dense(taps.rows_x[:, 0], taps.weights_x[:, 0], width)
        lines = lines.reshape(count, bins_y, width, channels)
        total += _product("rjx,rixc->rijc", horizontal, lines)
    return jnp.asarray(total).reshape(count, bins_y, bins_x, channels)


def _product(indices, a, b):
    return jnp.einsum(indices, a, b, precision=PRECISION)


def _dense(cells, weights, length):
    """Taps [roi, bin, tap] as a matrix [roi, bin, length]."""
    return jnp.sum((cells[..., None] == jnp.arange(length)) * weights[..., None], axis=2)
