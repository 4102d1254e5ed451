"""What the tables of SeqNet share (Li and Miao, "Sequential End-to-end Network", AAAI 2021).

On the streets a run is 120 steps, three to four minutes on two CPU cores. `:prw` and `:cuhk_sysu` have the paper's
settings; the data sets are looked for in data/prw and data/cuhk_sysu.
"""

from collections.abc import Mapping

from configs import datasets
from ps_jax.sweep import Row
from ps_jax.sweep.tables import (
    DETECTION_AP,
    DETECTION_RECALL,
    DETECTOR,
    SEARCH_MAP,
    SEARCH_TOP1,
)

SOURCE = "Li and Miao, Sequential End-to-end Network for Efficient Person Search, AAAI 2021"
CUHK_SYSU, PRW = "CUHK-SYSU", "PRW"
RECALL, AP, MAP, TOP1 = "recall", "AP", "mAP", "top-1"

SEARCH_METRICS = {MAP: SEARCH_MAP, TOP1: SEARCH_TOP1}
METRICS = {RECALL: DETECTION_RECALL, AP: DETECTION_AP, **SEARCH_METRICS}

_SHORT = ("--config.eval.pictures=0", "--config.train.epochs=1.0", "--config.train.milestones=(0.8,)")

Numbers = Mapping[str, Mapping[str, float]]


def training(
    name: str, system: str, dataset: str, paper: Numbers | None = None, overrides: tuple[str, ...] = ()
) -> Row:
    """A training of "seqnet", "nae" or "oim".

    Args:
      name: of the row.
      system: name of its configuration.
      dataset: what the table is run on.
      paper: the paper's numbers.
      overrides: of the configuration.
    """
    datasets.check_searchable(dataset)
    small = dataset in datasets.SMALL
    common = _SHORT if small else (f"--config.data.dir=data/{dataset}",)
    return Row(name, f"configs/{system}.py:{dataset}", common + overrides, paper or {})


def evaluation(
    name: str,
    of: Row,
    overrides: tuple[str, ...] = (),
    paper: Numbers | None = None,
    detector: str = "",
    metrics: Mapping[str, str] | None = None,
) -> Row:
    """Another evaluation of a training.

    Args:
      name: of the row.
      of: the training.
      overrides: arguments of `eval.py`.
      paper: the paper's numbers.
      detector: row of the training whose detections are embedded, "" for its own.
      metrics: where the numbers are, if not where the table's are.
    """
    swap = ("--detector", DETECTOR) if detector else ()
    return Row(
        name,
        of.config,
        overrides + swap,
        paper or {},
        after=of.name,
        evaluation=True,
        detector=detector,
        metrics=metrics or {},
    )


def search_numbers(cuhk_map: float, cuhk_top1: float, prw_map: float, prw_top1: float) -> Numbers:
    """The paper's numbers of a row of table 6."""
    return {CUHK_SYSU: {MAP: cuhk_map, TOP1: cuhk_top1}, PRW: {MAP: prw_map, TOP1: prw_top1}}


def all_numbers(recall: float, ap: float, mean_ap: float, top1: float) -> Mapping[str, float]:
    """The paper's numbers of a row of tables 1 to 3 on one data set."""
    return {RECALL: recall, AP: ap, MAP: mean_ap, TOP1: top1}
