"""Deformable convolution as products of matrices: the samples of a tile of output positions, times the kernel."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels._bilinear import Neighbours, find_neighbours

TILE_BYTES = 16 * 2**20  # samples of one tile, in float32


def convolve_tiles(
    features: Float[Array, "batch height width in_channel"],
    offset: Float[Array, "batch out_height out_width offset_group tap 2"],
    mask: Float[Array, "batch out_height out_width offset_group tap"] | None,
    kernel: Float[Array, "tap_y tap_x group_channel out_channel"],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    sample: Callable[[jax.Array, Neighbours], jax.Array],
) -> Float[Array, "batch out_height out_width out_channel"]:
    """The contract of `deform_conv`, arguments checked and of one type, without bias.

    Args:
      features, offset, mask, kernel, stride, padding, dilation: as there, axes split.
      sample: values of a table at neighbours, `kernels._bilinear.gather_samples` or its kernel.

    Returns:
      f[B, h, w, O].
    """
    batch, height, width, channels = features.shape
    out_height, out_width, offset_groups, taps = offset.shape[1:5]
    columns, group_channels, out_channels = kernel.shape[1:]
    groups = channels // group_channels
    # Every offset group samples its own block of channels, in memory as if it were one more axis of columns:
    # cell * offset_groups + group is its row.
    table = features.reshape(-1, channels // offset_groups)
    group = jnp.arange(offset_groups, dtype=jnp.int32)[:, None]  # beside the four neighbours
    tap_y, tap_x = (jnp.arange(taps) // columns)[:, None], (jnp.arange(taps) % columns)[:, None]
    kernel = kernel.reshape(taps, group_channels, groups, out_channels // groups)

    @jax.checkpoint  # the gradient samples again, tile by tile
    def convolve_tile(tile):
        place, offset, mask = tile
        row, column = place // out_width % out_height, place % out_width
        y = (row * stride[0] - padding[0])[:, None, None] + tap_y * dilation[0] + offset[..., 0]
        x = (column * stride[1] - padding[1])[:, None, None] + tap_x * dilation[1] + offset[..., 1]
        image = (place // (out_height * out_width))[:, None, None]
        cells, weights = find_neighbours(y, x, image, (height, width))
        if mask is not None:
            weights = weights * mask[..., None]
        rows = jnp.where(cells >= 0, cells * offset_groups + group, -1)
        sampled = sample(table, Neighbours(rows, weights)).reshape(-1, taps, groups, group_channels)
        return jnp.einsum("ptgc,tcgo->pgo", sampled, kernel)

    positions = batch * out_height * out_width
    if positions == 0:
        return jnp.zeros((batch, out_height, out_width, out_channels), features.dtype)
    size = math.ceil(positions / math.ceil(positions * taps * channels * 4 / TILE_BYTES))
    tiles = math.ceil(positions / size)

    def split(array):
        """[B, h, w, offset group, tap, ...] -> [tile, position, tap, offset group, ...]."""
        array = jnp.swapaxes(array, 3, 4).reshape(positions, taps, offset_groups, *array.shape[5:])
        array = jnp.pad(array, [(0, tiles * size - positions)] + [(0, 0)] * (array.ndim - 1))
        return array.reshape(tiles, size, *array.shape[1:])

    # The last tile's surplus convolves the last position again, and is cut off.
    place = jnp.minimum(jnp.arange(tiles * size, dtype=jnp.int32), positions - 1).reshape(tiles, size)
    result = jax.lax.map(convolve_tile, (place, split(offset), None if mask is None else split(mask)))
    return result.reshape(tiles * size, out_channels)[:positions].reshape(
        batch, out_height, out_width, out_channels
    )
