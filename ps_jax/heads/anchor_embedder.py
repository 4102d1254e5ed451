"""One embedding for every anchor of a feature pyramid."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.layers import Conv, normal

_PRIOR = 0.01


class AnchorEmbedder(nn.Module):
    """A single 3x3 convolution, shared by all levels, from pyramid features to anchor embeddings.

    The bias starts at -log((1 - p) / p) with p = 0.01 in every channel: all embeddings start far from
    zero, so that hardly any anchor scores at the beginning (as SPNet's released code).

    Attributes:
      dimension: length of an embedding.
      anchors_per_cell: anchors at each position of a map.
      dtype: type of the convolution.
    """

    dimension: int
    anchors_per_cell: int
    dtype: Any = None

    @nn.compact
    def __call__(self, pyramid: Mapping[str, Array]) -> Float[Array, "batch anchor dimension"]:
        """Embeds the anchors of all levels.

        Args:
          pyramid: maps [batch, height, width, channel] of one width, finest level first.

        Returns:
          float32 embeddings in the order of `ps_jax.boxes.pyramid_anchors`: level, row, column, anchor.
        """
        convolution = Conv(
            self.anchors_per_cell * self.dimension,
            3,
            padding=1,
            dtype=self.dtype,
            kernel_init=normal(0.01),
            bias_init=nn.initializers.constant(-math.log((1.0 - _PRIOR) / _PRIOR)),
            name="convolution",
        )
        embeddings = [
            rearrange(convolution(level), "b h w (a d) -> b (h w a) d", a=self.anchors_per_cell)
            for level in pyramid.values()
        ]
        return jnp.concatenate(embeddings, axis=1).astype(jnp.float32)
