"""ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s")."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.backbones.classifier import TrunkClassifier
from ps_jax.layers import Conv, LayerNorm, Linear, StochasticDepth

_KERNEL_INIT = nn.initializers.truncated_normal(0.02)
_ZEROS = nn.initializers.zeros


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution, LayerNorm and a two-layer perceptron around a shortcut.

    Attributes:
      stochastic_depth: chance that the branch is left out, per image.
      layer_scale: initial factor of the branch.
      axis_name: device axis that the batch is spread over (for stochastic depth).
      dtype: type of the computation; None takes the input's.
    """

    stochastic_depth: float = 0.0
    layer_scale: float = 1e-6
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch height width channel"]:
        """Applies the block; `train` switches stochastic depth on."""
        channels = x.shape[-1]
        init = {"kernel_init": _KERNEL_INIT, "bias_init": _ZEROS, "dtype": self.dtype}
        branch = Conv(channels, 7, padding=3, groups=channels, name="depthwise", **init)(x)
        branch = LayerNorm(name="norm")(branch)
        branch = Linear(4 * channels, name="expand", **init)(branch)
        branch = jax.nn.gelu(branch, approximate=False)
        branch = Linear(channels, name="project", **init)(branch)
        factor = self.param("layer_scale", nn.initializers.constant(self.layer_scale), (channels,))
        branch = branch * factor.astype(branch.dtype)
        branch = StochasticDepth(self.stochastic_depth, self.axis_name, name="drop")(branch, train)
        return x.astype(branch.dtype) + branch


class ConvNeXtStage(nn.Module):
    """Blocks of one resolution, after halving it.

    Attributes:
      stochastic_depth: for each block the chance that its branch is left out.
      features: output channels.
      downsample: begin with LayerNorm and a 2x2 convolution of stride 2 (all stages but the first).
      axis_name: device axis that the batch is spread over.
      dtype: type of the computation; None takes the input's.
    """

    stochastic_depth: Sequence[float]
    features: int
    downsample: bool = True
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Applies the blocks one after the other."""
        if self.downsample:
            x = LayerNorm(name="downsample_norm")(x)
            x = Conv(
                self.features,
                2,
                stride=2,
                kernel_init=_KERNEL_INIT,
                bias_init=_ZEROS,
                dtype=self.dtype,
                name="downsample_conv",
            )(x)
        for index, rate in enumerate(self.stochastic_depth):
            x = ConvNeXtBlock(rate, axis_name=self.axis_name, dtype=self.dtype, name=f"block{index}")(
                x, train
            )
        return x


class ConvNeXt(nn.Module):
    """The trunk of ConvNeXt as in torchvision, without a normalisation of the returned maps.

    Attributes:
      depths: blocks of the four stages.
      widths: channels of the four stages.
      stochastic_depth: chance of leaving out the last block's branch while training; it grows linearly
        from 0 at the first block. torchvision: 0.1 for tiny, 0.5 for base.
      stages: how many of the four stages are computed; 3 leaves c5 to heads that have a `last_stage` of their own.
      axis_name: device axis that the batch is spread over.
      dtype: type of the computation and the features; None takes the image's. Parameters are float32.
    """

    depths: Sequence[int] = (3, 3, 9, 3)
    widths: Sequence[int] = (96, 192, 384, 768)
    stochastic_depth: float = 0.1
    stages: int = 4
    axis_name: str | None = None
    dtype: Any = None

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each feature map."""
        return {f"c{index + 2}": width for index, width in enumerate(self.widths)}

    @nn.nowrap
    def _stage(self, index: int, name: str | None) -> ConvNeXtStage:
        before, total = sum(self.depths[:index]), sum(self.depths)
        rates = [self.stochastic_depth * (before + j) / (total - 1) for j in range(self.depths[index])]
        return ConvNeXtStage(
            tuple(rates),
            self.widths[index],
            downsample=index > 0,
            axis_name=self.axis_name,
            dtype=self.dtype,
            name=name,
        )

    @nn.nowrap
    def last_stage(self, name: str | None = None) -> ConvNeXtStage:
        """Returns a new module like the last stage, c4 to c5 with its downsampling, with its own weights.

        Inside a module it becomes that module's submodule, under `name`.
        """
        return self._stage(3, name)

    @nn.nowrap
    def classifier(self, name: str | None = None) -> TrunkClassifier:
        """Returns a new module like the classifier that torchvision has behind this trunk."""
        return TrunkClassifier(norm=LayerNorm(), name=name)

    @nn.compact
    def __call__(
        self, image: Float[Array, "batch height width 3"], train: bool
    ) -> dict[str, Float[Array, "batch _ _ _"]]:
        """Computes the feature maps of strides 4, 8, 16 and 32.

        Args:
          image: normalised images [batch, height, width, 3].
          train: switch stochastic depth on (needs the rng stream "stochastic_depth").

        Returns:
          Feature maps "c2", "c3", "c4", "c5", as far as computed, each [batch, height, width, channel].
        """
        x = Conv(
            self.widths[0],
            4,
            stride=4,
            kernel_init=_KERNEL_INIT,
            bias_init=_ZEROS,
            dtype=self.dtype,
            name="stem_conv",
        )(image)
        x = LayerNorm(name="stem_norm")(x)
        features = {}
        for index in range(self.stages):
            x = self._stage(index, f"stage{index + 1}")(x, train)
            features[f"c{index + 2}"] = x
        return features
