"""LEAPS: learned proposals find and embed people in six stages, without suppression.

The paper's settings (whole scenes of 900 x 1500, one large GPU), from torchvision's weights of the trunk:
  python train.py --config configs/leaps.py:prw --config.data.dir=PATH --config.weights=torchvision/resnet50
  python train.py --config configs/leaps.py:cuhk_sysu --config.data.dir=PATH --config.weights=torchvision/resnet50
  python train.py --config configs/leaps.py:coco_json --config.data.dir=PATH --config.weights=torchvision/resnet50
With PVT v2, from the released weights of that trunk:
  ... --config.model.trunk=pvt_v2_b2 --config.model.frozen_stages=-1 --config.weights=pvt_v2_b2.pth
Small scenes (generated streets by default; `prw_small`) are for the small model of configs/leaps_tiny.py; here they
meet the whole one.
"""

from configs import leaps_base


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for."""
    return leaps_base.get(dataset, tiny=False).lock()
