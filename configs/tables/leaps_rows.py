"""What the tables of LEAPS share (Dong et al., "End-to-End One-Step Person Search With Learnable Proposals", 2023).

On the streets the model is that of `leaps_tiny.py` on MobileNetV2, whose ImageNet weights are small. Proposals learn
slowly to find people, so the tables about re-identification begin with one training that only detects, twelve epochs,
from which their rows go on for six. `:prw` and `:cuhk_sysu` have the paper's settings, and every row is trained alone;
the data sets are looked for in data/prw and data/cuhk_sysu. The paper's numbers are of PRW.
"""

from typing import Any

from configs import datasets, leaps_base
from ps_jax.sweep import Row
from ps_jax.sweep.tables import AFTER, SEARCH_MAP, SEARCH_TOP1

SOURCE = "Dong et al., End-to-End One-Step Person Search With Learnable Proposals, arXiv 2303.11859"
PRW, MAP, TOP1 = "PRW", "mAP", "top-1"
METRICS = {MAP: SEARCH_MAP, TOP1: SEARCH_TOP1}

DETECTOR_NAME = "detector"
_SMALL = ("--config.model.trunk=mobilenet_v2", "--config.eval.pictures=0")
_AFTER = (
    "--config.weights=",
    f"--config.pretrained={AFTER}",
    "--config.train.epochs=6.0",
    "--config.train.milestones=(4.5,)",
)

# The baseline of tables 2 and 4: RoIAlign and one plain module.
PLAIN = ("--config.model.roi_align=plain", "--config.model.branches=('plain',)")
DYNAMIC_PLAIN = ("--config.model.branches=('plain',)",)
NO_DIVERSITY = ("--config.model.diversity_weight=0.0",)


def option(dataset: str, name: str, value: Any) -> tuple[str, ...]:
    """Overrides for an option of the model; none where the configuration has it so: equal rows are run once."""
    config = leaps_base.get(dataset, tiny=dataset in datasets.SMALL)
    return () if config.model[name] == value else (f"--config.model.{name}={value}",)


def detector(dataset: str) -> tuple[Row, ...]:
    """On the small data sets the training that rows go on from: nothing but detection counts."""
    datasets.check_searchable(dataset)
    if dataset not in datasets.SMALL:
        return ()
    overrides = (*_SMALL, "--config.model.reid_weight=0.0", "--config.model.reid_stages=1", *PLAIN)
    return (Row(DETECTOR_NAME, f"configs/leaps_tiny.py:{dataset}", overrides, preparation=True),)


def training(
    name: str,
    dataset: str,
    numbers: tuple[float, ...],
    overrides: tuple[str, ...] = (),
    alone: bool = False,
) -> Row:
    """A training of LEAPS.

    Args:
      name: of the row.
      dataset: what the table is run on.
      numbers: the paper's mAP and top-1, as many as it gives.
      overrides: of the configuration.
      alone: on the small data sets, too, it starts from the trunk, not from `detector`.
    """
    datasets.check_searchable(dataset)
    paper = {PRW: dict(zip((MAP, TOP1), numbers, strict=False))} if numbers else {}
    if dataset not in datasets.SMALL:
        common = (f"--config.data.dir=data/{dataset}",)
        return Row(name, f"configs/leaps.py:{dataset}", common + overrides, paper)
    common = _SMALL if alone else _SMALL + _AFTER
    after = "" if alone else DETECTOR_NAME
    return Row(name, f"configs/leaps_tiny.py:{dataset}", common + overrides, paper, after)
