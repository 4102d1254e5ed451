"""Where the embedding comes from: a tower of detection, one of its own, or no tower (the paper's table III, figure 8).

python -m ps_jax.sweep configs/tables/alignps_table3.py --weights mobilenet_v2.npz

T1 shares the regression's tower, T2 the classification's, T3 has a third tower; AlignPS is "re-id first".
"""

from configs.tables.alignps_rows import METRICS, SOURCE, all_numbers, training
from ps_jax.sweep import Table


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""

    def structure(name, option, *numbers):
        return training(name, dataset, all_numbers(*numbers), (f"--config.model.structure={option}",))

    rows = (
        structure("T1", "regression", (87.5, 79.0, 80.3, 79.2), (94.3, 92.5, 35.5, 67.4)),
        structure("T2", "classification", (89.1, 78.6, 77.1, 75.9), (96.9, 92.8, 31.8, 64.3)),
        structure("T3", "parallel", (90.1, 81.4, 80.7, 80.2), (94.5, 92.6, 35.8, 69.1)),
        training("AlignPS", dataset, all_numbers((90.3, 81.2, 93.1, 93.4), (94.8, 92.9, 45.9, 81.9))),
    )
    return Table(
        title="AlignPS: structures for training detection and re-identification",
        source=f"{SOURCE}, table III",
        rows=rows,
        metrics=METRICS,
        contrasts=(("AlignPS", "T3"), ("T3", "T1")),
    )
