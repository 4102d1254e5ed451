"""OSNet for crops of one person (Zhou et al., "Omni-Scale Feature Learning for Re-Identification", ICCV 2019)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.backbones._conv_norm import ConvNorm
from ps_jax.layers import BatchNorm, Conv, Linear, kaiming_normal_fan_out

STREAMS = 4  # of a block: 1, 2, 3 and 4 light convolutions deep
GATE_REDUCTION = 16
BOTTLENECK = 4  # channels of a block over those of its streams
BLOCKS = 2  # of a stage
STAGES = 3


class LightConvolution(nn.Module):
    """A linear 1x1 convolution and a depthwise 3x3 one, BatchNorm and ReLU (figure 4 of the paper).

    Attributes:
      axis_name: device axis that batch statistics are shared over.
      dtype: type of the computation; None takes the input's.
    """

    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch height width channel"]:
        """Applies both; `train` normalises with the batch's statistics."""
        channels = x.shape[-1]
        options: dict[str, Any] = {
            "use_bias": False,
            "kernel_init": kaiming_normal_fan_out(),
            "dtype": self.dtype,
        }
        x = Conv(channels, 1, name="pointwise", **options)(x)
        x = Conv(channels, 3, padding=1, groups=channels, name="depthwise", **options)(x)
        return jax.nn.relu(BatchNorm(axis_name=self.axis_name, name="norm")(x, use_running_average=not train))


class ChannelGate(nn.Module):
    """Multiplies each channel by a number in 0 .. 1 made of the means of all (the unified aggregation gate).

    Attributes:
      dtype: type of the computation; None takes the input's.
    """

    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch height width channel"]:
        """Gates a map."""
        channels = x.shape[-1]
        hidden = jnp.mean(x, axis=(1, 2), keepdims=True)
        hidden = jax.nn.relu(Conv(channels // GATE_REDUCTION, 1, dtype=self.dtype, name="fc1")(hidden))
        return x * jax.nn.sigmoid(Conv(channels, 1, dtype=self.dtype, name="fc2")(hidden))


class OmniScaleBlock(nn.Module):
    """Streams of receptive fields of several sizes around a shortcut; one gate for all of them.

    Attributes:
      features: output channels.
      axis_name: device axis that batch statistics are shared over.
      dtype: type of the computation; None takes the input's.
    """

    features: int
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch height width {self.features}"]:
        """Applies the block; `train` normalises with the batch's statistics."""
        common = {"axis_name": self.axis_name, "dtype": self.dtype}
        reduced = ConvNorm(self.features // BOTTLENECK, name="reduce", **common)(x, train)
        gate = ChannelGate(self.dtype, name="gate")
        merged: Any = 0
        for stream in range(STREAMS):
            y = reduced
            for index in range(stream + 1):
                y = LightConvolution(name=f"stream{stream}_{index}", **common)(y, train)
            merged += gate(y)
        merged = ConvNorm(self.features, activation=None, name="expand", **common)(merged, train)
        if x.shape[-1] != self.features:
            x = ConvNorm(self.features, activation=None, name="shortcut", **common)(x, train)
        return jax.nn.relu(merged + x.astype(merged.dtype))


class OSNet(nn.Module):
    """OSNet with its embedding layer; the widths (16, 64, 96, 128) are those of OSNet x0.25.

    Attributes:
      widths: channels of the first convolution and of the three stages.
      features: D, length of the embedding.
      axis_name: device axis that batch statistics are shared over.
      dtype: type of the convolutions; None takes the image's. The embedding layer is float32.
    """

    widths: Sequence[int] = (16, 64, 96, 128)
    features: int = 512
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, crops: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch {self.features}"]:
        """Embeds normalised crops; `train` normalises with the batch's statistics and moves the running ones."""
        common = {"axis_name": self.axis_name, "dtype": self.dtype}
        x = ConvNorm(self.widths[0], 7, stride=2, name="stem", **common)(crops, train)
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros do behind ReLU
        x = nn.max_pool(x, (3, 3), (2, 2))
        for stage in range(1, STAGES + 1):
            for block in range(BLOCKS):
                name = f"stage{stage}_block{block}"
                x = OmniScaleBlock(self.widths[stage], name=name, **common)(x, train)
            if stage < STAGES:
                x = ConvNorm(self.widths[stage], name=f"transition{stage}", **common)(x, train)
                x = nn.avg_pool(x, (2, 2), (2, 2))
        x = ConvNorm(self.widths[-1], name="last", **common)(x, train)
        x = Linear(self.features, name="embedding")(jnp.mean(x.astype(jnp.float32), axis=(1, 2)))
        return jax.nn.relu(
            BatchNorm(axis_name=self.axis_name, name="embedding_norm")(x, use_running_average=not train)
        )
