"""What proposals do with each other and with what is pooled for them (Sun et al., "Sparse R-CNN", CVPR 2021).

Weights start as in the released code: Xavier-uniform kernels, PyTorch's default biases.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.layers import LayerNorm, Linear

EPSILON = 1e-5  # of every LayerNorm, PyTorch's default
XAVIER = nn.initializers.xavier_uniform()


class ProposalAttention(nn.Module):
    """Multi-head self-attention among the proposals of a scene, as `torch.nn.MultiheadAttention`.

    Attributes:
      heads: how many heads share the channels.
      dtype: type of the computation; None takes the input's. Logits and softmax are float32.
    """

    heads: int = 8
    dtype: Any = None

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch proposal channel"]
    ) -> Float[Array, "batch proposal channel"]:
        """Attends; neither shortcut nor normalisation are part of it."""
        batch, count, channels = features.shape
        init: dict[str, Any] = {
            "kernel_init": XAVIER,
            "bias_init": nn.initializers.zeros,
            "dtype": self.dtype,
        }
        triple = Linear(3 * channels, name="qkv", **init)(features)
        triple = triple.reshape(batch, count, 3, self.heads, channels // self.heads)
        result = jax.nn.dot_product_attention(triple[:, :, 0], triple[:, :, 1], triple[:, :, 2])
        return Linear(channels, name="project", **init)(result.reshape(batch, count, channels))


class DynamicInteraction(nn.Module):
    """Two 1x1 convolutions of what is pooled for a proposal, with kernels made of its own features.

    Their result is flattened, position by position, and projected to the width of the features.

    Attributes:
      hidden: channels between the two convolutions.
      dtype: type of the computation; None takes the input's.
    """

    hidden: int = 64
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch proposal channel"],
        pooled: Float[Array, "batch proposal cell channel"],
    ) -> Float[Array, "batch proposal channel"]:
        """The proposals' view of what is pooled for them, not negative.

        Args:
          features: of the proposals.
          pooled: the cells of each proposal's box, row by row.
        """
        batch, count, channels = features.shape
        kernels = Linear(
            2 * channels * self.hidden, kernel_init=XAVIER, dtype=self.dtype, name="make_kernels"
        )(features)
        first, second = jnp.split(kernels, 2, axis=-1)
        x = pooled.astype(kernels.dtype) @ first.reshape(batch, count, channels, self.hidden)
        x = jax.nn.relu(LayerNorm(EPSILON, name="norm1")(x))
        x = x @ second.reshape(batch, count, self.hidden, channels)
        x = jax.nn.relu(LayerNorm(EPSILON, name="norm2")(x))
        x = Linear(channels, kernel_init=XAVIER, dtype=self.dtype, name="project")(
            x.reshape(batch, count, -1)
        )
        return jax.nn.relu(LayerNorm(EPSILON, name="norm3")(x))
