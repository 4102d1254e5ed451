"""What the tables of SPNet share (Jaffe and Zakhor, "Swap Path Network", WACV 2025).

On the streets every run is short, two to three minutes on two CPU cores: 60 steps of pre-training, 60 of fine-tuning
from it in a second run. `--config.pretrain.epochs=...` and `--config.finetune.epochs=...` on the sweep's command line
change that for all rows. Pre-training is on the streets, too.

`:prw` and `:cuhk_sysu` have the paper's settings, with pre-training on COCOPersons; the data sets are looked for in
data/coco_persons, data/prw and data/cuhk_sysu.
"""

from collections.abc import Mapping

from configs import datasets
from ps_jax.sweep import Row
from ps_jax.sweep.tables import AFTER, DETECTION_AP, SEARCH_MAP, SEARCH_TOP1, TRUE_BOXES_MAP

SOURCE = "Jaffe and Zakhor, Swap Path Network for Robust Person Search Pre-training, WACV 2025"
CUHK_SYSU, PRW = "CUHK-SYSU", "PRW"
MAP, TOP1, GT_MAP, AP = "mAP", "top-1", "GT mAP", "AP@0.5"

SEARCH_METRICS = {MAP: SEARCH_MAP, TOP1: SEARCH_TOP1}
SUBTASK_METRICS = {MAP: SEARCH_MAP, GT_MAP: TRUE_BOXES_MAP, AP: DETECTION_AP}

PRETRAINED_ON = "coco_persons"
_SHORT = (
    "--config.eval.pictures=0",
    "--config.pretrain.epochs=0.5",
    "--config.pretrain.warmup_steps=10",
    "--config.finetune.epochs=1.0",
    "--config.finetune.warmup_steps=10",
)


def pretraining(name: str, mode: str, dataset: str, overrides: tuple[str, ...] = ()) -> Row:
    """A run of pre-training alone, "qc" or "oc".

    Args:
      name: of the row.
      mode: path that is trained.
      dataset: what the table is run on; one that is sized for two CPU cores is also pre-trained on.
      overrides: of the configuration.
    """
    datasets.check_dataset(dataset)
    if dataset not in datasets.SMALL:
        where = (f"--config.data.dir=data/{PRETRAINED_ON}",)
        config = "spnet_qc" if mode == "qc" else "spnet_oc"
        return Row(name, f"configs/{config}.py:{PRETRAINED_ON}", where + overrides, preparation=True)
    config = "spnet_qc" if mode == "qc" else "spnet_oc_pretrain"
    # It is evaluated at its end, which nobody looks at: the object-centric search of few scenes is quick.
    alone = ("--config.phases=('pretrain',)", "--config.eval.mode=oc", "--config.eval.true_boxes=False")
    return Row(name, f"configs/{config}.py:{dataset}", _SHORT + alone + overrides, preparation=True)


def finetuning(
    name: str,
    dataset: str,
    paper: Mapping[str, Mapping[str, float]] | None = None,
    after: str = "",
    mode: str = "oc",
    overrides: tuple[str, ...] = (),
) -> Row:
    """A run of fine-tuning alone.

    Args:
      name: of the row.
      dataset: what the table is run on.
      paper: the paper's numbers.
      after: row of the pre-training it starts from, "" for trunk weights alone.
      mode: path that is trained.
      overrides: of the configuration.
    """
    datasets.check_dataset(dataset)
    short = dataset in datasets.SMALL
    common = _SHORT if short else (f"--config.data.dir=data/{dataset}",)
    common += ("--config.phases=('finetune',)",)
    if after:
        common += ("--config.weights=", f"--config.pretrained={AFTER}")
    config = "spnet_qc" if mode == "oc" else "spnet_qc_finetune"
    return Row(name, f"configs/{config}.py:{dataset}", common + overrides, paper or {}, after)


def search_numbers(cuhk_map: float, cuhk_top1: float, prw_map: float, prw_top1: float) -> dict:
    """The paper's numbers of a row as its tables 6, 8 and 9 print them."""
    return {CUHK_SYSU: {MAP: cuhk_map, TOP1: cuhk_top1}, PRW: {MAP: prw_map, TOP1: prw_top1}}
