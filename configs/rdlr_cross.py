"""RDLR with a re-identification network that was trained on other people (the paper's cross-data variant, figure 6).

It has no classifier of the training set's people, so the proxy triplet loss refines alone. Market-1501's network:
  python train.py --config configs/rdlr_reid.py:market1501 --config.data.dir=MARKET \
      --config.reid_weights=torchvision/resnet50
  python train.py --config configs/rdlr_cross.py:cuhk_sysu --config.data.dir=PATH \
      --config.weights=FILE --config.reid_weights=runs/rdlr_reid_market1501
On two CPU cores, with the ready OSNet x0.25 of MSMT17:
  python train.py --config configs/rdlr_cross.py --config.weights=mobilenet_v2.npz --config.reid_weights=osnet.onnx
  python train.py --config configs/rdlr_cross.py:prw_small --config.data.dir=PATH \
      --config.weights=mobilenet_v2.npz --config.reid_weights=osnet.onnx
One phase of it, the refinement of a detector that was trained before:
  ... --config.phases="('refine',)" --config.pretrained=runs/rdlr_detector_prw --config.reid_weights=osnet.onnx
"""

from configs import rdlr_base


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for."""
    config = rdlr_base.base(dataset, cross_data=True)
    config.phases = ("detector", "refine")
    config.detector = rdlr_base.detector_phase(dataset)
    config.refine = rdlr_base.refine_phase(dataset)
    config.refine.gates.reid_top1 = 0.0  # the paper gives none for this variant
    return config.lock()
