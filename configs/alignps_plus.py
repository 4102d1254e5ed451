"""AlignPS+: AlignPS whose trunk has deformable convolutions in its last three stages.

The released settings, from Detectron2's weights of Caffe's ResNet-50; the offsets start at zero:
  python train.py --config configs/alignps_plus.py:prw --config.data.dir=PATH --config.weights=FILE
  python train.py --config configs/alignps_plus.py:cuhk_sysu --config.data.dir=PATH --config.weights=FILE
Generated streets, at a size for two CPU cores but for the trunk, a ResNet-50 (MobileNetV2 has nothing to deform):
  python train.py --config configs/alignps_plus.py [--config.weights=torchvision/resnet50]
"""

from configs import alignps_base, datasets


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for."""
    config = alignps_base.get(dataset, deformable_stages=(2, 3, 4))
    if dataset in datasets.SMALL:
        config.model.trunk = "resnet50"
    return config.lock()
