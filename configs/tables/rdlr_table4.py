"""Two detectors, each before and after the refinement (the paper's table 4).

python -m ps_jax.sweep configs/tables/rdlr_table4.py --weights mobilenet_v2.npz
"""

from configs.tables.rdlr_rows import METRICS, SOURCE, baseline, networks, refined
from ps_jax.sweep import Table


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    rows, contrasts = [], []
    for name, config, apart, together in (
        ("Faster R-CNN", "rdlr", (93.24, 92.23), (94.24, 93.09)),
        ("RetinaNet", "rdlr_retinanet", (92.21, 91.84), (93.97, 92.78)),
    ):
        before = networks(dataset, f"networks: {name}", config)
        after = refined(before, f"{name}, refined", together)
        rows += [before, baseline(before, name, apart), after]
        contrasts.append((after.name, name))
    return Table(
        title="RDLR: detectors",
        source=f"{SOURCE}, table 4",
        rows=tuple(rows),
        metrics=METRICS,
        contrasts=tuple(contrasts),
    )
