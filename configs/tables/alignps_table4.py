"""Online instance matching alone, with a triplet loss, and with table rows in that loss (the paper's table IV).

python -m ps_jax.sweep configs/tables/alignps_table4.py --weights mobilenet_v2.npz

Online instance matching has its focal factor in all three rows, as the paper has it throughout (section IV-B). On PRW
the release trains without the triplet loss; there the last row is not AlignPS as the other tables have it.
"""

from configs.tables.alignps_rows import SEARCH_METRICS, SOURCE, search_numbers, training
from ps_jax.sweep import Table


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    released = "none" if dataset == "prw" else "table"

    def loss(name, triplet, *numbers):
        overrides = () if triplet == released else (f"--config.model.triplet={triplet}",)
        return training(name, dataset, search_numbers(*numbers), overrides)

    rows = (
        loss("OIM", "none", (92.4, 92.9), (45.7, 81.8)),
        loss("TOIM without LUT", "batch", (92.8, 93.2), (45.8, 81.8)),
        loss("TOIM with LUT", "table", (93.1, 93.4), (45.9, 81.9)),
    )
    return Table(
        title="AlignPS: losses of re-identification",
        source=f"{SOURCE}, table IV",
        rows=rows,
        metrics=SEARCH_METRICS,
        contrasts=(("TOIM with LUT", "OIM"), ("TOIM without LUT", "OIM")),
    )
