"""Convolution, batch normalisation and activation, as trunks of small networks repeat them."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.layers import BatchNorm, Conv, kaiming_normal_fan_out


class ConvNorm(nn.Module):
    """A convolution without bias that keeps the size (but for its stride), BatchNorm, and an activation.

    Attributes:
      features: output channels.
      kernel_size: odd.
      stride, groups: see `ps_jax.layers.Conv`.
      activation: applied at the end; None for nothing.
      axis_name: device axis that batch statistics are shared over.
      dtype: type of the computation; None takes the input's.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    activation: Callable[[jax.Array], jax.Array] | None = jax.nn.relu
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Applies all three; `train` normalises with the batch's statistics."""
        x = Conv(
            self.features,
            self.kernel_size,
            stride=self.stride,
            padding=self.kernel_size // 2,
            groups=self.groups,
            use_bias=False,
            kernel_init=kaiming_normal_fan_out(),
            dtype=self.dtype,
            name="conv",
        )(x)
        x = BatchNorm(axis_name=self.axis_name, name="norm")(x, use_running_average=not train)
        return x if self.activation is None else self.activation(x)
