"""3x3 convolutions with fewer products (Winograd's minimal filtering, Lavin and Gray, CVPR 2016, F(2x2, 3x3)).

Every 2x2 outputs come from a 4x4 tile of the input by 16 products a pair of channels instead of 36. The small
transforms before and after only add and halve, so in float32 the result is as exact as sums of 9 products, to a few
roundings.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Square = list[list[Array]]


def winograd_convolve(
    x: Float[Array, "batch height width channel"],
    kernel: Float[Array, "3 3 channel features"],
    padding: tuple[int, int],
) -> Float[Array, "batch out_height out_width features"]:
    """Convolves with stride 1, without dilation.

    Args:
      x: features.
      kernel: the kernel.
      padding: zeros on each side, (vertical, horizontal).
    """
    batch, height, width, channels = x.shape
    out = height + 2 * padding[0] - 2, width + 2 * padding[1] - 2
    tiles = -(-out[0] // 2), -(-out[1] // 2)
    # Whole tiles: up to one row and one column more than the padding asks for
    after = [2 * n + 2 - size - p for n, size, p in zip(tiles, (height, width), padding, strict=True)]
    x = jnp.pad(x, ((0, 0), (padding[0], after[0]), (padding[1], after[1]), (0, 0)))
    entries = [
        [x[:, i : i + 2 * tiles[0] - 1 : 2, j : j + 2 * tiles[1] - 1 : 2] for j in range(4)] for i in range(4)
    ]
    seen = _both_axes(_transform_input, entries)
    weights = _both_axes(_transform_kernel, [[kernel[i, j] for j in range(3)] for i in range(3)])
    products = [
        [
            jnp.matmul(seen[i][j].reshape(-1, channels), weights[i][j], preferred_element_type=jnp.float32)
            for j in range(4)
        ]
        for i in range(4)
    ]
    result = jnp.stack([jnp.stack(row, axis=1) for row in _both_axes(_transform_output, products)], axis=1)
    result = result.reshape(batch, *tiles, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return result.reshape(batch, 2 * tiles[0], 2 * tiles[1], -1)[:, : out[0], : out[1]].astype(x.dtype)


def _both_axes(transform: Callable[[Sequence[Array]], list[Array]], square: Square) -> Square:
    """Transforms each row, then each column."""
    rows = [transform(row) for row in square]
    columns = [transform([row[j] for row in rows]) for j in range(len(rows[0]))]
    return [[column[i] for column in columns] for i in range(len(columns[0]))]


def _transform_input(d: Sequence[Array]) -> list[Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _transform_kernel(g: Sequence[Array]) -> list[Array]:
    ends, middle = 0.5 * (g[0] + g[2]), 0.5 * g[1]
    return [g[0], ends + middle, ends - middle, g[2]]


def _transform_output(m: Sequence[Array]) -> list[Array]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def transposed(kernel: Float[Array, "3 3 channel features"]) -> Float[Array, "3 3 features channel"]:
    """The kernel of the convolution, padded by 2 less, that takes an output's gradient to the input's."""
    return jax.lax.rev(kernel, (0, 1)).swapaxes(2, 3)
