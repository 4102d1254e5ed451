"""Resizing of feature maps with PyTorch's coordinates."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resize_nearest(
    x: Float[Array, "batch height width channel"], size: tuple[int, int]
) -> Float[Array, "batch out_height out_width channel"]:
    """Takes for each output cell i the input cell floor(i * input / output), as PyTorch's mode "nearest".

    Args:
      x: f[B, H, W, C].
      size: (height, width) of the result.

    Returns:
      f[B, height, width, C].
    """
    for axis, out_length in zip((1, 2), size, strict=True):
        length = x.shape[axis]
        scale = np.float32(length) / np.float32(out_length)
        index = np.floor(np.arange(out_length, dtype=np.float32) * scale).astype(np.int32)
        x = jnp.take(x, np.minimum(index, length - 1), axis=axis)
    return x


def resize_bilinear(
    x: Float[Array, "batch height width channel"], size: tuple[int, int], align_corners: bool = False
) -> Float[Array, "batch out_height out_width channel"]:
    """Linear interpolation along both axes, without smoothing, as PyTorch's mode "bilinear".

    Args:
      x: f[B, H, W, C].
      size: (height, width) of the result.
      align_corners: whether the centres of the outermost cells stay in place; else their outer edges do.

    Returns:
      f[B, height, width, C].
    """
    for axis, out_length in zip((1, 2), size, strict=True):
        length = x.shape[axis]
        cell = np.arange(out_length, dtype=np.float32)
        if align_corners:
            position = cell * np.float32((length - 1) / max(out_length - 1, 1))
        else:
            scale = np.float32(length) / np.float32(out_length)
            position = np.maximum((cell + np.float32(0.5)) * scale - np.float32(0.5), 0)
        low = np.minimum(position.astype(np.int32), length - 1)
        high = np.minimum(low + 1, length - 1)
        shape = [-1 if each == axis else 1 for each in range(x.ndim)]
        fraction = jnp.asarray(position - low, x.dtype).reshape(shape)
        x = jnp.take(x, low, axis=axis) * (1 - fraction) + jnp.take(x, high, axis=axis) * fraction
    return x
