"""The anchor-free detection head of AlignPS: FCOS (Tian et al. 2019), whose towers end in a deformable convolution."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from ps_jax.layers import Conv, DeformableConv, GroupNorm, normal

DEPTH = 4  # convolutions of a tower
PRIOR = 0.01  # probability of a person that classification starts with
STRUCTURES = ("reid_first", "regression", "classification", "parallel")


class LocationOutput(NamedTuple):
    """What the head says of the locations of one level.

    Attributes:
      logit: f32[batch, height, width], of there being a person.
      distances: f32[batch, height, width, 4], to the left, top, right and bottom side of the box, in strides.
      centerness: f32[batch, height, width], logit of the location being the middle of the person.
      embedding: f32[batch, height, width, channel], for re-identification, of any length.
    """

    logit: Array
    distances: Array
    centerness: Array
    embedding: Array


class ConvTower(nn.Module):
    """Four 3x3 convolutions with group normalisation and ReLU, the last one modulated deformable.

    Attributes:
      width: channels of each.
      dtype: type of the computation; None takes the input's.
    """

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"], mask: Bool[Array, "batch height width"] | None
    ) -> Float[Array, "batch height width {self.width}"]:
        """Looks at a map that is zero outside `mask`, as it is outside its borders; so is what comes out."""
        for index in range(DEPTH):
            options: dict[str, Any] = {"dtype": self.dtype, "name": f"conv{index}"}
            if index == DEPTH - 1:
                x = DeformableConv(self.width, modulated=True, use_bias=True, **options)(x)
            else:
                x = _plain(self.width, padding=1, **options)(x)
            # Normalised, the positions outside are no longer zero, and the next convolution reads them at the border.
            x = _inside(jax.nn.relu(GroupNorm(name=f"norm{index}")(x, mask)), mask)
        return x


class AnchorFreeHead(nn.Module):
    """Person, box and centerness of every location; the embedding where the structure takes it from here.

    Attributes:
      width: channels of the map and of the towers.
      levels: numbers of the levels that people are found on; each has a scale of its own for the distances.
      structure: where the embedding comes from. "reid_first": the map itself (AlignPS). "regression" (T1) or
        "classification" (T2): one convolution of that tower. "parallel" (T3): one of a tower of its own.
      dtype: type of the towers; None takes the input's. Predictions are float32.
    """

    width: int
    levels: Sequence[int] = (3,)
    structure: str = "reid_first"
    dtype: Any = None

    def setup(self) -> None:
        self.classification_tower = ConvTower(self.width, self.dtype)
        self.regression_tower = ConvTower(self.width, self.dtype)
        bias = nn.initializers.constant(-math.log((1 - PRIOR) / PRIOR))
        self.classification = _plain(1, padding=1, dtype=jnp.float32, bias_init=bias)
        self.regression = _plain(4, padding=1, dtype=jnp.float32)
        self.centerness = _plain(1, padding=1, dtype=jnp.float32)
        self.scale = {level: self.param(f"scale{level}", nn.initializers.ones, ()) for level in self.levels}
        if self.structure == "parallel":
            self.reid_tower = ConvTower(self.width, self.dtype)
        if self.structure != "reid_first":
            self.reid = _plain(self.width, padding=1, dtype=jnp.float32)

    def __call__(
        self,
        x: Float[Array, "batch height width channel"],
        mask: Bool[Array, "batch height width"] | None,
        level: int,
    ) -> LocationOutput:
        """Looks at one level; `mask` are its positions that exist, what lies outside changes nothing within."""
        x = _inside(x, mask)
        towers = {
            "classification": self.classification_tower(x, mask),
            "regression": self.regression_tower(x, mask),
        }
        embedding = x
        if self.structure == "parallel":
            embedding = self.reid(self.reid_tower(x, mask))
        elif self.structure != "reid_first":
            embedding = self.reid(towers[self.structure])
        distances = self.scale[level] * self.regression(towers["regression"])
        return LocationOutput(
            self.classification(towers["classification"])[..., 0],
            jax.nn.relu(distances),
            self.centerness(towers["regression"])[..., 0],
            embedding.astype(jnp.float32),
        )

    def classify(
        self, x: Float[Array, "batch height width channel"], mask: Bool[Array, "batch height width"] | None
    ) -> Float[Array, "batch height width"]:
        """The logits alone, for levels that nobody is found on."""
        return self.classification(self.classification_tower(_inside(x, mask), mask))[..., 0]


def _inside(x, mask):
    """The map with zeros outside the mask."""
    return x if mask is None else jnp.where(mask[..., None], x, 0)


def _plain(features: int, **options: Any) -> Conv:
    options = {"kernel_init": normal(0.01), "bias_init": nn.initializers.zeros, **options}
    return Conv(features, 3, **options)
