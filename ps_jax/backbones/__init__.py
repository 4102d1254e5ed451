"""Trunks: an image in, feature maps of strides 4 to 32 out.

Every trunk is a Linen module with `__call__(image, train) -> {"c2", "c3", "c4", "c5"}`, `channels` (the
channels of each map), `last_stage(name)` (a new module like the one from c4 to c5) and `classifier(name)` (a new
`TrunkClassifier` of c5).
"""

from typing import Any

from flax import linen as nn

from ps_jax.backbones.classifier import TrunkClassifier as TrunkClassifier
from ps_jax.backbones.convnext import ConvNeXt as ConvNeXt
from ps_jax.backbones.mobilenet_v2 import MobileNetV2 as MobileNetV2
from ps_jax.backbones.resnet import ResNet as ResNet
from ps_jax.errors import ConfigError

TRUNKS = ("resnet50", "convnext_tiny", "convnext_base", "mobilenet_v2")


def build_trunk(name: str, **options: Any) -> nn.Module:
    """Builds a trunk by its torchvision name.

    Args:
      name: one of `TRUNKS`.
      **options: attributes of the module (`dtype`, `axis_name`, for ConvNeXt `stochastic_depth`).

    Returns:
      The Linen module.

    Raises:
      ConfigError: if there is no such trunk.
    """
    if name == "resnet50":
        return ResNet(depths=(3, 4, 6, 3), **options)
    if name == "convnext_tiny":
        return ConvNeXt(depths=(3, 3, 9, 3), widths=(96, 192, 384, 768), **options)
    if name == "convnext_base":
        options = {"stochastic_depth": 0.5} | options
        return ConvNeXt(depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024), **options)
    if name == "mobilenet_v2":
        return MobileNetV2(**options)
    raise ConfigError(f"There is no trunk {name!r}. Choose one of: {', '.join(TRUNKS)}.")
