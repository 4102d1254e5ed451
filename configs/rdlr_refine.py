"""RDLR's refinement alone, the third phase of rdlr.py, from the two networks that were trained before.

  python train.py --config configs/rdlr_refine.py \
      --config.pretrained=runs/rdlr_detector --config.reid_weights=runs/rdlr_reid
  python train.py --config configs/rdlr_refine.py:prw --config.data.dir=PATH \
      --config.pretrained=runs/rdlr_detector_prw --config.reid_weights=runs/rdlr_reid_prw
"""

from configs import rdlr_base


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for."""
    config = rdlr_base.base(dataset)
    config.phases = ("refine",)
    config.refine = rdlr_base.refine_phase(dataset)
    return config.lock()
