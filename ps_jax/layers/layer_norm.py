"""Layer normalisation over the channels."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class LayerNorm(nn.Module):
    """Normalises every position over its channels (the last axis), as `torch.nn.LayerNorm`.

    Computed in float32 whatever the input.

    Attributes:
      epsilon: added to the variance; 1e-6 as in torchvision's ConvNeXt (PyTorch's own default is 1e-5).
      dtype: type of the result; None keeps the input's.
    """

    epsilon: float = 1e-6
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "*rows channel"]) -> Float[Array, "*rows channel"]:
        """Normalises `x` [..., channel]; the result has its shape."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        dtype = self.dtype or x.dtype
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        var = jnp.mean(centred * centred, axis=-1, keepdims=True)
        return (centred * jax.lax.rsqrt(var + self.epsilon) * scale + bias).astype(dtype)
