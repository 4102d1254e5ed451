"""Convolutions in channels-last layout with PyTorch's padding and defaults."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import Initializer
from jaxtyping import Array, Float

from ps_jax.layers._convolve import convolve
from ps_jax.layers.initializers import kaiming_uniform
from ps_jax.layers.linear import bias_uniform


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class Conv(nn.Module):
    """A 2-D convolution, as `torch.nn.Conv2d` with zero padding and its default initialisation.

    Sizes are one number or (vertical, horizontal).

    Attributes:
      features: output channels.
      kernel_size: size of the kernel.
      stride: step between output positions.
      padding: zeros added on each of both sides (symmetric, unlike "SAME" at even sizes and strides).
      dilation: step between kernel entries.
      groups: groups of channels; equal to the input channels it is a depthwise convolution.
      use_bias: add a bias.
      dtype: type of the computation and the result; None takes the input's. Parameters are float32.
      kernel_init: initialiser of the kernel [height, width, in / groups, out].
      bias_init: initialiser of the bias; None is PyTorch's default, uniform in +-1/sqrt(fan_in).
    """

    features: int
    kernel_size: int | tuple[int, int]
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, int] = 0
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Initializer = kaiming_uniform()
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch out_height out_width features"]:
        """Convolves `x`.

        Raises:
          ValueError: if `groups` does not divide the input or output channels.
        """
        channels = x.shape[-1]
        if channels % self.groups or self.features % self.groups:
            raise ValueError(
                f"groups is {self.groups}, wanted a divisor of the {channels} input and {self.features} "
                "output channels"
            )
        dtype = self.dtype or x.dtype
        shape = (*_pair(self.kernel_size), channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        result = convolve(
            x.astype(dtype),
            kernel.astype(dtype),
            stride=_pair(self.stride),
            padding=_pair(self.padding),
            dilation=_pair(self.dilation),
            groups=self.groups,
        )
        if self.use_bias:
            if self.bias_init is None:
                bias = self.param("bias", bias_uniform, shape, self.features)
            else:
                bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            result = result + bias.astype(dtype)
        return result
