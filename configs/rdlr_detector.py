"""RDLR's detector alone, the first phase of rdlr.py: Faster R-CNN with a feature pyramid.

  python train.py --config configs/rdlr_detector.py [--config.weights=mobilenet_v2.npz]
  python train.py --config configs/rdlr_detector.py:prw --config.data.dir=PATH --config.weights=FILE
  python train.py --config configs/rdlr_detector.py:prw_small --config.data.dir=PATH --config.weights=mobilenet_v2.npz

It is judged by its average precision of detection. The search is that of its boxes by the re-identification network
that config.reid_weights names; without one that network has never been trained, and the search means nothing. FILE has
ImageNet weights of Caffe's ResNet-50.
"""

from configs import rdlr_base


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for."""
    config = rdlr_base.base(dataset)
    config.phases = ("detector",)
    config.detector = rdlr_base.detector_phase(dataset)
    return config.lock()
