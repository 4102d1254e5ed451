"""The re-identification loss of pre-training (the paper's table 6).

python -m ps_jax.sweep configs/tables/spnet_table6.py --weights mobilenet_v2.npz
"""

from configs.tables.spnet_rows import SEARCH_METRICS, SOURCE, finetuning, pretraining, search_numbers
from ps_jax.sweep import Table

TRUE_BOXES = ("--config.pretrain.model.reid_gt_only=True",)
ALONE = (*TRUE_BOXES, "--config.pretrain.model.reid_only=True")  # the path makes no difference then

# name: (path, what changes, the paper's numbers)
ARMS = {
    "Re-id Only": ("oc", ALONE, search_numbers(91.5, 93.0, 51.9, 87.4)),
    "OC Re-id GT": ("oc", TRUE_BOXES, search_numbers(92.4, 93.7, 55.7, 89.1)),
    "QC Re-id GT": ("qc", TRUE_BOXES, search_numbers(93.2, 94.3, 55.1, 88.5)),
    "OC Original": ("oc", (), search_numbers(92.8, 94.1, 54.5, 88.8)),
    "QC Original": ("qc", (), search_numbers(93.3, 94.1, 55.6, 89.5)),
}


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    rows = [finetuning("Baseline", dataset, search_numbers(91.9, 93.2, 52.7, 86.6))]
    for name, (mode, overrides, paper) in ARMS.items():
        first = pretraining(f"{name} pre-training", mode, dataset, overrides)
        rows += [first, finetuning(name, dataset, paper, after=first.name)]
    return Table(
        title="SPNet-S: re-identification loss of pre-training",
        source=f"{SOURCE}, table 6",
        rows=tuple(rows),
        metrics=SEARCH_METRICS,
        contrasts=(
            ("QC Original", "Baseline"),
            ("OC Original", "Baseline"),
            ("QC Original", "OC Original"),
            ("QC Original", "QC Re-id GT"),
            ("OC Original", "OC Re-id GT"),
        ),
    )
