"""SPNet-S, object-centric pre-training then object-centric fine-tuning: what `spnet_qc.py` is compared with.

Generated streets, at a size for two CPU cores; trunk weights make the difference (docs/results.md):
  python train.py --config configs/spnet_oc_pretrain.py [--config.weights=mobilenet_v2.npz]
The paper's settings (ConvNeXt-T, 512 x 512 crops, one large GPU):
  python train.py --config configs/spnet_oc_pretrain.py:prw --config.data.dir=PATH
  python train.py --config configs/spnet_oc_pretrain.py:cuhk_sysu --config.data.dir=PATH
"""

from configs import datasets, spnet_base


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for."""
    datasets.check_searchable(dataset)
    config = spnet_base.base(dataset)
    config.phases = ("pretrain", "finetune")
    config.pretrain = spnet_base.pretrain(dataset, mode="oc")
    config.finetune = spnet_base.finetune(dataset)
    return config.lock()
