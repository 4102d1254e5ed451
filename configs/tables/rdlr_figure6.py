"""Before and after the refinement in galleries of growing size, same data and cross-data (the paper's figure 6).

python -m ps_jax.sweep configs/tables/rdlr_figure6.py --weights mobilenet_v2.npz
python -m ps_jax.sweep configs/tables/rdlr_figure6.py:cuhk_sysu --weights FILE

Numbers are known of galleries of 100. Only CUHK-SYSU and the streets have galleries of several sizes.
"""

from configs.tables.rdlr_rows import (
    MAP,
    METRICS,
    SOURCE,
    TOP1,
    baseline,
    cross_networks,
    gallery_sizes,
    networks,
    refined,
)
from ps_jax.sweep import Ladder, Table

PAPER = {
    "same data": ((93.24, 92.23), (94.24, 93.09)),
    "cross-data": ((60.59, 61.87), (62.34, 64.15)),
}


def get_table(dataset: str = "streets") -> Table:
    """The table for "streets" or "cuhk_sysu"."""
    same, (other, cross) = networks(dataset), cross_networks(dataset)
    rows, series, contrasts = [same, other, cross], {}, []
    for before, (variant, papers) in zip((same, cross), PAPER.items(), strict=True):
        after = refined(before, f"{variant}: refinement")
        rows.append(after)
        for row, state, paper in zip((before, after), ("apart", "refined"), papers, strict=True):
            label = f"{variant}, {state}"
            series[label] = {}
            for size in gallery_sizes(dataset):
                name = f"{label}, {size} scenes"
                known = paper if size == 100 else None
                rows.append(baseline(row, name, known, ("--galleries", f"TestG{size}")))
                series[label][float(size)] = name
        contrasts.append((f"{variant}, refined, 100 scenes", f"{variant}, apart, 100 scenes"))
    return Table(
        title="RDLR: same data and cross-data",
        source=f"{SOURCE}, figure 6 and section 4.4",
        rows=tuple(rows),
        metrics=METRICS,
        contrasts=tuple(contrasts),
        ladder=Ladder(
            "Before and after the refinement",
            "scenes in a gallery",
            series,
            "same data: refinement",
            (TOP1, MAP),
        ),
    )
