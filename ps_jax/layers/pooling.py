"""Pooling of feature maps with PyTorch's windows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def max_pool(
    x: Float[Array, "batch height width channel"], window: int, stride: int, padding: int
) -> Float[Array, "batch out_height out_width channel"]:
    """Largest value in square windows, padded by minus infinity on all sides, as PyTorch's `max_pool2d`.

    Args:
      x: f[B, H, W, C].
      window: side of a window, in cells.
      stride: distance of windows.
      padding: cells added on each side.

    Returns:
      f[B, h, w, C].
    """
    return nn.max_pool(x, (window, window), (stride, stride), [(padding, padding)] * 2)


def _bins(length: int, count: int) -> list[tuple[int, int]]:
    """Begin and end of `count` bins over `length` cells; bins overlap where they do not divide evenly."""
    return [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]


def adaptive_average_pool(
    x: Float[Array, "batch height width channel"], size: tuple[int, int]
) -> Float[Array, "batch out_height out_width channel"]:
    """Mean over an even division of the map into bins, as PyTorch's `adaptive_avg_pool2d`.

    Args:
      x: f[B, H, W, C].
      size: (height, width) of the result.

    Returns:
      f[B, height, width, C]; sums are float32.
    """
    matrices = []
    for length, count in zip(x.shape[1:3], size, strict=True):
        matrix = np.zeros((count, length), np.float32)
        for row, (begin, end) in enumerate(_bins(length, count)):
            matrix[row, begin:end] = 1 / (end - begin)
        matrices.append(matrix)
    pooled = jnp.einsum(
        "ih,bhwc,jw->bijc",
        matrices[0],
        x.astype(jnp.float32),
        matrices[1],
        precision=jax.lax.Precision.HIGHEST,
    )
    return pooled.astype(x.dtype)


def adaptive_max_pool(
    x: Float[Array, "batch height width channel"], size: tuple[int, int]
) -> Float[Array, "batch out_height out_width channel"]:
    """Largest value over an even division of the map into bins, as PyTorch's `adaptive_max_pool2d`.

    The gradient goes to the first of several equal values, in reading order.

    Args:
      x: f[B, H, W, C].
      size: (height, width) of the result.

    Returns:
      f[B, height, width, C].
    """

    def largest(top, bottom, left, right):
        cells = x[:, top:bottom, left:right].reshape(x.shape[0], -1, x.shape[-1])
        index = jnp.argmax(cells, axis=1, keepdims=True)
        return jnp.take_along_axis(cells, index, axis=1)[:, 0]

    columns = _bins(x.shape[2], size[1])
    return jnp.stack(
        [
            jnp.stack([largest(*row, *column) for column in columns], axis=1)
            for row in _bins(x.shape[1], size[0])
        ],
        axis=1,
    )
