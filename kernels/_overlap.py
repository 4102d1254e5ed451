"""Intersection and union of boxes, to the last bit as a plain loop in float32 computes them."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def area(boxes: Float[Array, "*batch 4"]) -> Float[Array, "*batch"]:
    """Width times height of `xyxy` boxes, in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection_and_union(
    a: Float[Array, "*#batch 4"], b: Float[Array, "*#batch 4"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Areas of intersection and union of boxes at the same place in two (broadcast) arrays.

    Suppression and matching compare overlaps with thresholds and with each other, so the last bit counts.
    A compiler that fuses the products below into the sum of the union skips one rounding and gets other bits
    in each place of use; a choice between a product and something else cannot be fused.

    Args:
      a: f32[..., 4], `xyxy`.
      b: f32[..., 4].

    Returns:
      f32[...] intersection, f32[...] union.
    """
    left_top = jnp.maximum(a[..., :2], b[..., :2])
    right_bottom = jnp.minimum(a[..., 2:], b[..., 2:])
    size = right_bottom - left_top
    overlaps = (size[..., 0] > 0) & (size[..., 1] > 0)
    product = jnp.where(overlaps, size[..., 0] * size[..., 1], 0.0)
    return product, _rounded(area(a)) + _rounded(area(b)) - product


def _rounded(product: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The product itself, in a form that the compiler cannot take apart."""
    return jnp.where(product >= 0, product, jnp.minimum(product, 0.0))
