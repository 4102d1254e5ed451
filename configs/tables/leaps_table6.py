"""On how many of the last stages re-identification is trained (the paper's table 6).

python -m ps_jax.sweep configs/tables/leaps_table6.py --weights mobilenet_v2.npz

On the small data sets there are three stages.
"""

from configs import datasets
from configs.tables.leaps_rows import METRICS, SOURCE, detector, option, training
from ps_jax.sweep import Table

PAPER = {1: (52.1, 87.2), 2: (55.0, 88.9), 3: (54.8, 88.5), 4: (52.7, 87.7), 5: (47.4, 85.5), 6: (46.0, 84.5)}


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    counts = (1, 2, 3) if dataset in datasets.SMALL else tuple(PAPER)
    rows = tuple(
        training(f"last {count}", dataset, PAPER[count], option(dataset, "reid_stages", count))
        for count in counts
    )
    return Table(
        title="LEAPS: stages that re-identification is trained on",
        source=f"{SOURCE}, table 6",
        rows=(*detector(dataset), *rows),
        metrics=METRICS,
        contrasts=(("last 2", "last 1"), ("last 2", f"last {counts[-1]}")),
    )
