"""Trunks: an image in, feature maps of strides 4 to 32 out.

Every trunk is a Linen module with `__call__(image, train) -> {"c2", "c3", "c4", "c5"}`, `channels` (the
channels of each map), `last_stage(name)` (a new module like the one from c4 to c5; it has the attribute
`average_pooled` where its map of a box is summed up by the mean, as SOLIDER's, and not by the maximum) and
`classifier(name)` (a new `TrunkClassifier` of c5).
"""

from typing import Any

from flax import linen as nn

from ps_jax.backbones.classifier import TrunkClassifier as TrunkClassifier
from ps_jax.backbones.convnext import ConvNeXt as ConvNeXt
from ps_jax.backbones.mobilenet_v2 import MobileNetV2 as MobileNetV2
from ps_jax.backbones.osnet import OSNet as OSNet
from ps_jax.backbones.pvt_v2 import PVTv2 as PVTv2
from ps_jax.backbones.resnet import ResNet as ResNet
from ps_jax.backbones.swin import Swin as Swin
from ps_jax.errors import ConfigError

# Sizes of all Swin Transformers, and the stochastic depth of torchvision's.
SWIN_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"depths": (2, 2, 6, 2), "width": 96, "heads": 3, "stochastic_depth": 0.2},
    "small": {"depths": (2, 2, 18, 2), "width": 96, "heads": 3, "stochastic_depth": 0.3},
    "base": {"depths": (2, 2, 18, 2), "width": 128, "heads": 4, "stochastic_depth": 0.5},
}
# What sets each family of them apart.
SWIN_FAMILIES: dict[str, dict[str, Any]] = {
    "swin": {},
    "swin_v2": {"version": 2, "window": 8},
    "solider_swin": {"semantic_weight": 0.6, "stochastic_depth": 0.1},
}
SWINS = tuple(f"{family}_{size}" for family in SWIN_FAMILIES for size in SWIN_SIZES)
PVTS = ("pvt_v2_b0", "pvt_v2_b2")
TRUNKS = ("resnet50", "resnet50_caffe", "convnext_tiny", "convnext_base", "mobilenet_v2", *PVTS, *SWINS)

# Mean and deviation of the RGB channels in 0 .. 1 that Caffe's weights want: 123.675, 116.28, 103.53 of 255, and none.
CAFFE_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)


def build_trunk(name: str, **options: Any) -> nn.Module:
    """Builds a trunk by its torchvision name (sizes written out; "solider_swin_..." are SOLIDER's, "pvt_v2_..." PVT's).

    "resnet50_caffe" is the ResNet-50 of Detectron: version 1, whose weights want pixels with the mean of
    `CAFFE_MEAN` and deviation `CAFFE_STD`.

    Args:
      name: one of `TRUNKS`.
      **options: attributes of the module (`dtype`, `axis_name`, for ConvNeXt, PVT and Swin `stochastic_depth`,
        for ResNet `deformable_stages` and `last_stride`).

    Returns:
      The Linen module.

    Raises:
      ConfigError: if there is no such trunk, it has no stochastic depth or no deformable stages.
    """
    resnet = name in ("resnet50", "resnet50_caffe")
    if "stochastic_depth" in options and (resnet or name == "mobilenet_v2"):
        raise ConfigError(f"trunk {name!r} has no stochastic depth; leave stochastic_depth out.")
    if "deformable_stages" in options and not resnet:
        raise ConfigError(f"trunk {name!r} has no deformable stages; use resnet50 or resnet50_caffe.")
    if resnet:
        return ResNet(depths=(3, 4, 6, 3), stride_in_first=name == "resnet50_caffe", **options)
    if name == "convnext_tiny":
        return ConvNeXt(depths=(3, 3, 9, 3), widths=(96, 192, 384, 768), **options)
    if name == "convnext_base":
        options = {"stochastic_depth": 0.5} | options
        return ConvNeXt(depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024), **options)
    if name == "mobilenet_v2":
        return MobileNetV2(**options)
    if name == "pvt_v2_b0":
        return PVTv2(depths=(2, 2, 2, 2), widths=(32, 64, 160, 256), **options)
    if name == "pvt_v2_b2":
        return PVTv2(depths=(3, 4, 6, 3), widths=(64, 128, 320, 512), **options)
    if name in SWINS:
        family, _, size = name.rpartition("_")
        return Swin(**(SWIN_SIZES[size] | SWIN_FAMILIES[family] | options))
    raise ConfigError(f"There is no trunk {name!r}. Choose one of: {', '.join(TRUNKS)}.")
