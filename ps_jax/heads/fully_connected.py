"""The box head of Faster R-CNN with a feature pyramid: two fully connected layers (Lin et al., FPN, 2017)."""

from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.layers import Linear


class FullyConnectedHead(nn.Module):
    """Two fully connected layers with ReLU on the flattened map of each box, as torchvision's `TwoMLPHead`.

    Attributes:
      width: outputs of each layer.
      dtype: type of the computation; None takes the input's.
    """

    width: int = 1024
    dtype: Any = None

    @nn.compact
    def __call__(self, pooled: Float[Array, "row height width channel"]) -> Float[Array, "row {self.width}"]:
        """Describes boxes by their pooled maps."""
        x = pooled.reshape(pooled.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = jax.nn.relu(Linear(self.width, dtype=self.dtype, name=name)(x))
        return x
