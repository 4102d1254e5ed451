"""Swin Transformers: torchvision's of both versions, and the one of SOLIDER.

Liu et al. 2021, "Swin Transformer"; Liu et al. 2022, "Swin Transformer V2"; Chen et al. 2023, "Beyond Appearance: a
Semantic Controllable Self-Supervised Learning Framework for Human-Centric Visual Tasks" (SOLIDER).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.backbones.classifier import TrunkClassifier
from ps_jax.backbones.window_attention import WindowAttention
from ps_jax.errors import ConfigError
from ps_jax.layers import Conv, LayerNorm, Linear, StochasticDepth, normal

PATCH = 4  # side of the patches that the image is cut into, in pixels
_EPSILON = 1e-5  # of every LayerNorm
_INIT: dict[str, Any] = {"kernel_init": normal(0.02), "bias_init": nn.initializers.zeros}


class SwinBlock(nn.Module):
    """Window attention and a two-layer perceptron, each around a shortcut.

    Attributes:
      heads: heads of the attention.
      window: side of a window, in cells.
      shifted: shift the windows by half their side.
      version: 1 normalises before attention and perceptron, 2 after them.
      shift_single_window: see `WindowAttention`.
      stochastic_depth: chance that a branch is left out, per image.
      axis_name: device axis that the batch is spread over (for stochastic depth).
      dtype: type of the computation; None takes the input's.
    """

    heads: int
    window: int
    shifted: bool = False
    version: int = 1
    shift_single_window: bool = False
    stochastic_depth: float = 0.0
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch height width channel"]:
        """Applies the block; `train` switches stochastic depth on."""
        channels = x.shape[-1]
        attention = WindowAttention(
            self.heads,
            self.window,
            shift=self.window // 2 if self.shifted else 0,
            version=self.version,
            shift_single_window=self.shift_single_window,
            dtype=self.dtype,
            name="attention",
        )

        def perceptron(x):
            x = Linear(4 * channels, dtype=self.dtype, name="expand", **_INIT)(x)
            x = jax.nn.gelu(x, approximate=False)
            return Linear(channels, dtype=self.dtype, name="project", **_INIT)(x)

        for index, branch in ((1, attention), (2, perceptron)):
            norm = LayerNorm(_EPSILON, name=f"norm{index}")
            result = branch(norm(x)) if self.version == 1 else norm(branch(x))
            drop = StochasticDepth(self.stochastic_depth, self.axis_name, name=f"drop{index}")
            x = x.astype(result.dtype) + drop(result, train)
        return x


class SwinStage(nn.Module):
    """Blocks of one resolution, after halving it; windows are shifted in every other block.

    Attributes:
      stochastic_depth: for each block the chance that a branch is left out.
      features: output channels.
      heads: heads of the attention.
      window: side of a window, in cells.
      version: 1 or 2.
      downsample: begin by merging 2x2 cells (all stages but the first).
      semantic_weight: SOLIDER's; see `Swin`.
      normalise: end with a LayerNorm.
      axis_name: device axis that the batch is spread over.
      dtype: type of the computation; None takes the input's.
    """

    stochastic_depth: Sequence[float]
    features: int
    heads: int
    window: int = 7
    version: int = 1
    downsample: bool = True
    semantic_weight: float | None = None
    normalise: bool = False
    axis_name: str | None = None
    dtype: Any = None

    @property
    def average_pooled(self) -> bool:
        """Whether a box's embedding is the mean of this stage's map (SOLIDER) instead of its maximum."""
        return self.semantic_weight is not None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Applies the blocks one after the other."""
        if self.downsample:
            x = self._merge_patches(x)
            if self.semantic_weight is not None:
                x = self._modulate(x, self.semantic_weight)
        for index, rate in enumerate(self.stochastic_depth):
            x = SwinBlock(
                self.heads,
                self.window,
                shifted=index % 2 == 1,
                version=self.version,
                shift_single_window=self.semantic_weight is not None,
                stochastic_depth=rate,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=f"block{index}",
            )(x, train)
        return LayerNorm(_EPSILON, name="norm")(x) if self.normalise else x

    def _merge_patches(
        self, x: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch out_height out_width features"]:
        """One cell of four, zeros added below and beside odd maps; version 2 normalises the result instead."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        x = rearrange(x, "b (h i) (w j) c -> b h w (j i c)", i=2, j=2)
        norm = LayerNorm(_EPSILON, name="downsample_norm")
        reduce = Linear(self.features, use_bias=False, dtype=self.dtype, name="downsample_reduction", **_INIT)
        return reduce(norm(x)) if self.version == 1 else norm(reduce(x))

    def _modulate(
        self, x: Float[Array, "batch height width channel"], weight: float
    ) -> Float[Array, "batch height width channel"]:
        """SOLIDER's semantic controller: scale and shift of every channel, from the weight of the semantics."""
        semantics = jnp.asarray([weight, 1.0 - weight], jnp.float32)
        scale = jax.nn.softplus(Linear(self.features, name="semantic_scale", **_INIT)(semantics))
        shift = Linear(self.features, name="semantic_shift", **_INIT)(semantics)
        return x * scale.astype(x.dtype) + shift.astype(x.dtype)


class Swin(nn.Module):
    """The trunk of a Swin Transformer as in torchvision, or as in SOLIDER.

    torchvision's returns its stages' maps as they are. SOLIDER's scales and shifts the channels between the
    stages, normalises each map that it returns (not what goes on), and shifts windows also where a single one
    covers the map.

    Attributes:
      depths: blocks of the four stages.
      width: channels of the first stage; every further one has twice those of the one before.
      heads: heads in the first stage, doubled likewise.
      window: side of a window, in cells. torchvision: 7 in version 1, 8 in version 2.
      version: 1 or 2.
      semantic_weight: None is torchvision's trunk, a number SOLIDER's: how much the features should tell of the
        meaning (1) or of the appearance (0) of people; 0.6 for person search.
      stochastic_depth: chance of leaving out the last block's branches while training; it grows linearly
        from 0 at the first block. torchvision: 0.2 for tiny, 0.3 for small, 0.5 for base; SOLIDER: 0.1.
      stages: how many of the four stages are computed; 3 leaves c5 to heads that have a `last_stage` of their own.
      axis_name: device axis that the batch is spread over.
      dtype: type of the computation and the features; None takes the image's. Parameters are float32.
    """

    depths: Sequence[int] = (2, 2, 6, 2)
    width: int = 96
    heads: int = 3
    window: int = 7
    version: int = 1
    semantic_weight: float | None = None
    stochastic_depth: float = 0.2
    stages: int = 4
    axis_name: str | None = None
    dtype: Any = None

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each feature map."""
        return {f"c{index + 2}": self.width * 2**index for index in range(4)}

    @nn.nowrap
    def _stage(self, index: int, name: str | None) -> SwinStage:
        before, total = sum(self.depths[:index]), sum(self.depths)
        rates = [self.stochastic_depth * (before + j) / (total - 1) for j in range(self.depths[index])]
        return SwinStage(
            tuple(rates),
            self.width * 2**index,
            self.heads * 2**index,
            window=self.window,
            version=self.version,
            downsample=index > 0,
            semantic_weight=self.semantic_weight,
            normalise=index == 3 and self.semantic_weight is not None,
            axis_name=self.axis_name,
            dtype=self.dtype,
            name=name,
        )

    @nn.nowrap
    def last_stage(self, name: str | None = None) -> SwinStage:
        """Returns a new module like the last stage, c4 to c5 with its downsampling, with its own weights.

        Inside a module it becomes that module's submodule, under `name`.
        """
        return self._stage(3, name)

    @nn.nowrap
    def classifier(self, name: str | None = None) -> TrunkClassifier:
        """Returns a new module like the classifier that torchvision has behind this trunk.

        Raises:
          ConfigError: if the trunk is SOLIDER's, which was not trained to classify.
        """
        if self.semantic_weight is not None:
            raise ConfigError(
                "SOLIDER's Swin trunks have no ImageNet classifier, which learning without forgetting (lwf) needs. "
                "Use another trunk, or leave lwf out."
            )
        return TrunkClassifier(map_norm=LayerNorm(_EPSILON), name=name)

    @nn.compact
    def __call__(
        self, image: Float[Array, "batch height width 3"], train: bool
    ) -> dict[str, Float[Array, "batch _ _ _"]]:
        """Computes the feature maps of strides 4, 8, 16 and 32.

        Args:
          image: normalised images [batch, height, width, 3], of any size.
          train: switch stochastic depth on (needs the rng stream "stochastic_depth").

        Returns:
          Feature maps "c2", "c3", "c4", "c5", as far as computed, each [batch, height, width, channel].
        """
        if self.semantic_weight is not None:  # torchvision leaves out what does not fill a patch
            below, beside = (-side % PATCH for side in image.shape[1:3])
            image = jnp.pad(image, ((0, 0), (0, below), (0, beside), (0, 0)))
        x = Conv(self.width, PATCH, stride=PATCH, dtype=self.dtype, name="stem_conv")(image)
        x = LayerNorm(_EPSILON, name="stem_norm")(x)
        features = {}
        for index in range(self.stages):
            x = self._stage(index, f"stage{index + 1}")(x, train)
            features[f"c{index + 2}"] = x
            if self.semantic_weight is not None and index < 3:  # the last stage holds its own, for its copies
                features[f"c{index + 2}"] = LayerNorm(_EPSILON, name=f"stage{index + 1}_norm")(x)
        return features
