"""A network that embeds crops of one person (Luo et al., "Bag of Tricks", 2019; reid_baseline's code)."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.backbones import OSNet, build_trunk
from ps_jax.layers import BatchNorm, Linear, normal

OSNET = "osnet_x0_25"


class ReidNetwork(nn.Module):
    """A trunk, the mean of its last map, a batch normalisation ("BNNeck"), and a classifier of identities.

    A ResNet's last stage has stride 1. OSNet has an embedding layer of its own in place of the mean.

    Attributes:
      trunk: "osnet_x0_25" or a name that `ps_jax.backbones.build_trunk` knows.
      classes: identities that the classifier tells apart; 0: there is no classifier.
      axis_name: device axis that batch statistics are shared over.
      dtype: type of the trunk, float32 if None; all behind it is float32.
    """

    trunk: str
    classes: int = 0
    axis_name: str | None = None
    dtype: Any = None

    def setup(self) -> None:
        options: dict[str, Any] = {"dtype": self.dtype, "axis_name": self.axis_name}
        if self.trunk.startswith("resnet"):
            options["last_stride"] = 1
        self.backbone: nn.Module = (
            OSNet(**options) if self.trunk == OSNET else build_trunk(self.trunk, **options)
        )
        self.bottleneck = BatchNorm(axis_name=self.axis_name)
        if self.classes:
            self.classifier = Linear(self.classes, use_bias=False, kernel_init=normal(0.001))

    def __call__(
        self, crops: Float[Array, "crop height width 3"], train: bool
    ) -> tuple[Float[Array, "crop dimension"], Float[Array, "crop dimension"]]:
        """Embeds crops.

        Args:
          crops: normalised with ImageNet's mean and deviation.
          train: normalise with the batch's statistics and move the running ones.

        Returns:
          What the triplet loss compares, and behind the BNNeck what the classifier takes and people are searched by.
        """
        crops = crops if self.dtype is None else crops.astype(self.dtype)
        seen = self.backbone(crops, train)
        pooled = seen if self.trunk == OSNET else jnp.mean(seen["c5"].astype(jnp.float32), axis=(1, 2))
        return pooled, self.bottleneck(pooled, use_running_average=not train)

    def classify(self, embedding: Float[Array, "crop dimension"]) -> Float[Array, "crop class"]:
        """Logits of the identities from the embedding behind the BNNeck."""
        return self.classifier(embedding)

    def initialise(self, crop_size: tuple[int, int]) -> None:
        """Runs every part once, so that all variables are made."""
        _, embedding = self(jnp.zeros((1, *crop_size, 3)), train=False)
        if self.classes:
            self.classify(embedding)
