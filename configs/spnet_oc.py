"""SPNet-S, object-centric training alone, the baseline of `spnet_qc.py`.

  python train.py --config configs/spnet_oc.py                                      generated streets, two CPU cores
  python train.py --config configs/spnet_oc.py:prw --config.data.dir=PATH           PRW, the paper's settings
  python train.py --config configs/spnet_oc.py:cuhk_sysu --config.data.dir=PATH     CUHK-SYSU, the paper's settings
  python train.py --config configs/spnet_oc.py:coco_json --config.data.dir=PATH     your own pictures
"""

from configs import spnet_base


def get_config(dataset: str = "streets"):
    """The configuration for one of `spnet_base.DATASETS`."""
    config = spnet_base.base(dataset)
    config.phases = ("finetune",)
    config.finetune = spnet_base.finetune(dataset)
    return config.lock()
