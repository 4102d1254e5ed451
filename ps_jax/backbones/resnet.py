"""ResNet with bottleneck blocks: version 1.5, and the first one as Caffe and Detectron have it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.backbones.classifier import TrunkClassifier
from ps_jax.layers import BatchNorm, Conv, DeformableConv, kaiming_normal_fan_out

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution around a shortcut; the 3x3 one carries the stride (version 1.5).

    Attributes:
      width: channels of the 3x3 convolution; the block returns 4 times as many.
      stride: step of the 3x3 convolution and of the shortcut.
      project_shortcut: pass the shortcut through a 1x1 convolution (first block of a stage).
      stride_in_first: the first 1x1 convolution carries the stride (He et al. 2016, and Caffe's weights).
      deformable: the 3x3 convolution is a modulated deformable one, whose offsets start at zero.
      axis_name: device axis that batch statistics are shared over.
      dtype: type of the computation; None takes the input's.
    """

    width: int
    stride: int = 1
    project_shortcut: bool = False
    stride_in_first: bool = False
    deformable: bool = False
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Applies the block; `train` normalises with the batch's statistics."""

        def conv_norm(index, x, features, kernel_size, stride=1):
            conv_name, norm_name = (
                (f"conv{index}", f"norm{index}") if index else ("shortcut_conv", "shortcut_norm")
            )
            options = {"stride": stride, "use_bias": False, "dtype": self.dtype, "name": conv_name}
            options["kernel_init"] = kaiming_normal_fan_out()
            if self.deformable and index == 2:
                x = DeformableConv(features, kernel_size, modulated=True, **options)(x)
            else:
                x = Conv(features, kernel_size, padding=kernel_size // 2, **options)(x)
            return BatchNorm(axis_name=self.axis_name, name=norm_name)(x, use_running_average=not train)

        first, second = (self.stride, 1) if self.stride_in_first else (1, self.stride)
        result = jax.nn.relu(conv_norm(1, x, self.width, 1, first))
        result = jax.nn.relu(conv_norm(2, result, self.width, 3, second))
        result = conv_norm(3, result, EXPANSION * self.width, 1)
        if self.project_shortcut:
            x = conv_norm(0, x, EXPANSION * self.width, 1, self.stride)
        return jax.nn.relu(result + x.astype(result.dtype))


class ResNetStage(nn.Module):
    """Bottleneck blocks of one resolution.

    Attributes:
      blocks: how many.
      width: channels of the 3x3 convolutions; the stage returns 4 times as many.
      stride: step of the first block.
      stride_in_first, deformable: see `Bottleneck`.
      axis_name: device axis that batch statistics are shared over.
      dtype: type of the computation; None takes the input's.
    """

    blocks: int
    width: int
    stride: int = 2
    stride_in_first: bool = False
    deformable: bool = False
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Applies the blocks one after the other."""
        for index in range(self.blocks):
            x = Bottleneck(
                self.width,
                stride=self.stride if index == 0 else 1,
                project_shortcut=index == 0,
                stride_in_first=self.stride_in_first,
                deformable=self.deformable,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=f"block{index}",
            )(x, train)
        return x


class ResNet(nn.Module):
    """The trunk of ResNet-50, -101 and -152 as in torchvision (He et al. 2016; version 1.5).

    Attributes:
      depths: blocks of the four stages; (3, 4, 6, 3) is ResNet-50.
      stages: how many of the four stages are computed; 3 leaves c5 to heads that have a `last_stage` of their own.
      last_stride: stride of the last stage; 1 keeps the size of c4 (networks for re-identification).
      stride_in_first: see `Bottleneck`; True is Caffe's ResNet.
      deformable_stages: numbers, from 1, of the stages whose 3x3 convolutions are deformable.
      axis_name: device axis that batch statistics are shared over.
      dtype: type of the computation and the features; None takes the image's. Parameters and batch
        statistics are float32.
    """

    depths: Sequence[int] = (3, 4, 6, 3)
    stages: int = 4
    last_stride: int = 2
    stride_in_first: bool = False
    deformable_stages: Sequence[int] = ()
    axis_name: str | None = None
    dtype: Any = None

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each feature map."""
        return {f"c{index + 2}": EXPANSION * 64 * 2**index for index in range(4)}

    @nn.nowrap
    def _stage(self, index: int, name: str | None) -> ResNetStage:
        return ResNetStage(
            self.depths[index],
            64 * 2**index,
            stride=(1, 2, 2, self.last_stride)[index],
            stride_in_first=self.stride_in_first,
            deformable=index + 1 in self.deformable_stages,
            axis_name=self.axis_name,
            dtype=self.dtype,
            name=name,
        )

    @nn.nowrap
    def last_stage(self, name: str | None = None) -> ResNetStage:
        """Returns a new module like the last stage, c4 to c5, with weights of its own.

        Inside a module it becomes that module's submodule, under `name`.
        """
        return self._stage(3, name)

    @nn.nowrap
    def classifier(self, name: str | None = None) -> TrunkClassifier:
        """Returns a new module like the classifier that torchvision has behind this trunk."""
        return TrunkClassifier(name=name)

    @nn.compact
    def __call__(
        self, image: Float[Array, "batch height width 3"], train: bool
    ) -> dict[str, Float[Array, "batch _ _ _"]]:
        """Computes the feature maps of strides 4, 8, 16 and 32.

        Args:
          image: normalised images [batch, height, width, 3].
          train: normalise with the batch's statistics and move the running ones.

        Returns:
          Feature maps "c2", "c3", "c4", "c5", as far as computed, each [batch, height, width, channel].
        """
        x = Conv(
            64,
            7,
            stride=2,
            padding=3,
            use_bias=False,
            kernel_init=kaiming_normal_fan_out(),
            dtype=self.dtype,
            name="stem_conv",
        )(image)
        x = jax.nn.relu(BatchNorm(axis_name=self.axis_name, name="stem_norm")(x, not train))
        # torch pads with minus infinity; after relu zero does the same and keeps the gradient finite.
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = nn.max_pool(x, (3, 3), (2, 2))
        features = {}
        for index in range(self.stages):
            x = self._stage(index, f"stage{index + 1}")(x, train)
            features[f"c{index + 2}"] = x
        return features
