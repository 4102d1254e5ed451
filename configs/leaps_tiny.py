"""LEAPS at a size for two CPU cores: PVT v2 B0, three stages, 30 proposals, a quarter of the channels.

Generated streets, 2880 steps, with trunk weights; those of MobileNetV2 do as well (the figures in docs/results.md are
theirs: with PVT v2 B0 it has not been trained yet, whose ImageNet weights were not at hand):
  python train.py --config configs/leaps_tiny.py --config.weights=pvt_v2_b0.pth
  ... --config.model.trunk=mobilenet_v2 --config.weights=torchvision/mobilenet_v2
A data set in PRW's layout:
  python train.py --config configs/leaps_tiny.py:prw_small --config.data.dir=PATH --config.weights=pvt_v2_b0.pth
"""

from configs import leaps_base


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for."""
    return leaps_base.get(dataset, tiny=True).lock()
