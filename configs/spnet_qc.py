"""SPNet-S, query-centric pre-training then object-centric fine-tuning.

  python train.py --config configs/spnet_qc.py                                      generated streets, two CPU cores
  python train.py --config configs/spnet_qc.py:prw --config.data.dir=PATH           PRW, the paper's settings
  python train.py --config configs/spnet_qc.py:cuhk_sysu --config.data.dir=PATH     CUHK-SYSU, the paper's settings
  python train.py --config configs/spnet_qc.py:coco_json --config.data.dir=PATH     your own pictures

The pre-training phase runs on the training scenes of the same data set, with online instance matching as its re-id loss.
"""

from configs import spnet_base


def get_config(dataset: str = "streets"):
    """The configuration for one of `spnet_base.DATASETS`."""
    config = spnet_base.base(dataset)
    config.phases = ("pretrain", "finetune")
    config.pretrain = spnet_base.pretrain(dataset)
    config.finetune = spnet_base.finetune(dataset)
    return config.lock()
