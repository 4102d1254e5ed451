"""OIM and NAE alone, in SeqNet, and with context matching (the paper's table 6).

python -m ps_jax.sweep configs/tables/seqnet_table6.py --weights mobilenet_v2.npz

The contrast that it is read for, with three seeds:
  ... --seeds 3 --only NAE NAE+SeqNet
"""

from configs.tables.seqnet_rows import (
    MAP,
    SEARCH_METRICS,
    SOURCE,
    TOP1,
    evaluation,
    search_numbers,
    training,
)
from ps_jax.sweep import Table
from ps_jax.sweep.tables import CBGM_MAP, CBGM_TOP1

WITH_CONTEXT = {MAP: CBGM_MAP, TOP1: CBGM_TOP1}


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    k1_k2 = "10,3" if dataset == "cuhk_sysu" else "30,4"  # the paper's for PRW

    def with_context(row, *numbers):
        numbers = search_numbers(*numbers)
        return evaluation(f"{row.name}+CBGM", row, ("--cbgm", k1_k2), numbers, metrics=WITH_CONTEXT)

    oim = training("OIM", "oim", dataset, search_numbers(87.1, 88.5, 34.0, 75.9))
    softmax = ("--config.model.head=softmax",)
    in_seqnet = training("OIM+SeqNet", "seqnet", dataset, search_numbers(93.4, 94.1, 45.8, 81.7), softmax)
    nae = training("NAE", "nae", dataset, search_numbers(91.5, 92.4, 43.3, 80.9))
    seqnet = training("NAE+SeqNet", "seqnet", dataset, search_numbers(93.8, 94.6, 46.7, 83.4))
    return Table(
        title="OIM and NAE in SeqNet",
        source=f"{SOURCE}, table 6",
        rows=(
            oim,
            in_seqnet,
            with_context(in_seqnet, 94.3, 95.0, 46.6, 84.9),
            nae,
            seqnet,
            with_context(seqnet, 94.8, 95.7, 47.6, 87.6),
        ),
        metrics=SEARCH_METRICS,
        contrasts=(
            ("NAE+SeqNet", "NAE"),
            ("OIM+SeqNet", "OIM"),
            ("NAE+SeqNet+CBGM", "NAE+SeqNet"),
        ),
    )
