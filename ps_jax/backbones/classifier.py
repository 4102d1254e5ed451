"""The classifier that a trunk was trained with on ImageNet."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.layers import Linear

CLASSES = 1000  # of ImageNet-1k


class TrunkClassifier(nn.Module):
    """Class logits from a trunk's last feature map: mean over all positions, then a linear layer.

    As torchvision's classifiers, without their dropout. Computed in float32 from the mean on.

    Attributes:
      convolution: module `(x, train)` applied to the map; None for none.
      map_norm: module applied to the map after it; None for none.
      norm: module applied to the mean; None for none.
      classes: how many.
    """

    convolution: nn.Module | None = None
    map_norm: nn.Module | None = None
    norm: nn.Module | None = None
    classes: int = CLASSES

    def setup(self) -> None:
        self.linear = Linear(self.classes)

    def __call__(
        self, features: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch {self.classes}"]:
        """Logits f32[batch, classes] of the trunk's map c5."""
        if self.convolution is not None:
            features = self.convolution(features, train)
        if self.map_norm is not None:
            features = self.map_norm(features)
        pooled = jnp.mean(features.astype(jnp.float32), axis=(1, 2))
        return self.linear(pooled if self.norm is None else self.norm(pooled))
