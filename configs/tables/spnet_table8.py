"""Query-centric against object-centric fine-tuning, with and without query-centric pre-training (the paper's table 8).

python -m ps_jax.sweep configs/tables/spnet_table8.py --weights mobilenet_v2.npz --seeds 3
"""

from configs.tables.spnet_rows import SEARCH_METRICS, SOURCE, finetuning, pretraining, search_numbers
from ps_jax.sweep import Table


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    first = "QC pre-training"
    return Table(
        title="SPNet-S: query-centric and object-centric fine-tuning",
        source=f"{SOURCE}, table 8",
        rows=(
            pretraining(first, "qc", dataset),
            finetuning("OC-FT", dataset, search_numbers(91.9, 93.2, 52.7, 86.6)),
            finetuning("OC-FT+PT", dataset, search_numbers(93.3, 94.1, 55.6, 89.5), first),
            finetuning("QC-FT", dataset, search_numbers(80.8, 87.7, 54.0, 86.7), mode="qc"),
            finetuning("QC-FT+PT", dataset, search_numbers(77.4, 85.4, 54.1, 87.1), first, "qc"),
        ),
        metrics=SEARCH_METRICS,
        contrasts=(
            ("OC-FT+PT", "OC-FT"),
            ("QC-FT+PT", "QC-FT"),
            ("OC-FT", "QC-FT"),
            ("OC-FT+PT", "QC-FT+PT"),
        ),
    )
