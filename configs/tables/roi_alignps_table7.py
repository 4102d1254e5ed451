"""What the branches learn from each other (the paper's table VII).

python -m ps_jax.sweep configs/tables/roi_alignps_table7.py --weights mobilenet_v2.npz

The named model has the first of the three losses alone. The weights of the other two are ours: no code is public.
"""

from configs.tables.roi_alignps_rows import SOURCE, training
from configs.tables.seqnet_rows import SEARCH_METRICS, search_numbers
from ps_jax.sweep import Table

WEIGHTS = {"mi": "mutual_information_weight", "kl": "divergence_weight", "dv": "cosine_weight"}
WEIGHT = 0.2
# Losses of a row: mAP and top-1 on CUHK-SYSU and on PRW.
ROWS = {
    (): (95.0, 95.3, 50.3, 84.3),
    ("mi",): (95.4, 96.0, 51.6, 84.4),
    ("kl",): (95.3, 95.9, 50.4, 85.3),
    ("dv",): (95.2, 95.6, 50.4, 84.9),
    ("mi", "kl"): (95.4, 95.8, 51.1, 84.0),
    ("mi", "dv"): (95.1, 95.6, 50.4, 84.5),
    ("kl", "dv"): (95.4, 95.8, 50.0, 84.6),
    ("mi", "kl", "dv"): (95.1, 95.3, 51.4, 85.2),
}


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""

    def overrides(losses):
        weights = {name: WEIGHT if loss in losses else 0.0 for loss, name in WEIGHTS.items()}
        defaults = {"mutual_information_weight": WEIGHT, "divergence_weight": 0.0, "cosine_weight": 0.0}
        changed = {name: weight for name, weight in weights.items() if weight != defaults[name]}
        return tuple(f"--config.model.{name}={weight}" for name, weight in changed.items())

    return Table(
        title="ROI-AlignPS: mutual learning",
        source=f"{SOURCE}, table VII",
        rows=tuple(
            training(" + ".join(losses) or "none", dataset, search_numbers(*numbers), overrides(losses))
            for losses, numbers in ROWS.items()
        ),
        metrics=SEARCH_METRICS,
        contrasts=(("mi", "none"), ("kl", "none"), ("dv", "none")),
    )
