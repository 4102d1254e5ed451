"""Matching of re-identification samples under four heads: one to one, diverse, diverse and weighted (table 4).

python -m ps_jax.sweep configs/tables/leaps_table4.py --weights mobilenet_v2.npz

The contrast that it is read for, dynamic RoIAlign without and with the matching, with three seeds:
  ... --seeds 3 --only detector "dynamic, plain: one_to_one" "dynamic, plain: weighted"
"""

from configs.tables.leaps_rows import (
    DYNAMIC_PLAIN,
    METRICS,
    NO_DIVERSITY,
    PLAIN,
    SOURCE,
    detector,
    option,
    training,
)
from ps_jax.sweep import Table

MATCHINGS = ("one_to_one", "diverse", "weighted")
HEADS = {
    "plain": (PLAIN, ((43.5, 81.7), (46.2, 86.0), (46.8, 86.7))),
    "dynamic, plain": (DYNAMIC_PLAIN, ((37.2, 67.9), (49.4, 87.1), (49.6, 87.3))),
    "dynamic, plain, interaction": (NO_DIVERSITY, ((43.7, 76.0), (54.3, 88.6), (54.5, 88.6))),
    "dynamic, plain, interaction, diversity": ((), ((43.9, 78.6), (54.5, 88.7), (55.0, 88.9))),
}


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    rows = tuple(
        training(f"{head}: {name}", dataset, numbers, (*overrides, *option(dataset, "sample_matching", name)))
        for head, (overrides, paper) in HEADS.items()
        for name, numbers in zip(MATCHINGS, paper, strict=True)
    )
    return Table(
        title="LEAPS: matching of re-identification samples",
        source=f"{SOURCE}, table 4",
        rows=(*detector(dataset), *rows),
        metrics=METRICS,
        contrasts=(
            *((f"{head}: weighted", f"{head}: one_to_one") for head in HEADS),
            ("dynamic, plain: one_to_one", "plain: one_to_one"),
            ("dynamic, plain: weighted", "plain: weighted"),
        ),
    )
