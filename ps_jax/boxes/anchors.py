"""Anchor boxes of a feature pyramid, with torchvision's rounding and order."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def _cell_anchors(sizes: Sequence[float], ratios: Sequence[float], rounded: bool = True) -> np.ndarray:
    # float32 throughout and rounding half to even: the anchors of published weights are made so.
    root = np.sqrt(np.asarray(ratios, np.float32))
    scale = np.asarray(sizes, np.float32)
    height = (root[:, None] * scale).ravel()
    width = ((np.float32(1) / root)[:, None] * scale).ravel()
    anchors = np.stack([-width, -height, width, height], axis=1) / np.float32(2)
    return np.round(anchors) if rounded else anchors


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Float[Array, "anchors 4"]:
    """Anchors of one cell, around the origin.

    Args:
      sizes: square roots of the areas, in pixels.
      ratios: height over width.

    Returns:
      f32[len(ratios) * len(sizes), 4], whole numbers; the ratio changes slowest.
    """
    return jnp.asarray(_cell_anchors(sizes, ratios))


def pyramid_anchors(
    image_size: tuple[int, int],
    feature_sizes: Sequence[tuple[int, int]],
    sizes: Sequence[Sequence[float]],
    ratios: Sequence[float],
    rounded: bool = True,
) -> Float[Array, "anchors 4"]:
    """Anchors of all levels of a pyramid; all arguments are static, so the result is a constant.

    The stride of a level is image size // feature size, which is not always the net's: a map of 4 cells over
    224 pixels has stride 56.

    Args:
      image_size: (height, width) of the padded image in pixels.
      feature_sizes: (height, width) of each level's map.
      sizes: anchor sizes of each level.
      ratios: height over width, the same for all levels.
      rounded: corners of the anchors of a cell are whole numbers (torchvision); False: as they come (MMDetection).

    Returns:
      f32[total, 4]: level by level, row by row, cell by cell, then as `cell_anchors` orders them.

    Raises:
      ValueError: when there is not one entry of `sizes` for each level.
    """
    if len(sizes) != len(feature_sizes):
        raise ValueError(f"sizes has {len(sizes)} levels, feature_sizes has {len(feature_sizes)}")
    levels = []
    for (rows, columns), level_sizes in zip(feature_sizes, sizes, strict=True):
        y = np.arange(rows, dtype=np.float32) * (image_size[0] // rows)
        x = np.arange(columns, dtype=np.float32) * (image_size[1] // columns)
        grid_x, grid_y = np.meshgrid(x, y)
        shift = np.stack([grid_x, grid_y, grid_x, grid_y], axis=-1)
        levels.append((shift[:, :, None] + _cell_anchors(level_sizes, ratios, rounded)).reshape(-1, 4))
    return jnp.asarray(np.concatenate(levels))
