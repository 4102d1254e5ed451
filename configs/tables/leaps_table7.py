"""How many proposals there are (the paper's table 7), and lambda, which the paper does not give.

python -m ps_jax.sweep configs/tables/leaps_table7.py --weights mobilenet_v2.npz

On the small data sets 16, 30 and 60 stand for the paper's 50, 100 and 200; each is trained alone.
"""

from configs import datasets
from configs.tables.leaps_rows import METRICS, SOURCE, detector, training
from ps_jax.sweep import Table

PAPER = {50: 54.5, 100: 55.0, 200: 55.2}
LAMBDAS = (0.5, 2.0)  # beside 1


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    sizes = (16, 30, 60) if dataset in datasets.SMALL else tuple(PAPER)

    sized = tuple(
        training(
            f"{size} proposals", dataset, (paper,), (f"--config.model.num_proposals={size}",), alone=True
        )
        for size, paper in zip(sizes, PAPER.values(), strict=True)
    )
    weights = tuple(
        training(f"lambda {value}", dataset, (), (f"--config.model.reid_weight={value}",))
        for value in LAMBDAS
    )
    return Table(
        title="LEAPS: number of proposals, lambda",
        source=f"{SOURCE}, table 7",
        rows=(*sized, *detector(dataset), *weights),
        metrics=METRICS,
        contrasts=((f"{sizes[1]} proposals", f"{sizes[0]} proposals"), ("lambda 0.5", "lambda 2.0")),
    )
