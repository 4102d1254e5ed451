"""SPNet-L, object-centric training alone, the baseline of `spnet_qc_l.py` and what follows its pre-training.

Generated streets, at a size for two CPU cores:
  python train.py --config configs/spnet_oc_l.py [--config.weights=mobilenet_v2.npz]
The paper's settings (ConvNeXt-B, 1024 x 1024 crops, one A100 with 80 GB), from ImageNet weights:
  python train.py --config configs/spnet_oc_l.py:prw --config.data.dir=PATH --config.weights=FILE
  python train.py --config configs/spnet_oc_l.py:cuhk_sysu --config.data.dir=PATH --config.weights=FILE
After pre-training, in place of the weights: --config.pretrained=runs/spnet_qc_l_coco_persons
With ResNet-50, as the paper's table of speeds (51.2 mAP on PRW, 93.8 on CUHK-SYSU; not measured here):
  ... --config.model.trunk=resnet50
"""

from configs import spnet_oc


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS`."""
    return spnet_oc.get_config(dataset, large=True)
