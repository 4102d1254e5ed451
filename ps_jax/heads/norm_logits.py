"""Classification by the length of an offset: the "FixedNorm" logit of SPNet and what it is compared with.

An offset `o = q - a` between a query embedding and an anchor embedding is short where the anchor lies on
the object. With `o` taken as drawn from N(0, I_d), its length `w` follows the chi distribution, whose mean
and standard deviation turn `w` into a logit without any parameter (SPNet, section 3.3).
"""

import functools
import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from ps_jax.layers import BatchNorm

SCALES = ("fixed", "batch", "none")


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


class NormLogit(nn.Module):
    """Logits of offsets by their lengths w.

    Attributes:
      dimension: d, length of the offset vectors.
      scale: how lengths are brought to the scale of logits: "fixed" by the moments of the chi distribution
        (`fixed_norm_logit`), "batch" by a batch normalisation (Chen et al., "Norm-Aware Embedding", which SPNet
        compares with in table 9; a single length is normalised with the running statistics), "none" not at all.
      positive: the logit grows with the length instead of falling (table 9's "+").
      axis_name: device axis that batch statistics are shared over.
    """

    dimension: int
    scale: str = "fixed"
    positive: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, norm: Float[Array, "*rows"], valid: Bool[Array, "..."], train: bool
    ) -> Float[Array, "*rows"]:
        """Turns lengths into logits.

        Args:
          norm: w, lengths of offsets, float32.
          valid: lengths that exist and count in batch statistics, over the leading axes of `norm`.
          train: normalise with the batch's statistics and move the running ones, where there are any.

        Returns:
          Logits; their sigmoid is the score.
        """
        if self.scale == "fixed":
            logit = fixed_norm_logit(norm, self.dimension)
        elif self.scale == "batch":
            normalise = BatchNorm(axis_name=self.axis_name, single_row_uses_running=True, name="norm")
            logit = -normalise(norm[..., None], use_running_average=not train, mask=valid)[..., 0]
        else:
            logit = -norm
        return -logit if self.positive else logit
