"""Classification by the length of an offset: the "FixedNorm" logit of SPNet.

An offset `o = q - a` between a query embedding and an anchor embedding is short where the anchor lies on
the object. With `o` taken as drawn from N(0, I_d), its length `w` follows the chi distribution, whose mean
and standard deviation turn `w` into a logit without any parameter (SPNet, section 3.3).
"""

import functools
import math

import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.cache
def chi_moments(dimension: int) -> tuple[float, float]:
    """Mean and standard deviation of the chi distribution.

    mean = sqrt(2) Gamma((d + 1) / 2) / Gamma(d / 2), variance = d - mean^2. The ratio is taken between
    logarithms, so no dimension overflows.

    Args:
      dimension: d, degrees of freedom, at least 1.

    Returns:
      (mean, standard deviation).

    Raises:
      ValueError: if `dimension` is below 1.
    """
    if dimension < 1:
        raise ValueError(f"dimension is {dimension}, wanted at least 1")
    log_ratio = math.lgamma((dimension + 1) / 2) - math.lgamma(dimension / 2)
    mean = math.sqrt(2.0) * math.exp(log_ratio)
    return mean, math.sqrt(dimension - mean * mean)


def offset_norm(offset: Float[Array, "*rows dimension"]) -> Float[Array, "*rows"]:
    """Euclidean length over the last axis, in float32, with gradient zero (not NaN) at a zero offset."""
    offset = offset.astype(jnp.float32)
    squared = jnp.sum(offset * offset, axis=-1)
    positive = squared > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def fixed_norm_logit(norm: Float[Array, "*rows"], dimension: int) -> Float[Array, "*rows"]:
    """The logit -(w - mean) / standard deviation of an offset's length w.

    Args:
      norm: w, lengths of offsets, float32.
      dimension: d, length of the offset vectors.

    Returns:
      Logits; their sigmoid is the score.
    """
    mean, deviation = chi_moments(dimension)
    return (mean - norm) / deviation
