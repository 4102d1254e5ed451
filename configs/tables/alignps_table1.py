"""Levels that people are found and embedded on: one of P3 to P5, or several by size (the paper's table I).

python -m ps_jax.sweep configs/tables/alignps_table1.py --weights mobilenet_v2.npz

A level is for people whose furthest side is so many pixels away from the location: less than 128, 128 to 256, more. In
the small scenes of the streets and of `prw_small` the limits are 32 and 64. The paper trains on several scales of the
scenes and finds that this does not mend what the division by size spoils; our small scenes come in one scale.
"""

from configs import datasets
from configs.tables.alignps_rows import METRICS, SOURCE, all_numbers, training
from ps_jax.sweep import Table


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    near, far = (32, 64) if dataset in datasets.SMALL else (128, 256)

    def levels(name, numbers, *chosen, limits=()):
        overrides = (f"--config.model.levels={chosen}", f"--config.model.size_limits={limits}")
        return training(name, dataset, all_numbers(*numbers), overrides)

    rows = (
        training("P3", dataset, all_numbers((90.3, 81.2, 93.1, 93.4), (94.8, 92.9, 45.9, 81.9))),
        levels("P4", ((87.5, 78.7, 92.7, 93.1), (93.4, 91.8, 41.4, 77.5)), 4),
        levels("P5", ((79.0, 71.7, 89.3, 89.5), (85.7, 83.7, 25.3, 57.4)), 5),
        levels("P3, P4", ((90.4, 80.5, 91.1, 91.6), (94.7, 92.9, 40.8, 77.1)), 3, 4, limits=(near,)),
        levels(
            "P3, P4, P5", ((90.9, 80.4, 90.0, 90.5), (95.4, 93.5, 39.5, 74.3)), 3, 4, 5, limits=(near, far)
        ),
    )
    return Table(
        title="AlignPS: levels",
        source=f"{SOURCE}, table I",
        rows=rows,
        metrics=METRICS,
        contrasts=(("P3", "P5"), ("P3", "P3, P4, P5")),
    )
