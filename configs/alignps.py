"""AlignPS: one map of stride 8 embeds and detects people, without anchors.

Generated streets, at a size for two CPU cores; trunk weights make the difference:
  python train.py --config configs/alignps.py [--config.weights=mobilenet_v2.npz]
The released settings (Caffe's ResNet-50, whole scenes, one large GPU), from Detectron2's weights of that trunk:
  python train.py --config configs/alignps.py:prw --config.data.dir=PATH --config.weights=FILE
  python train.py --config configs/alignps.py:cuhk_sysu --config.data.dir=PATH --config.weights=FILE
  python train.py --config configs/alignps.py:coco_json --config.data.dir=PATH --config.weights=FILE
With torchvision's trunk in the place of Caffe's:
  ... --config.model.trunk=resnet50 --config.weights=torchvision/resnet50
A data set in PRW's layout on two CPU cores, from ImageNet weights of MobileNetV2:
  python train.py --config configs/alignps.py:prw_small --config.data.dir=PATH --config.weights=FILE
"""

from configs import alignps_base


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for."""
    return alignps_base.get(dataset, deformable_stages=()).lock()
