"""Query-centric pre-training against object-centric pre-training against none, three seeds each (the paper's table 5).

python -m ps_jax.sweep configs/tables/spnet_qc_oc_none.py --weights mobilenet_v2.npz
"""

from configs.tables.spnet_rows import (
    AP,
    CUHK_SYSU,
    GT_MAP,
    MAP,
    PRW,
    SOURCE,
    SUBTASK_METRICS,
    finetuning,
    pretraining,
)
from ps_jax.sweep import Table


def _numbers(cuhk: tuple[float, float, float], prw: tuple[float, float, float]) -> dict:
    return {
        name: dict(zip((MAP, GT_MAP, AP), values, strict=True))
        for name, values in ((CUHK_SYSU, cuhk), (PRW, prw))
    }


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    oc, qc = "OC pre-training", "QC pre-training"
    return Table(
        title="SPNet-S: query-centric, object-centric and no pre-training",
        source=f"{SOURCE}, table 5",
        rows=(
            pretraining(oc, "oc", dataset),
            pretraining(qc, "qc", dataset),
            finetuning("Classifier", dataset, _numbers((91.9, 95.8, 83.2), (52.7, 56.6, 88.8))),
            finetuning("Ours-OC", dataset, _numbers((92.8, 96.3, 83.9), (54.5, 57.6, 89.1)), after=oc),
            finetuning("Ours-QC", dataset, _numbers((93.3, 95.9, 84.9), (55.6, 58.7, 88.9)), after=qc),
        ),
        metrics=SUBTASK_METRICS,
        contrasts=(("Ours-QC", "Classifier"), ("Ours-OC", "Classifier"), ("Ours-QC", "Ours-OC")),
        seeds=3,
    )
