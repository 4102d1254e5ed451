"""Smooth absolute loss (Girshick, Fast R-CNN, 2015, equation 3)."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def smooth_l1(
    x: Float[Array, "*#shape"], y: Float[Array, "*#shape"], beta: float = 1.0
) -> Float[Array, "*shape"]:
    """Square of a small difference, absolute value of a large one, as PyTorch's `smooth_l1_loss`.

    Args:
      x: f32[...].
      y: f32[...].
      beta: difference from which the loss grows linearly; 0 makes it the absolute difference.

    Returns:
      f32[...], the loss of each element.

    Raises:
      ValueError: if `beta` is negative.
    """
    if beta < 0:
        raise ValueError(f"beta is {beta}, wanted 0 or more")
    difference = jnp.abs(x - y)
    if beta == 0:
        return difference
    return jnp.where(difference < beta, 0.5 * difference**2 / beta, difference - 0.5 * beta)
