"""First classification score, suppression between the heads, tasks of the second head (the paper's table 3).

python -m ps_jax.sweep configs/tables/seqnet_table3.py --weights mobilenet_v2.npz

Score and suppression are switches of the evaluation; tasks are trained with or without. Which of the last two rows is
the paper's with classification alone cannot be seen in its text; the order of its columns is assumed.
"""

from configs.tables.seqnet_rows import CUHK_SYSU, METRICS, SOURCE, all_numbers, evaluation, training
from ps_jax.sweep import Table

NO_SCORE, NO_SUPPRESSION = (
    f"--config.eval.model.{name}=False" for name in ("first_score", "suppress_between")
)
NO_CLASSIFICATION, NO_REGRESSION = (
    f"--config.model.{name}=False" for name in ("classification", "regression")
)


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""

    def cuhk(*numbers):
        return {CUHK_SYSU: all_numbers(*numbers)}

    whole = training("SeqNet", "seqnet", dataset, cuhk(92.1, 89.2, 93.8, 94.5))

    def trained(name, overrides, *numbers):
        return training(name, "seqnet", dataset, cuhk(*numbers), overrides)

    rows = (
        whole,
        evaluation("neither FCS nor NMS", whole, (NO_SCORE, NO_SUPPRESSION), cuhk(91.5, 86.7, 93.1, 94.0)),
        evaluation("FCS without NMS", whole, (NO_SUPPRESSION,), cuhk(92.7, 89.7, 93.8, 94.5)),
        evaluation("NMS without FCS", whole, (NO_SCORE,), cuhk(89.1, 86.3, 93.4, 94.4)),
        trained("re-id alone", (NO_CLASSIFICATION, NO_REGRESSION), 92.6, 89.5, 93.0, 93.8),
        trained("re-id and classification", (NO_REGRESSION,), 92.8, 89.5, 93.3, 94.1),
        trained("re-id and regression", (NO_CLASSIFICATION,), 92.4, 89.4, 93.4, 94.2),
    )
    return Table(
        title="SeqNet: score, suppression and tasks of the second head",
        source=f"{SOURCE}, table 3",
        rows=rows,
        metrics=METRICS,
        contrasts=(("FCS without NMS", "neither FCS nor NMS"), ("SeqNet", "re-id alone")),
    )
