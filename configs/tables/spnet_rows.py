"""What the tables of SPNet share (Jaffe and Zakhor, "Swap Path Network", WACV 2025).

On the streets a row is a short run, about three minutes on two CPU cores: 30 steps of pre-training and 45 of
fine-tuning. `--config.pretrain.epochs=...` and `--config.finetune.epochs=...` on the sweep's command line change that
for all rows. Other data sets have the paper's settings. Pre-training is on the training scenes of the same data set,
where the paper's is on COCOPersons.
"""

from collections.abc import Mapping

from configs import spnet_base
from ps_jax.sweep import Row
from ps_jax.sweep.tables import DETECTION_AP, SEARCH_MAP, SEARCH_TOP1, TRUE_BOXES_MAP

SOURCE = "Jaffe and Zakhor, Swap Path Network for Robust Person Search Pre-training, WACV 2025"
CUHK_SYSU, PRW = "CUHK-SYSU", "PRW"
MAP, TOP1, GT_MAP, AP = "mAP", "top-1", "GT mAP", "AP@0.5"

SEARCH_METRICS = {MAP: SEARCH_MAP, TOP1: SEARCH_TOP1}
SUBTASK_METRICS = {MAP: SEARCH_MAP, GT_MAP: TRUE_BOXES_MAP, AP: DETECTION_AP}

_SHORT = (
    "--config.eval.pictures=0",
    "--config.pretrain.epochs=0.25",
    "--config.pretrain.warmup_steps=10",
    "--config.finetune.epochs=0.75",
    "--config.finetune.warmup_steps=10",
)
FINETUNE_ONLY = ("--config.phases=('finetune',)",)


def row(
    name: str,
    config: str,
    dataset: str,
    overrides: tuple[str, ...] = (),
    paper: Mapping[str, Mapping[str, float]] | None = None,
) -> Row:
    """A row that runs `configs/<config>.py:<dataset>`, shortened where the data set is sized for two CPU cores.

    All rows take configurations with both phases, so that the sweep's command line can change either for all.
    """
    spnet_base.check_dataset(dataset)
    short = _SHORT if dataset in spnet_base.SMALL else ()
    return Row(name, f"configs/{config}.py:{dataset}", short + overrides, paper or {})


def without_pretraining(
    name: str, dataset: str, paper: Mapping[str, Mapping[str, float]] | None = None
) -> Row:
    """The row of object-centric training alone."""
    return row(name, "spnet_qc", dataset, FINETUNE_ONLY, paper)


def search_numbers(cuhk_map: float, cuhk_top1: float, prw_map: float, prw_top1: float) -> dict:
    """The paper's numbers of a row as its tables 3, 6, 8 and 9 print them."""
    return {CUHK_SYSU: {MAP: cuhk_map, TOP1: cuhk_top1}, PRW: {MAP: prw_map, TOP1: prw_top1}}
