"""Batch-normalised lengths against FixedNorm, long or short offsets scoring high (the paper's table 9).

python -m ps_jax.sweep configs/tables/spnet_table9.py --weights mobilenet_v2.npz
"""

from configs.tables.spnet_rows import SEARCH_METRICS, SOURCE, finetuning, search_numbers
from ps_jax.sweep import Table

# name: (logit_scale, positive_norm, the paper's numbers)
LOGITS = {
    "BatchNorm Logits (+)": ("batch", True, search_numbers(90.4, 91.9, 49.8, 84.3)),
    "BatchNorm Logits (-)": ("batch", False, search_numbers(91.2, 92.0, 42.2, 82.2)),
    "FixedNorm Logits (+)": ("fixed", True, search_numbers(91.1, 92.2, 52.6, 86.3)),
    "FixedNorm Logits (-)": ("fixed", False, search_numbers(91.9, 93.2, 52.7, 86.6)),
}


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    rows = []
    for name, (scale, positive, paper) in LOGITS.items():
        overrides = (f"--config.model.logit_scale={scale}", f"--config.model.positive_norm={positive}")
        rows.append(finetuning(name, dataset, paper, overrides=overrides))
    best = "FixedNorm Logits (-)"
    return Table(
        title="SPNet-S: logits from lengths of offsets",
        source=f"{SOURCE}, table 9",
        rows=tuple(rows),
        metrics=SEARCH_METRICS,
        contrasts=tuple((best, name) for name in LOGITS if name != best),
    )
