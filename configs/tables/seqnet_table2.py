"""Detector and re-identifier of two systems exchanged, and true boxes in place of detections (the paper's table 2).

python -m ps_jax.sweep configs/tables/seqnet_table2.py --weights mobilenet_v2.npz

A re-identifier embeds the other system's boxes as they are; their scores are the detector's.
"""

from configs.tables.seqnet_rows import (
    AP,
    CUHK_SYSU,
    MAP,
    METRICS,
    RECALL,
    SOURCE,
    TOP1,
    all_numbers,
    evaluation,
    training,
)
from ps_jax.sweep import Table
from ps_jax.sweep.tables import TRUE_BOXES_MAP, TRUE_BOXES_TOP1

TRUE_BOXES = {MAP: TRUE_BOXES_MAP, TOP1: TRUE_BOXES_TOP1, RECALL: "", AP: ""}


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""

    def cuhk(*numbers):
        return {CUHK_SYSU: all_numbers(*numbers)}

    nae, seqnet = (training(f"{name} training", name.lower(), dataset) for name in ("NAE", "SeqNet"))
    again = ("--config.eval.model.embed_detections=True",)
    rows = (
        nae,
        seqnet,
        evaluation("NAE boxes, NAE", nae, again, cuhk(92.6, 86.6, 92.5, 93.7)),
        evaluation("NAE boxes, SeqNet", seqnet, (), cuhk(92.6, 86.6, 93.1, 94.0), detector=nae.name),
        evaluation("SeqNet boxes, NAE", nae, (), cuhk(92.1, 89.2, 93.3, 93.8), detector=seqnet.name),
        evaluation("SeqNet boxes, SeqNet", seqnet, (), cuhk(92.1, 89.2, 93.8, 94.5)),
        evaluation("true boxes, NAE", nae, (), cuhk(100, 100, 94.1, 94.6), metrics=TRUE_BOXES),
        evaluation("true boxes, SeqNet", seqnet, (), cuhk(100, 100, 94.6, 95.3), metrics=TRUE_BOXES),
    )
    return Table(
        title="SeqNet and NAE: detectors and re-identifiers exchanged",
        source=f"{SOURCE}, table 2",
        rows=rows,
        metrics=METRICS,
        contrasts=(
            ("SeqNet boxes, NAE", "NAE boxes, NAE"),
            ("NAE boxes, SeqNet", "NAE boxes, NAE"),
            ("SeqNet boxes, SeqNet", "NAE boxes, NAE"),
        ),
    )
