"""Sampling of an image on a grid of any form (Jaderberg et al., Spatial Transformer Networks, 2015).

Layout: image f[batch, height, width, channel], grid f32[batch, out_height, out_width, 2] with the horizontal
coordinate first, result f[batch, out_height, out_width, channel].

Coordinates: -1 and 1 are the two ends of the image. With `align_corners` the ends are the centres of the
first and last pixel, without it their outer edges. Outside the image there are zeros, each of the four
neighbours of a sample on its own.

Numbers: positions, weights and sums are float32; the result has the type of the image. Gradients go to the
image and to the grid. Equal to PyTorch's `grid_sample` with bilinear sampling and zero padding.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels._bilinear import sample_with_zeros
from kernels._implementation import check_implementation


def grid_sample(
    image: Float[Array, "batch height width channel"],
    grid: Float[Array, "batch out_height out_width 2"],
    *,
    align_corners: bool,
    implementation: str | None = None,
) -> Float[Array, "batch out_height out_width channel"]:
    """Samples an image at the points of a grid; the contract stands at the top of this file.

    Args:
      image: f[B, H, W, C].
      grid: f32[B, h, w, 2], (horizontal, vertical) in -1 .. 1.
      align_corners: whether -1 and 1 are the centres of the outermost pixels or their outer edges.
      implementation: None or "xla".

    Returns:
      f[B, h, w, C].
    """
    check_implementation("grid_sample", implementation)
    length = jnp.asarray([image.shape[2], image.shape[1]], jnp.float32)
    grid = grid.astype(jnp.float32)
    position = (grid + 1) / 2 * (length - 1) if align_corners else ((grid + 1) * length - 1) / 2
    sampled = sample_with_zeros(image.astype(jnp.float32), position[..., 1], position[..., 0])
    return sampled.astype(image.dtype)
