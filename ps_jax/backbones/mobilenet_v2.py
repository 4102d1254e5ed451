"""MobileNetV2 (Sandler et al. 2018) at width 1.0: the trunk small enough to train on a CPU."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.backbones._conv_norm import ConvNorm
from ps_jax.backbones.classifier import TrunkClassifier

# (expansion, output channels, stride) of every block, by the stage whose resolution it has. The first
# block runs at stride 2, before the map of stride 4 that closes the first stage.
STAGES = (
    ((1, 16, 1), (6, 24, 2), (6, 24, 1)),
    ((6, 32, 2), (6, 32, 1), (6, 32, 1)),
    ((6, 64, 2), (6, 64, 1), (6, 64, 1), (6, 64, 1), (6, 96, 1), (6, 96, 1), (6, 96, 1)),
    ((6, 160, 2), (6, 160, 1), (6, 160, 1), (6, 320, 1)),
)
LAST_FEATURES = 1280


_ConvNorm = functools.partial(ConvNorm, activation=jax.nn.relu6)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution and linear 1x1 projection, with a shortcut where it fits.

    Attributes:
      expansion: factor of the channels inside; 1 leaves out the expanding convolution.
      features: output channels.
      stride: step of the depthwise convolution.
      axis_name: device axis that batch statistics are shared over.
      dtype: type of the computation; None takes the input's.
    """

    expansion: int
    features: int
    stride: int = 1
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Applies the block; `train` normalises with the batch's statistics."""
        common = {"axis_name": self.axis_name, "dtype": self.dtype}
        inner = self.expansion * x.shape[-1]
        result = x
        if self.expansion != 1:
            result = _ConvNorm(inner, 1, name="expand", **common)(result, train)
        result = _ConvNorm(inner, 3, stride=self.stride, groups=inner, name="depthwise", **common)(
            result, train
        )
        result = _ConvNorm(self.features, 1, activation=None, name="project", **common)(result, train)
        if self.stride == 1 and x.shape[-1] == self.features:
            result = x.astype(result.dtype) + result
        return result


class MobileNetV2Stage(nn.Module):
    """Inverted residual blocks of one stage.

    Attributes:
      blocks: (expansion, output channels, stride) of every block.
      axis_name: device axis that batch statistics are shared over.
      dtype: type of the computation; None takes the input's.
    """

    blocks: Sequence[tuple[int, int, int]]
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Applies the blocks one after the other."""
        for index, (expansion, features, stride) in enumerate(self.blocks):
            x = InvertedResidual(
                expansion,
                features,
                stride,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=f"block{index}",
            )(x, train)
        return x


class MobileNetV2(nn.Module):
    """The trunk of MobileNetV2 1.0 as in torchvision.

    The maps are the outputs of torchvision's `features` 3, 6, 13 and 17; the last stage is 14 to 17.

    Attributes:
      last_convolution: also apply the 1x1 convolution to 1280 channels that precedes the classifier
        (`features` 18) and return it as "c5_wide".
      stages: how many of the four stages are computed; 3 leaves c5 to heads that have a `last_stage` of their own.
      axis_name: device axis that batch statistics are shared over.
      dtype: type of the computation and the features; None takes the image's. Parameters and batch
        statistics are float32.
    """

    last_convolution: bool = False
    stages: int = 4
    axis_name: str | None = None
    dtype: Any = None

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each feature map."""
        channels = {f"c{index + 2}": blocks[-1][1] for index, blocks in enumerate(STAGES)}
        return channels | ({"c5_wide": LAST_FEATURES} if self.last_convolution else {})

    @nn.nowrap
    def _stage(self, index: int, name: str | None) -> MobileNetV2Stage:
        return MobileNetV2Stage(STAGES[index], axis_name=self.axis_name, dtype=self.dtype, name=name)

    @nn.nowrap
    def last_stage(self, name: str | None = None) -> MobileNetV2Stage:
        """Returns a new module like the last stage, c4 to c5, with weights of its own.

        Inside a module it becomes that module's submodule, under `name`.
        """
        return self._stage(3, name)

    @nn.nowrap
    def classifier(self, name: str | None = None) -> TrunkClassifier:
        """Returns a new module like the classifier that torchvision has behind this trunk."""
        return TrunkClassifier(
            convolution=_ConvNorm(LAST_FEATURES, 1, axis_name=self.axis_name, dtype=self.dtype), name=name
        )

    @nn.compact
    def __call__(
        self, image: Float[Array, "batch height width 3"], train: bool
    ) -> dict[str, Float[Array, "batch _ _ _"]]:
        """Computes the feature maps of strides 4, 8, 16 and 32.

        Args:
          image: normalised images [batch, height, width, 3].
          train: normalise with the batch's statistics and move the running ones.

        Returns:
          Feature maps "c2", "c3", "c4", "c5" (and "c5_wide"), as far as computed, each [batch, height, width, channel].
        """
        common = {"axis_name": self.axis_name, "dtype": self.dtype}
        x = _ConvNorm(32, 3, stride=2, name="stem", **common)(image, train)
        features = {}
        for index in range(self.stages):
            x = self._stage(index, f"stage{index + 1}")(x, train)
            features[f"c{index + 2}"] = x
        if self.last_convolution:
            features["c5_wide"] = _ConvNorm(LAST_FEATURES, 1, name="last", **common)(x, train)
        return features
