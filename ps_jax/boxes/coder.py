"""Boxes as offsets from anchors (Girshick et al., Rich feature hierarchies, 2014), and limits on boxes."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

LOG_LARGEST_RATIO = math.log(1000.0 / 16)
"""Largest log ratio of a decoded size to its anchor's: keeps `exp` finite for untrained nets."""


def _centre_and_size(boxes):
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


def encode(
    boxes: Float[Array, "*#batch 4"],
    anchors: Float[Array, "*#batch 4"],
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*batch 4"]:
    """Offsets (dx, dy, dw, dh) that lead from anchors to boxes, as torchvision's BoxCoder.

    dx and dy are in units of the anchor's size, dw and dh are logarithms of size ratios. Where a box or an
    anchor has no size in a direction (padding), that offset is finite and meaningless, so that a masked loss
    over it has clean gradients.

    Args:
      boxes: f32[..., 4].
      anchors: f32[..., 4], broadcast against the boxes.
      weights: factors of the four offsets.

    Returns:
      f32[..., 4].
    """
    centre, size = _centre_and_size(boxes)
    anchor_centre, anchor_size = _centre_and_size(anchors)
    anchor_size = jnp.where(anchor_size > 0, anchor_size, 1.0)
    shift = jnp.asarray(weights[:2]) * (centre - anchor_centre) / anchor_size
    stretch = jnp.asarray(weights[2:]) * jnp.log(jnp.where(size > 0, size, anchor_size) / anchor_size)
    return jnp.concatenate([shift, stretch], axis=-1)


def decode(
    deltas: Float[Array, "*#batch 4"],
    anchors: Float[Array, "*#batch 4"],
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    clip: float = LOG_LARGEST_RATIO,
) -> Float[Array, "*batch 4"]:
    """Boxes that lie at the given offsets from anchors, the inverse of `encode`, as torchvision's BoxCoder.

    Args:
      deltas: f32[..., 4], offsets (dx, dy, dw, dh), each multiplied by its weight.
      anchors: f32[..., 4], broadcast against the offsets.
      weights: factors of the four offsets.
      clip: upper limit of dw and dh after division by their weights.

    Returns:
      f32[..., 4] boxes, not limited to the image.
    """
    anchor_centre, anchor_size = _centre_and_size(anchors)
    centre = deltas[..., :2] / jnp.asarray(weights[:2]) * anchor_size + anchor_centre
    stretch = jnp.minimum(deltas[..., 2:] / jnp.asarray(weights[2:]), clip)
    half = 0.5 * (jnp.exp(stretch) * anchor_size)
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def clip_boxes(
    boxes: Float[Array, "*batch boxes 4"], size: Real[Array, "*#batch 2"]
) -> Float[Array, "*batch boxes 4"]:
    """Moves corners that lie outside an image onto its border.

    Args:
      boxes: f32[..., N, 4].
      size: [..., 2], (height, width) of the image of each group of N boxes.

    Returns:
      f32[..., N, 4].
    """
    height, width = size[..., 0], size[..., 1]
    limit = jnp.stack([width, height, width, height], axis=-1).astype(boxes.dtype)
    return jnp.clip(boxes, 0.0, limit[..., None, :])


def large_enough(boxes: Float[Array, "*batch 4"], min_size: float) -> Bool[Array, "*batch"]:
    """Which boxes have both width and height of at least `min_size` pixels (torchvision's small-box rule)."""
    return jnp.all(boxes[..., 2:] - boxes[..., :2] >= min_size, axis=-1)
