"""People embedded at the proposals or, once more, at the detected boxes (the paper's table 1).

python -m ps_jax.sweep configs/tables/seqnet_table1.py --weights mobilenet_v2.npz
"""

from configs.tables.seqnet_rows import (
    CUHK_SYSU,
    METRICS,
    PRW,
    SOURCE,
    all_numbers,
    evaluation,
    training,
)
from ps_jax.sweep import Table


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    proposals = training(
        "parallelization",
        "nae",
        dataset,
        {CUHK_SYSU: all_numbers(92.6, 86.6, 91.7, 92.8), PRW: all_numbers(93.8, 88.7, 43.6, 80.0)},
    )
    detections = evaluation(
        "serialization",
        proposals,
        ("--config.eval.model.embed_detections=True",),
        {CUHK_SYSU: all_numbers(90.9, 85.7, 92.5, 93.7), PRW: all_numbers(93.7, 89.4, 44.7, 80.8)},
    )
    return Table(
        title="NAE: embeddings of proposals or of detections",
        source=f"{SOURCE}, table 1",
        rows=(proposals, detections),
        metrics=METRICS,
        contrasts=(("serialization", "parallelization"),),
    )
