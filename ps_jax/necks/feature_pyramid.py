"""The feature pyramid network (Lin et al. 2017) with the extra levels of RetinaNet or Faster R-CNN."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.errors import ConfigError
from ps_jax.layers import Conv, kaiming_uniform
from ps_jax.layers.resize import resize_nearest

EXTRA_LEVELS = ("p6p7", "p6p7_of_p5", "pool", None)


class FeaturePyramid(nn.Module):
    """Top-down pyramid over the maps of a trunk, as `torchvision.ops.FeaturePyramidNetwork`.

    1x1 lateral convolutions, nearest upsampling added from the level above, 3x3 output convolutions; all
    with bias, without normalisation or activation.

    Attributes:
      width: channels of every returned level.
      extra_levels: "p6p7" adds p6, a 3x3 convolution of stride 2 of the topmost *input* map, and p7, another
        one of relu(p6) (torchvision's `LastLevelP6P7` where trunk and pyramid differ in width, as SPNet
        has it, and maskrcnn-benchmark's RetinaNet); "p6p7_of_p5" takes p6 from p5 (torchvision's RetinaNet);
        "pool" adds p6, every second cell of p5 (Faster R-CNN); None adds none.
      levels: which of 2, 3, 4 and 5 are returned; the others have no output convolution, and what is finer than
        all of them is not looked at.
      dtype: type of the computation; None takes the input's.
    """

    width: int
    extra_levels: str | None = "p6p7"
    levels: Sequence[int] = (3, 4, 5)
    dtype: Any = None

    @nn.compact
    def __call__(
        self, features: dict[str, Float[Array, "batch _ _ _"]]
    ) -> dict[str, Float[Array, "batch _ _ {self.width}"]]:
        """Builds the pyramid.

        Args:
          features: maps "c5" to that of the finest wanted level of a trunk [batch, height, width, channel] (others in
            the dictionary are not looked at).

        Returns:
          Those of "p2", "p3", "p4" and "p5" that are wanted and, with extra levels, "p6", "p7", each
          [batch, height, width, width].

        Raises:
          ConfigError: if `extra_levels` is none of `EXTRA_LEVELS`.
        """
        if self.extra_levels not in EXTRA_LEVELS:
            raise ConfigError(
                f"extra_levels is {self.extra_levels!r}. Use 'p6p7', 'p6p7_of_p5', 'pool' or None."
            )

        def conv(name, x, kernel_size, stride=1):
            return Conv(
                self.width,
                kernel_size,
                stride=stride,
                padding=kernel_size // 2,
                dtype=self.dtype,
                kernel_init=kaiming_uniform(1.0),
                bias_init=nn.initializers.zeros,
                name=name,
            )(x)

        levels: dict[str, jax.Array] = {}
        above = None
        for level in range(5, min(self.levels) - 1, -1):
            merged = conv(f"lateral{level}", features[f"c{level}"], 1)
            if above is not None:
                merged = merged + resize_nearest(above, merged.shape[1:3])
            if level in self.levels:
                levels[f"p{level}"] = conv(f"output{level}", merged, 3)
            above = merged
        if self.extra_levels == "pool":
            levels["p6"] = levels["p5"][:, ::2, ::2]
        elif self.extra_levels:
            top = features["c5"] if self.extra_levels == "p6p7" else levels["p5"]
            levels["p6"] = conv("p6", top, 3, stride=2)
            levels["p7"] = conv("p7", jax.nn.relu(levels["p6"]), 3, stride=2)
        return dict(sorted(levels.items()))
