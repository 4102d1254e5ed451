"""Lateral and output deformable convolutions and concatenation in aligned feature aggregation (the paper's table II).

python -m ps_jax.sweep configs/tables/alignps_table2.py --weights mobilenet_v2.npz

The contrast that it is read for, aligned feature aggregation against a plain feature pyramid, with three seeds:
  ... --seeds 3 --only none "lateral, output, concatenation"

In the paper's text the ticks of the rows are lost; their order is that of its numbers, of which two of three parts
always have to surpass either alone ("consistent improvements", section IV-C).
"""

from configs.tables.alignps_rows import SEARCH_METRICS, SOURCE, search_numbers, training
from ps_jax.sweep import Table

PARTS = {"lateral": "lateral_deformable", "output": "output_deformable", "concatenation": "concatenate"}
PAPER = {
    (): ((83.4, 83.7), (27.4, 62.3)),
    ("lateral",): ((90.6, 90.8), (39.4, 74.7)),
    ("output",): ((91.4, 91.9), (40.6, 77.0)),
    ("concatenation",): ((84.0, 84.1), (29.1, 62.4)),
    ("lateral", "output"): ((91.8, 92.2), (42.8, 80.1)),
    ("lateral", "concatenation"): ((90.7, 91.0), (39.6, 75.3)),
    ("output", "concatenation"): ((92.0, 92.5), (40.7, 77.5)),
    ("lateral", "output", "concatenation"): ((93.1, 93.4), (45.9, 81.9)),
}
NONE, ALL = "none", ", ".join(PARTS)


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    rows = tuple(
        training(
            ", ".join(parts) or NONE,
            dataset,
            search_numbers(*numbers),
            tuple(f"--config.model.{option}=False" for part, option in PARTS.items() if part not in parts),
        )
        for parts, numbers in PAPER.items()
    )
    return Table(
        title="AlignPS: aligned feature aggregation",
        source=f"{SOURCE}, table II",
        rows=rows,
        metrics=SEARCH_METRICS,
        contrasts=((ALL, NONE), (ALL, "lateral, output"), ("lateral", NONE), ("output", NONE)),
    )
