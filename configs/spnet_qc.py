"""SPNet-S, query-centric pre-training then object-centric fine-tuning.

Generated streets, at a size for two CPU cores; trunk weights make the difference (docs/results.md):
  python train.py --config configs/spnet_qc.py [--config.weights=mobilenet_v2.npz]
The paper's settings (ConvNeXt-T, 512 x 512 crops, one large GPU), and your own pictures with them:
  python train.py --config configs/spnet_qc.py:prw --config.data.dir=PATH
  python train.py --config configs/spnet_qc.py:cuhk_sysu --config.data.dir=PATH
  python train.py --config configs/spnet_qc.py:coco_json --config.data.dir=PATH
The paper's pre-training on COCOPersons (from ImageNet weights of ConvNeXt-T), and fine-tuning after it:
  python train.py --config configs/spnet_qc.py:coco_persons --config.data.dir=PATH --config.weights=FILE
  python train.py --config configs/spnet_oc.py:prw --config.data.dir=PATH --config.pretrained=runs/spnet_qc_coco_persons
The same with missing (20, 60) or spurious (140, 180) boxes, figure 6; 100 is the baseline:
  ... --config.data.least_people=2 --config.data.annotations=20 --config.pretrain.epochs=20 --workdir=runs/p20
A data set in PRW's layout on two CPU cores, from ImageNet weights of MobileNetV2:
  python train.py --config configs/spnet_qc.py:prw_small --config.data.dir=PATH --config.weights=FILE

Object-centric pre-training in its place, and with another part of the trunk (table 7; the paper's is the slow one), or
another re-id loss (table 6):
  ... --config.pretrain.model.mode=oc
  ... --config.pretrain.model.backbone_tuning=frozen
  ... --config.pretrain.model.lwf=bce
  ... --config.pretrain.backbone_learning_rate=1e-4 --config.pretrain.backbone_weight_decay=1e-3
  ... --config.pretrain.model.reid_gt_only [--config.pretrain.model.reid_only]

But for COCOPersons, both phases run on the training scenes of the same data set.
"""

from configs import datasets, spnet_base


def get_config(dataset: str = "streets", large: bool = False):
    """The configuration for one of `datasets.DATASETS`."""
    config = spnet_base.base(dataset, large)
    config.phases = ("pretrain",)
    config.pretrain = spnet_base.pretrain(dataset)
    if dataset not in datasets.PRETRAINING:
        config.phases = ("pretrain", "finetune")
        config.finetune = spnet_base.finetune(dataset, large)
    return config.lock()
