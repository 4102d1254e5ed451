"""SPNet-L: query-centric pre-training as SPNet-S, then object-centric fine-tuning with a cascade.

Generated streets, at a size for two CPU cores:
  python train.py --config configs/spnet_qc_l.py [--config.weights=mobilenet_v2.npz]
The paper's settings (ConvNeXt-B, 1024 x 1024 crops in fine-tuning; 46.5 h of pre-training and 4.5 h (PRW) or 9 h
(CUHK-SYSU) of fine-tuning on one A100 with 80 GB):
  python train.py --config configs/spnet_qc_l.py:coco_persons --config.data.dir=PATH --config.weights=FILE
  ... configs/spnet_oc_l.py:prw --config.data.dir=PATH --config.pretrained=runs/spnet_qc_l_coco_persons
Both phases on one data set, in PRW's layout for example:
  python train.py --config configs/spnet_qc_l.py:prw --config.data.dir=PATH --config.weights=FILE
Fine-tuning takes over what was pre-trained into all stages; only into the first (the paper's PT):
  ... --config.finetune.model.replicate_stages=False

The paper's scores after pre-training on COCOPersons: 96.4 mAP on CUHK-SYSU, 61.2 on PRW; not measured here.
"""

from configs import spnet_qc


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS`."""
    return spnet_qc.get_config(dataset, large=True)
