"""How much boxes overlap: intersection over union and its generalised form."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels._overlap import area, intersection_and_union

__all__ = ["area", "elementwise_giou", "elementwise_iou", "pairwise_giou", "pairwise_iou"]


def _ratio(numerator, denominator):
    """The quotient, 0 where the denominator is not positive; its gradient is finite there, too."""
    positive = denominator > 0
    return jnp.where(positive, numerator, 0.0) / jnp.where(positive, denominator, 1.0)


def elementwise_iou(
    a: Float[Array, "*#batch 4"], b: Float[Array, "*#batch 4"], epsilon: float = 0.0
) -> Float[Array, "*batch"]:
    """Intersection over union of boxes that stand at the same place in two (broadcast) arrays.

    Args:
      a: f32[..., 4].
      b: f32[..., 4].
      epsilon: added to the union.

    Returns:
      f32[...] in 0 .. 1; 0 for two boxes without area.
    """
    intersection, union = intersection_and_union(a, b)
    return _ratio(intersection, union + epsilon)


def elementwise_giou(
    a: Float[Array, "*#batch 4"], b: Float[Array, "*#batch 4"], epsilon: float = 0.0
) -> Float[Array, "*batch"]:
    """Generalised intersection over union (Rezatofighi et al., 2019, equation 1), element by element.

    The intersection over union less the part of the smallest box around both that neither of them covers.

    Args:
      a: f32[..., 4].
      b: f32[..., 4].
      epsilon: added to both denominators.

    Returns:
      f32[...] in -1 .. 1.
    """
    intersection, union = intersection_and_union(a, b)
    hull = area(
        jnp.concatenate([jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], -1)
    )
    return _ratio(intersection, union + epsilon) - _ratio(hull - union, hull + epsilon)


def pairwise_iou(a: Float[Array, "rows 4"], b: Float[Array, "columns 4"]) -> Float[Array, "rows columns"]:
    """Intersection over union of every box of `a` (rows) with every box of `b` (columns)."""
    return elementwise_iou(a[:, None], b[None, :])


def pairwise_giou(a: Float[Array, "rows 4"], b: Float[Array, "columns 4"]) -> Float[Array, "rows columns"]:
    """Generalised intersection over union of every box of `a` (rows) with every box of `b` (columns)."""
    return elementwise_giou(a[:, None], b[None, :])
