"""3x3 convolutions with fewer products (Winograd's minimal filtering, Lavin and Gray, CVPR 2016, F(2x2, 3x3)).

Every 2x2 outputs come from a 4x4 tile of the input by 16 products a pair of channels instead of 36, and so do the
gradients. The small transforms before and after only add and halve, so in float32 the result is as exact as sums of
9 products, to a few roundings.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Square = list[list[Array]]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
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
    batch, height, width, _ = x.shape
    out = height + 2 * padding[0] - 2, width + 2 * padding[1] - 2
    tiles = _tile_counts(out)
    seen, weights = _input_tiles(x, padding, tiles), _kernel_tile(kernel)
    products = [[_product(seen[i][j], weights[i][j]) for j in range(4)] for i in range(4)]
    result = jnp.stack([jnp.stack(row, axis=1) for row in _both_axes(_transform_output, products)], axis=1)
    result = result.reshape(batch, *tiles, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return result.reshape(batch, 2 * tiles[0], 2 * tiles[1], -1)[:, : out[0], : out[1]].astype(x.dtype)


def _forward(x, kernel, padding):
    return winograd_convolve(x, kernel, padding), (x, kernel)


def _backward(padding, saved, grad):
    """The forward pass's transforms, transposed, in reverse; tiles of the input overlap, so they are added up."""
    x, kernel = saved
    batch, height, width, channels = x.shape
    tiles = _tile_counts(grad.shape[1:3])
    seen, weights = _input_tiles(x, padding, tiles), _kernel_tile(kernel)
    rest = [2 * n - size for n, size in zip(tiles, grad.shape[1:3], strict=True)]
    grad = jnp.pad(grad, ((0, 0), (0, rest[0]), (0, rest[1]), (0, 0)))
    entries = [[grad[:, i::2, j::2].reshape(-1, grad.shape[3]) for j in range(2)] for i in range(2)]
    products = _both_axes(_transpose_output, entries)
    grad_weights = [[_product(seen[i][j].T, products[i][j]) for j in range(4)] for i in range(4)]
    grad_kernel = jnp.stack([jnp.stack(row) for row in _both_axes(_transpose_kernel, grad_weights)])
    grad_seen = [
        [_product(products[i][j], weights[i][j].T).reshape(batch, *tiles, channels) for j in range(4)]
        for i in range(4)
    ]
    tile = _both_axes(_transpose_input, grad_seen)

    def added(i, j):
        """Entry (i, j) of every 2x2 block of the padded input: of the tile there, and of those before it."""
        return sum(
            jnp.pad(tile[i + 2 * a][j + 2 * b], ((0, 0), (a, 1 - a), (b, 1 - b), (0, 0)))
            for a in range(2)
            for b in range(2)
        )

    blocks = jnp.stack([jnp.stack([added(i, j) for j in range(2)], axis=3) for i in range(2)], axis=2)
    grad_x = blocks.reshape(batch, 2 * tiles[0] + 2, 2 * tiles[1] + 2, channels)
    grad_x = grad_x[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
    return grad_x.astype(x.dtype), grad_kernel.astype(kernel.dtype)


winograd_convolve.defvjp(_forward, _backward)


def _tile_counts(out):
    return -(-out[0] // 2), -(-out[1] // 2)


def _input_tiles(x, padding, tiles):
    """The transformed entries of all 4x4 tiles, each [tile, channel]."""
    # Whole tiles: up to one row and one column more than the padding asks for
    after = [2 * n + 2 - size - p for n, size, p in zip(tiles, x.shape[1:3], padding, strict=True)]
    x = jnp.pad(x, ((0, 0), (padding[0], after[0]), (padding[1], after[1]), (0, 0)))
    entries = [
        [x[:, i : i + 2 * tiles[0] - 1 : 2, j : j + 2 * tiles[1] - 1 : 2] for j in range(4)] for i in range(4)
    ]
    return [[entry.reshape(-1, x.shape[3]) for entry in row] for row in _both_axes(_transform_input, entries)]


def _kernel_tile(kernel):
    return _both_axes(_transform_kernel, [[kernel[i, j] for j in range(3)] for i in range(3)])


def _product(a, b):
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


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


# The same three as matrices, transposed


def _transpose_input(v: Sequence[Array]) -> list[Array]:
    return [v[0], v[1] - v[2] + v[3], v[1] + v[2] - v[0], -v[3]]


def _transpose_kernel(u: Sequence[Array]) -> list[Array]:
    ends, middle = 0.5 * (u[1] + u[2]), 0.5 * (u[1] - u[2])
    return [u[0] + ends, middle, ends + u[3]]


def _transpose_output(y: Sequence[Array]) -> list[Array]:
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]
