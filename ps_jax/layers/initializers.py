"""Parameter initialisers with PyTorch's definitions, for kernels whose last axis is the output.

Where PyTorch counts `fan_in` over (in, height, width) of an (out, in, height, width) kernel, ours is
the product of all axes but the last; both give the same number.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer


def fan_in(shape: tuple[int, ...]) -> int:
    """Returns how many inputs feed one output of a kernel [..., out] (grouped kernels: inputs per group)."""
    return math.prod(shape[:-1])


def kaiming_uniform(negative_slope: float = math.sqrt(5.0)) -> Initializer:
    """Uniform in +-sqrt(6 / ((1 + a^2) fan_in)), as `torch.nn.init.kaiming_uniform_`.

    Args:
      negative_slope: a. sqrt(5) is the default of PyTorch's convolution and linear layers (then the bound
        is 1 / sqrt(fan_in)); 1 is what torchvision's feature pyramid uses.

    Returns:
      An initialiser `f(key, shape, dtype)`.
    """
    gain = math.sqrt(6.0 / (1.0 + negative_slope**2))

    def initializer(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        bound = gain / math.sqrt(fan_in(shape))
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initializer


def kaiming_normal_fan_out(groups: int = 1) -> Initializer:
    """Normal with variance 2 / fan_out, as `torch.nn.init.kaiming_normal_(mode="fan_out")`.

    `fan_out` is height x width x out over `groups`.

    Args:
      groups: 1, as PyTorch has it for any convolution, or the groups of the convolution, as PVT divides.

    Returns:
      An initialiser `f(key, shape, dtype)`.
    """

    def initializer(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        outputs = math.prod(shape[:-2]) * shape[-1] / groups
        return jax.random.normal(key, shape, dtype) * math.sqrt(2.0 / outputs)

    return initializer


def normal(standard_deviation: float) -> Initializer:
    """Normal with mean 0, as `torch.nn.init.normal_`."""
    return nn.initializers.normal(standard_deviation)
