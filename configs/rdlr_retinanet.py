"""RDLR with RetinaNet in the place of Faster R-CNN (the paper's table 4); else as rdlr.py.

  python train.py --config configs/rdlr_retinanet.py [--config.weights=FILE] [--config.reid_weights=FILE]
  python train.py --config configs/rdlr_retinanet.py:cuhk_sysu --config.data.dir=PATH \
      --config.weights=FILE --config.reid_weights=torchvision/resnet50
"""

from configs import rdlr


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for."""
    return rdlr.get_config(dataset, "retinanet")
