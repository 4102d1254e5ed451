"""RDLR, all phases by one command: detector, re-identification network, refinement, search.

Generated streets, at a size for two CPU cores; weights make the difference:
  python train.py --config configs/rdlr.py [--config.weights=mobilenet_v2.npz] [--config.reid_weights=osnet_x0_25.onnx]
The paper's settings (one large GPU), from ImageNet weights of Caffe's ResNet-50 (FILE) and of torchvision's:
  python train.py --config configs/rdlr.py:prw --config.data.dir=PATH \
      --config.weights=FILE --config.reid_weights=torchvision/resnet50
  python train.py --config configs/rdlr.py:cuhk_sysu --config.data.dir=PATH \
      --config.weights=FILE --config.reid_weights=torchvision/resnet50
The same phase by phase; every one goes on where it ended:
  python train.py --config configs/rdlr_detector.py:prw --config.data.dir=PATH --config.weights=FILE
  python train.py --config configs/rdlr_reid.py:prw --config.data.dir=PATH --config.reid_weights=torchvision/resnet50
  python train.py --config configs/rdlr_refine.py:prw --config.data.dir=PATH \
      --config.pretrained=runs/rdlr_detector_prw --config.reid_weights=runs/rdlr_reid_prw
  python eval.py --workdir runs/rdlr_refine_prw
Losses of table 5:
  ... --config.model.softmax=False          the proxy triplet loss alone
  ... --config.model.proxy_triplet=False    the softmax loss alone

Before the refinement the detector's average precision and the network's top-1 on annotated boxes are printed and
checked (config.refine.gates; on small runs printed alone): that evaluation is the paper's baseline.
"""

from configs import rdlr_base


def get_config(dataset: str = "streets", detector: str = "faster_rcnn"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for."""
    config = rdlr_base.base(dataset, detector)
    config.phases = ("detector", "reid", "refine")
    config.detector = rdlr_base.detector_phase(dataset, detector)
    config.reid = rdlr_base.reid_phase(dataset)
    config.refine = rdlr_base.refine_phase(dataset, detector)
    return config.lock()
