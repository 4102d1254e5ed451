"""The re-identification loss of pre-training (the paper's table 6).

python -m ps_jax.sweep configs/tables/spnet_table6.py --weights mobilenet_v2.npz --seeds 3
"""

from configs.tables.spnet_rows import SEARCH_METRICS, SOURCE, finetuning, pretraining, search_numbers
from ps_jax.sweep import Table


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `spnet_base.DATASETS`."""
    oc, qc = "OC pre-training", "QC pre-training"
    return Table(
        title="SPNet-S: re-identification loss of pre-training",
        source=f"{SOURCE}, table 6",
        rows=(
            pretraining(oc, "oc", dataset),
            pretraining(qc, "qc", dataset),
            finetuning("Baseline", dataset, search_numbers(91.9, 93.2, 52.7, 86.6)),
            finetuning("OC Original", dataset, search_numbers(92.8, 94.1, 54.5, 88.8), after=oc),
            finetuning("QC Original", dataset, search_numbers(93.3, 94.1, 55.6, 89.5), after=qc),
        ),
        metrics=SEARCH_METRICS,
        contrasts=(("QC Original", "Baseline"), ("OC Original", "Baseline"), ("QC Original", "OC Original")),
    )
