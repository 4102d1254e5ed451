"""How the trunk is optimised in pre-training (the paper's table 7, results in its figure 7).

python -m ps_jax.sweep configs/tables/spnet_table7.py --weights mobilenet_v2.npz

The figure prints no numbers; those of "Mixed LR" and of the baseline stand in table 6. Learning without forgetting is
the released code's (`lwf` "bce"); it needs trunk weights with their ImageNet classifier.
"""

from configs import spnet_base
from configs.tables.spnet_rows import MAP, PRW, SEARCH_METRICS, SOURCE, TOP1, finetuning, pretraining
from ps_jax.sweep import Table

PAPER = {
    "Mixed LR QC": {PRW: {MAP: 55.6, TOP1: 89.5}},
    "Mixed LR OC": {PRW: {MAP: 54.5, TOP1: 88.8}},
}


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    head = spnet_base.pretrain(dataset)

    def trunk(learning_rate: float, weight_decay: float) -> tuple[str, ...]:
        return (
            f"--config.pretrain.backbone_learning_rate={learning_rate}",
            f"--config.pretrain.backbone_weight_decay={weight_decay}",
        )

    mixed = trunk(head.learning_rate / 10, 0.0)
    arms = {
        "Uniform LR": trunk(head.learning_rate, head.weight_decay),
        "Mixed LR": mixed,
        "Mixed LR + LwF": (*mixed, "--config.pretrain.model.lwf=bce"),
        "Frozen-BB": ("--config.pretrain.model.backbone_tuning=frozen",),
    }
    rows = [finetuning("Baseline", dataset, {PRW: {MAP: 52.7, TOP1: 86.6}})]
    for name, overrides in arms.items():
        for mode in ("qc", "oc"):
            arm = f"{name} {mode.upper()}"
            first = pretraining(f"{arm} pre-training", mode, dataset, overrides)
            rows += [first, finetuning(arm, dataset, PAPER.get(arm), after=first.name)]
    return Table(
        title="SPNet-S: optimisation of the trunk in pre-training",
        source=f"{SOURCE}, table 7 and figure 7",
        rows=tuple(rows),
        metrics=SEARCH_METRICS,
        contrasts=tuple((f"{name} QC", f"{name} OC") for name in arms),
    )
