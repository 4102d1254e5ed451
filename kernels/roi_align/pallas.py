"""RoIAlign by the kernel for sums of rows: one program a bin.

With two samples an axis a bin reads sixteen cells, but a bin smaller than a cell reads the same few again and
again: equal taps of an axis are joined before, and four to nine reads are left of the sixteen.

On a GPU the fastest possible is the copy of the result; beyond that the kernel reads what neighbouring bins
share once more from the second cache. `benchmarks/gpu_check.py` measures how far it is from that.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels._launch import Mode
from kernels._row_sums import row_sums
from kernels.roi_align._taps import Taps


def pool_with_kernel(
    table: Float[Array, "row channel"], taps: Taps, dtype: jnp.dtype, mode: Mode
) -> Float[Array, "roi out_height out_width channel"]:
    """The sums of `xla.pool_at_once`, in the type that is asked for."""
    rows_y, weights_y = _join(taps.rows_y, taps.weights_y, taps.counts_y)
    rows_x, weights_x = _join(taps.rows_x, taps.weights_x, taps.counts_x)
    rows_y, rows_x = rows_y[..., :, None], rows_x[..., None, :]
    rows = jnp.where((rows_y >= 0) & (rows_x >= 0), rows_y + rows_x, -1)
    weights = weights_y[..., :, None] * weights_x[..., None, :]
    count, bins_y, bins_x, *tap = rows.shape
    per_bin = (count * bins_y * bins_x, tap[0] * tap[1])
    sums = row_sums(table, rows.reshape(per_bin), weights.reshape(per_bin), dtype=dtype, mode=mode)
    return sums.reshape(count, bins_y, bins_x, table.shape[1])


def _join(rows, weights, counts):
    """Adds up the weights of equal taps that count and moves them to the front; -1 where nothing is left.

    The gradient flows to all of them, also to those whose weight happens to be zero.
    """
    taps = rows.shape[-1]
    same = (rows[..., :, None] == rows[..., None, :]) & counts[..., :, None] & counts[..., None, :]
    is_first = counts & ~jnp.any(same & jnp.tril(jnp.ones((taps, taps), bool), -1), axis=-1)
    rank = jnp.cumsum(is_first, axis=-1) - 1
    place = jnp.sum(jnp.where(same & is_first[..., None, :], rank[..., None, :], 0), axis=-1)
    goes = counts[..., :, None] & (place[..., :, None] == jnp.arange(taps))  # [..., tap, place]
    joined = jnp.max(jnp.where(goes, rows[..., :, None], -1), axis=-2)
    return joined, jnp.sum(jnp.where(goes, weights[..., :, None], 0), axis=-2)
