"""RDLR's re-identification network alone, the second phase of rdlr.py: on the annotated boxes of known people.

  python train.py --config configs/rdlr_reid.py [--config.reid_weights=osnet_x0_25.onnx]
  python train.py --config configs/rdlr_reid.py:prw --config.data.dir=PATH --config.reid_weights=torchvision/resnet50
For the cross-data variant on Market-1501, which is judged by that data set's own protocol:
  python train.py --config configs/rdlr_reid.py:market1501 --config.data.dir=PATH \
      --config.reid_weights=torchvision/resnet50

On a person-search data set it is judged by the search among annotated boxes; the detector is not trained here, and what
it finds means nothing.
"""

from configs import rdlr_base


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for, or "market1501"."""
    config = rdlr_base.base(dataset)
    config.phases = ("reid",)
    config.reid = rdlr_base.reid_phase(dataset)
    return config.lock()
