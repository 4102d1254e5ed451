"""Group normalisation with PyTorch's numbers, of the part of a map that exists."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float


class GroupNorm(nn.Module):
    """Normalises groups of channels of each picture over all positions, as `torch.nn.GroupNorm`.

    Computed in float32 whatever the input. Variables: scale, bias [channel].

    Attributes:
      groups: how many; must divide the channels.
      epsilon: added to the variance.
    """

    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channel"],
        mask: Bool[Array, "batch height width"] | None = None,
    ) -> Float[Array, "batch height width channel"]:
        """Normalises `x`.

        Args:
          x: features.
          mask: the positions that count for the statistics; None: all. The others are normalised by the same ones.

        Raises:
          ValueError: if `groups` does not divide the channels.
        """
        batch, height, width, channels = x.shape
        if channels % self.groups:
            raise ValueError(f"groups is {self.groups}, wanted a divisor of the {channels} channels")
        grouped = x.astype(jnp.float32).reshape(batch, height, width, self.groups, -1)
        weight = jnp.ones((batch, height, width)) if mask is None else mask.astype(jnp.float32)
        weight = weight[..., None, None]
        axes = (1, 2, 4)
        count = jnp.maximum(jnp.sum(weight, axes, keepdims=True) * grouped.shape[-1], 1.0)
        mean = jnp.sum(grouped * weight, axes, keepdims=True) / count
        centred = grouped - mean
        variance = jnp.sum(centred * centred * weight, axes, keepdims=True) / count
        result = (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        result = result * self.param("scale", nn.initializers.ones, (channels,))
        result = result + self.param("bias", nn.initializers.zeros, (channels,))
        return result.astype(x.dtype)
