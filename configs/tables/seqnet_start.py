"""SeqNet from random and from ImageNet weights of its trunk (rows of table 3 of SPNet's paper, there with Swin-B).

python -m ps_jax.sweep configs/tables/seqnet_start.py --weights mobilenet_v2.npz

With the paper's settings the trunk is Swin-B: `seqnet_start.py:cuhk_sysu --weights torchvision/swin_b`.
"""

from configs import datasets
from configs.tables.seqnet_rows import SEARCH_METRICS, search_numbers, training
from ps_jax.sweep import Table

FROM_SCRATCH = ("--config.weights=", "--config.model.freeze_stem=False")


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    trunk = () if dataset in datasets.SMALL else ("--config.model.trunk=swin_base",)
    return Table(
        title="SeqNet: start of the trunk",
        source="Jaffe and Zakhor, Swap Path Network for Robust Person Search Pre-training, WACV 2025, table 3",
        rows=(
            training(
                "random", "seqnet", dataset, search_numbers(58.5, 59.1, 13.8, 55.9), trunk + FROM_SCRATCH
            ),
            training("ImageNet", "seqnet", dataset, search_numbers(88.8, 89.6, 45.1, 82.5), trunk),
        ),
        metrics=SEARCH_METRICS,
        contrasts=(("ImageNet", "random"),),
    )
