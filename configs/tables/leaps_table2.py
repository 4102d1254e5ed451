"""Diverse sample matching and the flexible head, one after the other (the paper's table 2).

python -m ps_jax.sweep configs/tables/leaps_table2.py --weights mobilenet_v2.npz
"""

from configs.tables.leaps_rows import METRICS, PLAIN, SOURCE, detector, option, training
from ps_jax.sweep import Table


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    rows = (
        *detector(dataset),
        training(
            "one to one, plain",
            dataset,
            (43.5, 81.7),
            (*PLAIN, *option(dataset, "sample_matching", "one_to_one")),
        ),
        training("diverse matching, plain", dataset, (46.8, 86.3), PLAIN),
        training("diverse matching, flexible head", dataset, (55.0, 88.9)),
    )
    return Table(
        title="LEAPS: diverse matching and the flexible head",
        source=f"{SOURCE}, table 2",
        rows=rows,
        metrics=METRICS,
        contrasts=(
            ("diverse matching, plain", "one to one, plain"),
            ("diverse matching, flexible head", "diverse matching, plain"),
        ),
    )
