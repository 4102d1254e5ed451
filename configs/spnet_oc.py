"""SPNet-S, object-centric training alone, the baseline of `spnet_qc.py`.

Generated streets, at a size for two CPU cores; trunk weights make the difference (docs/results.md):
  python train.py --config configs/spnet_oc.py [--config.weights=mobilenet_v2.npz]
The paper's settings (ConvNeXt-T, 512 x 512 crops, one large GPU), and your own pictures with them:
  python train.py --config configs/spnet_oc.py:prw --config.data.dir=PATH
  python train.py --config configs/spnet_oc.py:cuhk_sysu --config.data.dir=PATH
  python train.py --config configs/spnet_oc.py:coco_json --config.data.dir=PATH
After pre-training in another work directory, and object-centric pre-training on COCOPersons, to compare:
  python train.py --config configs/spnet_oc.py:prw --config.data.dir=PATH --config.pretrained=runs/spnet_qc_coco_persons
  python train.py --config configs/spnet_oc.py:coco_persons --config.data.dir=PATH --config.weights=FILE
A data set in PRW's layout on two CPU cores, from ImageNet weights of MobileNetV2:
  python train.py --config configs/spnet_oc.py:prw_small --config.data.dir=PATH --config.weights=FILE
"""

from configs import datasets, spnet_base


def get_config(dataset: str = "streets", large: bool = False):
    """The configuration for one of `datasets.DATASETS`."""
    config = spnet_base.base(dataset, large)
    if dataset in datasets.PRETRAINING:
        config.phases = ("pretrain",)
        config.pretrain = spnet_base.pretrain(dataset, mode="oc")
    else:
        config.phases = ("finetune",)
        config.finetune = spnet_base.finetune(dataset, large)
    return config.lock()
