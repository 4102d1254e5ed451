"""PVT v2 (Wang et al. 2022, "PVT v2: Improved Baselines with Pyramid Vision Transformer").

Numbers are those of the released code, linear attention (its "-Li" models) left out.
"""

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.backbones.classifier import TrunkClassifier
from ps_jax.layers import Conv, LayerNorm, Linear, StochasticDepth, kaiming_normal_fan_out

_EPSILON = 1e-6  # of the LayerNorms of blocks and stages
_INNER_EPSILON = 1e-5  # of those behind a convolution
_ZEROS = nn.initializers.zeros
_LINEAR: dict[str, Any] = {"kernel_init": nn.initializers.truncated_normal(0.02), "bias_init": _ZEROS}
_CONV: dict[str, Any] = {"kernel_init": kaiming_normal_fan_out(), "bias_init": _ZEROS}


class ReducedAttention(nn.Module):
    """Multi-head attention of every cell of a map to a reduced copy of that map.

    A convolution of as large a stride and a LayerNorm make the copy; what does not fill a window at the bottom and on
    the right is left out.

    Attributes:
      heads: heads of the attention.
      reduction: side of the windows that become one cell; 1: every cell sees every cell.
      dtype: type of the computation; None takes the input's. Logits and softmax are float32.
    """

    heads: int
    reduction: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch height width channel"]:
        """Attends; the result has the shape of `x`."""
        batch, height, width, channels = x.shape
        seen = x
        if self.reduction > 1:
            side = self.reduction
            seen = Conv(channels, side, stride=side, dtype=self.dtype, name="reduce", **_CONV)(x)
            seen = LayerNorm(_INNER_EPSILON, name="norm")(seen)
        depth = channels // self.heads
        query = Linear(channels, dtype=self.dtype, name="query", **_LINEAR)(x)
        query = query.reshape(batch, height * width, self.heads, depth)
        pair = Linear(2 * channels, dtype=self.dtype, name="key_value", **_LINEAR)(seen)
        pair = pair.reshape(batch, -1, 2, self.heads, depth)
        result = jax.nn.dot_product_attention(query, pair[:, :, 0], pair[:, :, 1])
        result = result.reshape(batch, height, width, channels)
        return Linear(channels, dtype=self.dtype, name="project", **_LINEAR)(result)


class PVTBlock(nn.Module):
    """Attention and a perceptron with a depthwise convolution inside, each around a shortcut.

    Attributes:
      heads, reduction: see `ReducedAttention`.
      expansion: channels inside the perceptron over those outside.
      stochastic_depth: chance that a branch is left out, per image.
      axis_name: device axis that the batch is spread over (for stochastic depth).
      dtype: type of the computation; None takes the input's.
    """

    heads: int
    reduction: int
    expansion: int
    stochastic_depth: float = 0.0
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch height width channel"]:
        """Applies the block; `train` switches stochastic depth on."""
        channels, inside = x.shape[-1], self.expansion * x.shape[-1]
        attention = ReducedAttention(self.heads, self.reduction, self.dtype, name="attention")

        def perceptron(x):
            x = Linear(inside, dtype=self.dtype, name="expand", **_LINEAR)(x)
            init = {"kernel_init": kaiming_normal_fan_out(inside), "bias_init": _ZEROS}
            x = Conv(inside, 3, padding=1, groups=inside, dtype=self.dtype, name="depthwise", **init)(x)
            x = jax.nn.gelu(x, approximate=False)
            return Linear(channels, dtype=self.dtype, name="project", **_LINEAR)(x)

        for index, branch in ((1, attention), (2, perceptron)):
            result = branch(LayerNorm(_EPSILON, name=f"norm{index}")(x))
            drop = StochasticDepth(self.stochastic_depth, self.axis_name, name=f"drop{index}")
            x = x.astype(result.dtype) + drop(result, train)
        return x


class PVTStage(nn.Module):
    """Overlapping patches, blocks of one resolution, a LayerNorm.

    Attributes:
      stochastic_depth: for each block the chance that a branch is left out.
      features: output channels.
      heads, reduction: see `ReducedAttention`.
      expansion: see `PVTBlock`.
      patch: side of the patches, in cells of the map before.
      stride: step between patches.
      axis_name: device axis that the batch is spread over.
      dtype: type of the computation; None takes the input's.
    """

    stochastic_depth: Sequence[float]
    features: int
    heads: int
    reduction: int
    expansion: int
    patch: int = 3
    stride: int = 2
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Applies the blocks one after the other."""
        x = Conv(
            self.features,
            self.patch,
            stride=self.stride,
            padding=self.patch // 2,
            dtype=self.dtype,
            name="patch_conv",
            **_CONV,
        )(x)
        x = LayerNorm(_INNER_EPSILON, name="patch_norm")(x)
        for index, rate in enumerate(self.stochastic_depth):
            x = PVTBlock(
                self.heads,
                self.reduction,
                self.expansion,
                rate,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=f"block{index}",
            )(x, train)
        return LayerNorm(_EPSILON, name="norm")(x)


class PVTv2(nn.Module):
    """The trunk of PVT v2; what a stage returns is normalised, and is what the next stage begins with.

    Every cell sees the whole image, its padding too.

    Attributes:
      depths: blocks of the four stages.
      widths: channels of the four stages.
      heads: heads of the four stages.
      reductions: see `ReducedAttention`, of the four stages.
      expansions: see `PVTBlock`, of the four stages.
      stochastic_depth: chance of leaving out the last block's branches while training; it grows linearly from 0 at
        the first block.
      stages: how many of the four stages are computed; 3 leaves c5 to heads that have a `last_stage` of their own.
      axis_name: device axis that the batch is spread over.
      dtype: type of the computation and the features; None takes the image's. Parameters are float32.
    """

    depths: Sequence[int] = (3, 4, 6, 3)
    widths: Sequence[int] = (64, 128, 320, 512)
    heads: Sequence[int] = (1, 2, 5, 8)
    reductions: Sequence[int] = (8, 4, 2, 1)
    expansions: Sequence[int] = (8, 8, 4, 4)
    stochastic_depth: float = 0.1
    stages: int = 4
    axis_name: str | None = None
    dtype: Any = None

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each feature map."""
        return {f"c{index + 2}": width for index, width in enumerate(self.widths)}

    @nn.nowrap
    def _stage(self, index: int, name: str | None) -> PVTStage:
        before, total = sum(self.depths[:index]), sum(self.depths)
        rates = [self.stochastic_depth * (before + j) / (total - 1) for j in range(self.depths[index])]
        return PVTStage(
            tuple(rates),
            self.widths[index],
            self.heads[index],
            self.reductions[index],
            self.expansions[index],
            patch=3 if index else 7,
            stride=2 if index else 4,
            axis_name=self.axis_name,
            dtype=self.dtype,
            name=name,
        )

    @nn.nowrap
    def last_stage(self, name: str | None = None) -> PVTStage:
        """Returns a new module like the last stage, c4 to c5 with its patches, with its own weights.

        Inside a module it becomes that module's submodule, under `name`.
        """
        return self._stage(3, name)

    @nn.nowrap
    def classifier(self, name: str | None = None) -> TrunkClassifier:
        """Returns a new module like the classifier that the release has behind this trunk."""
        return TrunkClassifier(name=name)

    @nn.compact
    def __call__(
        self, image: Float[Array, "batch height width 3"], train: bool
    ) -> dict[str, Float[Array, "batch _ _ _"]]:
        """Computes the feature maps of strides 4, 8, 16 and 32.

        Args:
          image: normalised images [batch, height, width, 3], of at least 32 pixels a side.
          train: switch stochastic depth on (needs the rng stream "stochastic_depth").

        Returns:
          Feature maps "c2", "c3", "c4", "c5", as far as computed, each [batch, height, width, channel].
        """
        features = {}
        x = image
        for index in range(self.stages):
            x = self._stage(index, f"stage{index + 1}")(x, train)
            features[f"c{index + 2}"] = x
        return features
