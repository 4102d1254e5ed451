"""The losses that refine the detector (the paper's table 5).

python -m ps_jax.sweep configs/tables/rdlr_table5.py --weights mobilenet_v2.npz
"""

from configs.tables.rdlr_rows import METRICS, SOURCE, baseline, networks, refined
from ps_jax.sweep import Table


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    before = networks(dataset)
    softmax = ("--config.model.proxy_triplet=False",)
    triplet = ("--config.model.softmax=False",)
    return Table(
        title="RDLR: losses",
        source=f"{SOURCE}, table 5",
        rows=(
            before,
            baseline(before, paper=(93.24, 92.23)),
            refined(before, "softmax", (93.52, 92.34), softmax),
            refined(before, "proxy triplet", (93.48, 92.49), triplet),
            refined(before, "softmax + proxy triplet", (94.24, 93.09)),
        ),
        metrics=METRICS,
        contrasts=tuple(
            (name, "baseline") for name in ("softmax", "proxy triplet", "softmax + proxy triplet")
        ),
    )
