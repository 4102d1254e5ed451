"""How many stages look at the proposals (the paper's table 5); its times are in `benchmarks/systems.py`.

python -m ps_jax.sweep configs/tables/leaps_table5.py --weights mobilenet_v2.npz

On the small data sets two to four stages, of which the last two embed; each row is trained alone.
"""

from configs import datasets
from configs.tables.leaps_rows import METRICS, SOURCE, option, training
from ps_jax.sweep import Table

PAPER = {
    2: (18.5, 63.7),
    3: (34.2, 77.4),
    4: (50.4, 86.3),
    5: (53.9, 88.8),
    6: (55.0, 88.9),
    7: (54.9, 88.9),
    8: (54.8, 88.7),
}


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    counts = (2, 3, 4) if dataset in datasets.SMALL else tuple(PAPER)
    rows = tuple(
        training(f"{count} stages", dataset, PAPER[count], option(dataset, "num_stages", count), alone=True)
        for count in counts
    )
    return Table(
        title="LEAPS: stages",
        source=f"{SOURCE}, table 5",
        rows=rows,
        metrics=METRICS,
        contrasts=((f"{counts[-1]} stages", f"{counts[0]} stages"),),
    )
