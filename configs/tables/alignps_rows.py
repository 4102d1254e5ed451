"""What the tables of AlignPS share (Yan et al., "Efficient Person Search: An Anchor-Free Approach", 2021).

On the streets a run is 120 steps, about three minutes on two CPU cores. `:prw` and `:cuhk_sysu` have the released
settings; the data sets are looked for in data/prw and data/cuhk_sysu. AlignPS as it is stands in four of the tables: it
is run once.
"""

from collections.abc import Mapping

from configs import datasets
from ps_jax.sweep import Row
from ps_jax.sweep.tables import DETECTION_AP, DETECTION_RECALL, SEARCH_MAP, SEARCH_TOP1

SOURCE = "Yan et al., Efficient Person Search: An Anchor-Free Approach, arXiv 2109.00211"
CUHK_SYSU, PRW = "CUHK-SYSU", "PRW"
RECALL, AP, MAP, TOP1 = "recall", "AP", "mAP", "top-1"

SEARCH_METRICS = {MAP: SEARCH_MAP, TOP1: SEARCH_TOP1}
METRICS = {RECALL: DETECTION_RECALL, AP: DETECTION_AP, **SEARCH_METRICS}

_SHORT = ("--config.eval.pictures=0", "--config.train.epochs=1.0", "--config.train.milestones=(0.8,)")

Numbers = Mapping[str, Mapping[str, float]]


def training(
    name: str, dataset: str, paper: Numbers, overrides: tuple[str, ...] = (), system: str = "alignps"
) -> Row:
    """A training of AlignPS.

    Args:
      name: of the row.
      dataset: what the table is run on.
      paper: the paper's numbers.
      overrides: of the configuration.
      system: name of its configuration, "alignps" or "alignps_plus".
    """
    datasets.check_searchable(dataset)
    small = dataset in datasets.SMALL
    common = _SHORT if small else (f"--config.data.dir=data/{dataset}",)
    return Row(name, f"configs/{system}.py:{dataset}", common + overrides, paper)


def search_numbers(cuhk: tuple[float, float], prw: tuple[float, float]) -> Numbers:
    """The paper's mAP and top-1 of a row on both data sets."""
    return {
        CUHK_SYSU: dict(zip((MAP, TOP1), cuhk, strict=True)),
        PRW: dict(zip((MAP, TOP1), prw, strict=True)),
    }


def all_numbers(cuhk: tuple[float, float, float, float], prw: tuple[float, float, float, float]) -> Numbers:
    """The paper's recall, AP, mAP and top-1 of a row on both data sets."""
    return {CUHK_SYSU: dict(zip(METRICS, cuhk, strict=True)), PRW: dict(zip(METRICS, prw, strict=True))}
