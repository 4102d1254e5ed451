"""Search in galleries of growing size, beside another system of this library (the paper's figure 5).

python -m ps_jax.sweep configs/tables/rdlr_figure5.py --weights mobilenet_v2.npz
python -m ps_jax.sweep configs/tables/rdlr_figure5.py:cuhk_sysu --weights FILE

Of the systems in the figure OIM stands here. Only CUHK-SYSU and the streets have galleries of several sizes.
"""

from configs.tables import seqnet_rows
from configs.tables.rdlr_rows import MAP, METRICS, SOURCE, baseline, gallery_sizes, networks, refined
from ps_jax.sweep import Ladder, Table


def get_table(dataset: str = "streets") -> Table:
    """The table for "streets" or "cuhk_sysu"."""
    before = networks(dataset)
    after = refined(before, "RDLR")
    other = seqnet_rows.training("OIM", "oim", dataset)
    rows, series = [before, after, other], {}
    for row in (other, after):
        series[row.name] = {}
        for size in gallery_sizes(dataset):
            name = f"{row.name}, {size} scenes"
            rows.append(baseline(row, name, arguments=("--galleries", f"TestG{size}")))
            series[row.name][float(size)] = name
    return Table(
        title="RDLR: gallery sizes",
        source=f"{SOURCE}, figure 5",
        rows=tuple(rows),
        metrics=METRICS,
        ladder=Ladder("Galleries of growing size", "scenes in a gallery", series, after.name, (MAP,)),
    )
