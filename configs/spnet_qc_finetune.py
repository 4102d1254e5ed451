"""SPNet-S, query-centric pre-training then query-centric fine-tuning and search (the paper's table 8).

Generated streets, at a size for two CPU cores; trunk weights make the difference (docs/results.md):
  python train.py --config configs/spnet_qc_finetune.py [--config.weights=mobilenet_v2.npz]
Without the pre-training:
  python train.py --config configs/spnet_qc_finetune.py "--config.phases=('finetune',)"
The paper's settings (ConvNeXt-T, 512 x 512 crops, one large GPU):
  python train.py --config configs/spnet_qc_finetune.py:prw --config.data.dir=PATH
  python train.py --config configs/spnet_qc_finetune.py:cuhk_sysu --config.data.dir=PATH
"""

from configs import datasets, spnet_base


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for."""
    datasets.check_searchable(dataset)
    config = spnet_base.base(dataset)
    config.phases = ("pretrain", "finetune")
    config.pretrain = spnet_base.pretrain(dataset)
    config.finetune = spnet_base.finetune(dataset, mode="qc")
    return config.lock()
