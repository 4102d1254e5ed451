"""Parts and designs of the flexible re-identification head (the paper's table 3).

python -m ps_jax.sweep configs/tables/leaps_table3.py --weights mobilenet_v2.npz

In the paper's text the ticks of rows (b) and (c) are lost; section 4.3 names (b) as dynamic RoIAlign with one plain
module, and says of (c) "with dynamic RoIAlign and [the interaction module]", while its row has two ticks in a table of
which (d) has three: (c) is RoIAlign with both modules, as (d) adds dynamic RoIAlign to reach "both components".
"""

from configs.tables.leaps_rows import (
    DYNAMIC_PLAIN,
    METRICS,
    NO_DIVERSITY,
    PLAIN,
    SOURCE,
    detector,
    training,
)
from ps_jax.sweep import Table


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""

    def twice(module):
        return (f"--config.model.branches=('{module}', '{module}')",)

    static = ("--config.model.roi_align=plain",)
    rows = (
        *detector(dataset),
        training("plain", dataset, (46.8, 86.3), PLAIN),
        training("dynamic, plain", dataset, (49.6, 87.3), DYNAMIC_PLAIN),
        training("plain, interaction", dataset, (50.9, 87.1), (*static, *NO_DIVERSITY)),
        training("dynamic, plain, interaction", dataset, (54.5, 88.6), NO_DIVERSITY),
        training("dynamic, plain, interaction, diversity", dataset, (55.0, 88.9)),
        training("two plain", dataset, (51.3, 88.3), twice("plain")),
        training("two interaction", dataset, (52.1, 87.4), twice("interaction")),
        training("without intra", dataset, (52.6, 87.9), ("--config.model.intra=False",)),
        training("without inter", dataset, (53.8, 88.1), ("--config.model.inter=False",)),
    )
    return Table(
        title="LEAPS: the flexible re-identification head",
        source=f"{SOURCE}, table 3",
        rows=rows,
        metrics=METRICS,
        contrasts=(
            ("dynamic, plain", "plain"),
            ("dynamic, plain, interaction, diversity", "two plain"),
            ("dynamic, plain, interaction, diversity", "two interaction"),
        ),
    )
