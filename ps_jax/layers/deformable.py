"""Deformable convolutions that predict their own offsets (Dai et al. 2017; modulated, Zhu et al. 2019)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import Initializer
from jaxtyping import Array, Float

from kernels.deform_conv import deform_conv
from ps_jax.layers.convolution import Conv
from ps_jax.layers.initializers import kaiming_uniform


class DeformableConv(nn.Module):
    """A square convolution whose taps read where a plain convolution of the same input sends them.

    The offset convolution has the same size, stride and padding. Its channels are the (vertical, horizontal) offsets
    of the taps, row by row, and where the convolution is modulated (version 2) one more logit a tap, whose sigmoid
    multiplies what the tap reads. As `DeformConv2dPack` and `ModulatedDeformConv2dPack` of MMCV.

    Variables: kernel [tap, tap, in, features], bias [features] (if `use_bias`), `offset` (a `Conv` with bias).

    Attributes:
      features: output channels.
      kernel_size: taps along each side; the padding is half of it.
      stride: step between output positions.
      modulated: version 2.
      use_bias: add a bias, which starts at zero.
      dtype: type of the result; None takes the input's. Positions and sums are float32, parameters too.
      kernel_init: initialiser of the kernel; MMCV's is uniform in +-1/sqrt(fan_in).
      offset_init: initialiser of the offset convolution's kernel.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    modulated: bool = False
    use_bias: bool = False
    dtype: Any = None
    kernel_init: Initializer = kaiming_uniform()
    offset_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch out_height out_width features"]:
        """Convolves `x`."""
        dtype = self.dtype or x.dtype
        taps, padding = self.kernel_size**2, self.kernel_size // 2
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        moved = Conv(
            (3 if self.modulated else 2) * taps,
            self.kernel_size,
            stride=self.stride,
            padding=padding,
            dtype=dtype,
            kernel_init=self.offset_init,
            bias_init=nn.initializers.zeros,
            name="offset",
        )(x.astype(dtype)).astype(jnp.float32)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        return deform_conv(
            x.astype(dtype),
            moved[..., : 2 * taps],
            kernel,
            bias,
            jax.nn.sigmoid(moved[..., 2 * taps :]) if self.modulated else None,
            stride=(self.stride, self.stride),
            padding=(padding, padding),
        )
