"""The fully connected layer with PyTorch's defaults."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import Initializer
from jaxtyping import Array, Float

from ps_jax.layers.initializers import fan_in, kaiming_uniform


def bias_uniform(key: Array, kernel_shape: tuple[int, ...], channels: int) -> Float[Array, " channels"]:
    """Draws a bias uniform in +-1/sqrt(fan_in) of its kernel, PyTorch's default of Linear and Conv."""
    bound = fan_in(kernel_shape) ** -0.5
    return jax.random.uniform(key, (channels,), jnp.float32, -bound, bound)


class Linear(nn.Module):
    """x @ kernel + bias over the last axis, as `torch.nn.Linear` with its default initialisation.

    Attributes:
      features: output channels.
      use_bias: add a bias.
      dtype: type of the computation and the result; None takes the input's. Parameters are float32.
      kernel_init: initialiser of the kernel [in, out].
      bias_init: initialiser of the bias; None is PyTorch's default, uniform in +-1/sqrt(in).
    """

    features: int
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Initializer = kaiming_uniform()
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*rows channel"]) -> Float[Array, "*rows features"]:
        """Maps x [..., channel] to [..., features]."""
        dtype = self.dtype or x.dtype
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        result = x.astype(dtype) @ kernel.astype(dtype)
        if self.use_bias:
            if self.bias_init is None:
                bias = self.param("bias", bias_uniform, kernel.shape, self.features)
            else:
                bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            result = result + bias.astype(dtype)
        return result
