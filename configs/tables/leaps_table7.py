"""How many proposals there are (the paper's table 7), and lambda, which the paper does not give.

python -m ps_jax.sweep configs/tables/leaps_table7.py --weights mobilenet_v2.npz

On the small data sets 16, 30 and 60 stand for the paper's 50, 100 and 200; each is trained alone. With 50 proposals
there is room for 50 people in a scene (`data.max_people`): each of them is found by one.
"""

from configs import datasets
from configs.tables.leaps_rows import METRICS, SOURCE, detector, option, training
from ps_jax.sweep import Table

PAPER = {50: 54.5, 100: 55.0, 200: 55.2}
LAMBDAS = (0.5, 2.0)  # 1 is what the rows with proposals have


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    small = dataset in datasets.SMALL
    sizes = (16, 30, 60) if small else tuple(PAPER)
    room = {} if small else {50: ("--config.data.max_people=50",)}
    sized = tuple(
        training(
            f"{size} proposals",
            dataset,
            (paper,),
            (*option(dataset, "num_proposals", size), *room.get(size, ())),
            alone=True,
        )
        for size, paper in zip(sizes, PAPER.values(), strict=True)
    )
    # On the small data sets those rows do not go on from the detector: 1 has a row of its own there.
    weights = tuple(
        training(f"lambda {value}", dataset, (), option(dataset, "reid_weight", value))
        for value in sorted({*LAMBDAS, *((1.0,) if small else ())})
    )
    return Table(
        title="LEAPS: number of proposals, lambda",
        source=f"{SOURCE}, table 7",
        rows=(*sized, *detector(dataset), *weights),
        metrics=METRICS,
        contrasts=((f"{sizes[1]} proposals", f"{sizes[0]} proposals"), ("lambda 0.5", "lambda 2.0")),
    )
