"""RetinaNet's head: class and box of every anchor of a pyramid (Lin et al., Focal Loss for Dense Object Detection)."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.layers import Conv, normal

DEPTH = 4  # convolutions of a tower
PRIOR = 0.01  # probability that classification starts with


class DenseAnchorHead(nn.Module):
    """Two towers of four 3x3 convolutions with ReLU, shared by all levels, and a 3x3 convolution behind each.

    Attributes:
      width: channels of the towers.
      anchors_per_cell: anchors at each position of a map.
      classes: C, logits of an anchor; there is none for background.
      dtype: type of the computation; None takes the input's.
    """

    width: int
    anchors_per_cell: int
    classes: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(
        self, pyramid: Mapping[str, Array]
    ) -> tuple[Float[Array, "batch anchor {self.classes}"], Float[Array, "batch anchor 4"]]:
        """Looks at all levels.

        Args:
          pyramid: maps [batch, height, width, channel] of one width, finest level first.

        Returns:
          f32 logits and box deltas in the order of `ps_jax.boxes.pyramid_anchors`: level, row, column, anchor.
        """

        def conv(name, features, bias=0.0):
            return Conv(
                features,
                3,
                padding=1,
                dtype=self.dtype,
                kernel_init=normal(0.01),
                bias_init=nn.initializers.constant(bias),
                name=name,
            )

        def branch(name, numbers, bias):
            tower = [conv(f"{name}{index}", self.width) for index in range(DEPTH)]
            output = conv(name, self.anchors_per_cell * numbers, bias)
            levels = []
            for x in pyramid.values():
                for layer in tower:
                    x = jax.nn.relu(layer(x))
                levels.append(rearrange(output(x), "b h w (a n) -> b (h w a) n", n=numbers))
            return jnp.concatenate(levels, axis=1).astype(jnp.float32)

        logits = branch("classification", self.classes, -math.log((1.0 - PRIOR) / PRIOR))
        return logits, branch("regression", 4, 0.0)
