"""Aligned feature aggregation, the neck of AlignPS (Yan et al., "Efficient Person Search: An Anchor-Free Approach")."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.errors import ConfigError
from ps_jax.layers import Conv, DeformableConv, kaiming_uniform
from ps_jax.layers.resize import resize_nearest

LEVELS = (3, 4, 5, 6, 7)


class AlignedFeatureAggregation(nn.Module):
    """A top-down pyramid that is aligned to people by deformable convolutions and concatenates instead of adding.

    Section III-B of the paper. Lateral and output convolutions are 3x3, deformable without modulation, without bias,
    normalisation or activation; the map above is upsampled by its nearest cells. P6 is a plain convolution of stride 2
    of P5, P7 one of relu(P6), as the released code has them in training.

    Attributes:
      width: channels of every returned level.
      levels: which to return, some of 3 to 7.
      lateral_deformable: False: plain 1x1 lateral convolutions with bias (table II).
      output_deformable: False: plain 3x3 output convolutions with bias (table II).
      concatenate: False: the map above is added, as in a feature pyramid network (table II).
      xavier_offsets: offsets start with random kernels, as an oversight of the released code has it; False: at zero.
      dtype: type of the computation; None takes the input's.
    """

    width: int
    levels: Sequence[int] = (3,)
    lateral_deformable: bool = True
    output_deformable: bool = True
    concatenate: bool = True
    xavier_offsets: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, features: dict[str, Float[Array, "batch _ _ _"]]
    ) -> dict[int, Float[Array, "batch _ _ {self.width}"]]:
        """Builds the wanted levels.

        Args:
          features: maps "c3", "c4", "c5" of a trunk [batch, height, width, channel].

        Returns:
          The level's number -> [batch, height, width, width].

        Raises:
          ConfigError: if one of `levels` is not in 3 .. 7.
        """
        if not set(self.levels) <= set(LEVELS):
            raise ConfigError(f"levels are {tuple(self.levels)}. Use some of {LEVELS}.")
        merged: dict[int, jax.Array] = {}
        for level in range(5, min(5, *self.levels) - 1, -1):  # what lies below the lowest is not looked at
            lateral = self._conv(f"lateral{level}", self.lateral_deformable, 1)(features[f"c{level}"])
            if level < 5:
                above = resize_nearest(merged[level + 1], lateral.shape[1:3])
                lateral = jnp.concatenate([lateral, above], -1) if self.concatenate else lateral + above
            merged[level] = lateral
        wanted = set(self.levels) | ({5} if max(self.levels) > 5 else set()) | ({6} & {max(self.levels) - 1})
        built: dict[int, jax.Array] = {
            level: self._conv(f"output{level}", self.output_deformable, 3)(merged[level])
            for level in (3, 4, 5)
            if level in wanted
        }
        if 6 in wanted:
            built[6] = self._conv("p6", False, 3, stride=2)(built[5])
        if 7 in wanted:
            built[7] = self._conv("p7", False, 3, stride=2)(jax.nn.relu(built[6]))
        return {level: built[level] for level in self.levels}

    def _conv(self, name: str, deformable: bool, plain_size: int, stride: int = 1) -> Callable:
        if deformable:
            offset_init = nn.initializers.xavier_uniform() if self.xavier_offsets else nn.initializers.zeros
            return DeformableConv(self.width, offset_init=offset_init, dtype=self.dtype, name=name)
        return Conv(
            self.width,
            plain_size,
            stride=stride,
            padding=plain_size // 2,
            dtype=self.dtype,
            kernel_init=kaiming_uniform(1.0) if plain_size == 1 else nn.initializers.xavier_uniform(),
            bias_init=nn.initializers.zeros,
            name=name,
        )
