"""Bilinear samples of feature maps at fractional cells, zeros outside."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def sample_with_zeros(
    image: Float[Array, "batch height width channel"],
    y: Float[Array, "batch *points"],
    x: Float[Array, "batch *points"],
) -> Float[Array, "batch *points channel"]:
    """Values of an image between its cells; each of the four neighbours that lies outside counts as zero.

    Args:
      image: f32[B, H, W, C].
      y: f32[B, ...], rows; cell centres are whole numbers.
      x: f32[B, ...], columns.

    Returns:
      f32[B, ..., C], with gradients to the image and to both coordinates.
    """
    height, width, channels = image.shape[1:]
    flat = image.reshape(image.shape[0], height * width, channels)
    top, left = jnp.floor(y), jnp.floor(x)
    fraction_y, fraction_x = y - top, x - left
    total = jnp.zeros((), image.dtype)
    for row, weight_y in ((top, 1 - fraction_y), (top + 1, fraction_y)):
        for column, weight_x in ((left, 1 - fraction_x), (left + 1, fraction_x)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            cell = jnp.where(inside, row * width + column, 0).astype(jnp.int32)
            value = jax.vmap(lambda cells, index: cells[index])(flat, cell)
            total = total + value * jnp.where(inside, weight_y * weight_x, 0)[..., None]
    return total
