"""Scale, region and task alignment one by one and together, against none (the paper's figure 6).

python -m ps_jax.sweep configs/tables/alignps_figure6.py --weights mobilenet_v2.npz
python -m ps_jax.sweep.bars configs/tables/alignps_figure6.py --picture figure6.png

Without scale alignment people are divided among P3 to P5 by their size (limits as in table I), without region alignment
the neck is a plain feature pyramid, without task alignment the embedding has a tower of its own (T3). The figure's
numbers are no text, and whose they are is known of five rows: the baseline's from the leads in section IV-C, with two
strategies those of tables I to III, where the same models stand.
"""

from configs import datasets
from configs.tables.alignps_rows import CUHK_SYSU, MAP, PRW, SOURCE, training
from ps_jax.sweep import Table
from ps_jax.sweep.tables import SEARCH_MAP

PAPER = {
    "baseline": {CUHK_SYSU: {MAP: 70.1}, PRW: {MAP: 19.8}},
    "SA + RA": {CUHK_SYSU: {MAP: 80.7}, PRW: {MAP: 35.8}},
    "SA + TA": {CUHK_SYSU: {MAP: 83.4}, PRW: {MAP: 27.4}},
    "RA + TA": {CUHK_SYSU: {MAP: 90.0}, PRW: {MAP: 39.5}},
    "SA + RA + TA": {CUHK_SYSU: {MAP: 93.1}, PRW: {MAP: 45.9}},
}
CHOICES = ((), ("SA",), ("RA",), ("TA",), ("SA", "RA"), ("SA", "TA"), ("RA", "TA"), ("SA", "RA", "TA"))


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    limits = (32, 64) if dataset in datasets.SMALL else (128, 256)
    without = {
        "SA": ("--config.model.levels=(3, 4, 5)", f"--config.model.size_limits={limits}"),
        "RA": tuple(
            f"--config.model.{part}=False"
            for part in ("lateral_deformable", "output_deformable", "concatenate")
        ),
        "TA": ("--config.model.structure=parallel",),
    }
    rows = []
    for chosen in CHOICES:
        name = " + ".join(chosen) or "baseline"
        overrides = [option for part, options in without.items() if part not in chosen for option in options]
        rows.append(training(name, dataset, PAPER.get(name, {}), tuple(overrides)))
    return Table(
        title="AlignPS: alignment strategies",
        source=f"{SOURCE}, figure 6, section IV-C and tables I to III",
        rows=tuple(rows),
        metrics={MAP: SEARCH_MAP},
        contrasts=(
            ("SA + RA + TA", "baseline"),
            ("SA", "baseline"),
            ("RA", "baseline"),
            ("TA", "baseline"),
        ),
    )
