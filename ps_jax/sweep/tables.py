"""What a table of runs is: its rows, the paper's numbers, the contrasts it is read for."""

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ps_jax.errors import ConfigError

# Where results.json has the usual numbers; "*" is the first entry, which is the default gallery.
SEARCH_MAP = "search/*/mAP"
SEARCH_TOP1 = "search/*/top1"
CBGM_MAP = "search_cbgm/*/mAP"
CBGM_TOP1 = "search_cbgm/*/top1"
TRUE_BOXES_MAP = "search_true_boxes/*/mAP"
TRUE_BOXES_TOP1 = "search_true_boxes/*/top1"
DETECTION_AP = "detection/AP"
DETECTION_RECALL = "detection/recall"

AFTER = "{after}"  # in the overrides: the work directory of the row that this one starts from
DETECTOR = "{detector}"  # likewise of the row named `detector`


@dataclass(frozen=True)
class Row:
    """One configuration, run once for each seed.

    Attributes:
      name: as the paper calls it.
      config: configuration file with its data set, "configs/x.py:prw".
      overrides: arguments of `train.py`, "--config.x.y=value". "{after}" in them stands for the work directory
        of the row named by `after`, of the same seed.
      paper: the paper's numbers, by data set and metric, as the paper prints them.
      after: an earlier row of the table that must have been run, "" for none.
      preparation: only trained for others to start from; whatever it is evaluated to is not looked at.
      evaluation: nothing is trained: the row `after` is evaluated once more, and the overrides are arguments of
        `eval.py`.
      detector: another earlier row, "" for none: "{detector}" in the overrides stands for its work directory.
      metrics: where this row's numbers are, as far as it is not where the table's are; "" is nowhere.
    """

    name: str
    config: str
    overrides: tuple[str, ...] = ()
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    after: str = ""
    preparation: bool = False
    evaluation: bool = False
    detector: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        """The earlier rows that must have been run."""
        return tuple(filter(None, (self.after, self.detector)))


@dataclass(frozen=True)
class Ladder:
    """A curve to draw: a metric against an amount, one line a series.

    Attributes:
      title: above the curve.
      amount: what the horizontal axis counts, with its unit.
      series: for each line the names of its rows by amount.
      baseline: the row of the dashed line.
      metrics: of the table, one panel each.
    """

    title: str
    amount: str
    series: Mapping[str, Mapping[float, str]]
    baseline: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table of a paper, or one of our own.

    Attributes:
      title: what it shows.
      source: paper and number of the table.
      rows: in the order of the paper.
      metrics: for each column of numbers its path in `results.json`, fractions that are printed in percent.
      contrasts: pairs of rows; the table is read for the first one's lead over the second.
      seeds: seeds a row is run with, unless the command says another number.
      ladder: the curve drawn from the rows, if any.

    Raises:
      ConfigError: rows or metrics are named that the table does not have, or two rows have one name.
    """

    title: str
    source: str
    rows: tuple[Row, ...]
    metrics: Mapping[str, str]
    contrasts: tuple[tuple[str, str], ...] = ()
    seeds: int = 1
    ladder: Ladder | None = None

    def __post_init__(self) -> None:
        known: set[str] = set()
        places: set[str] = set()
        for row in self.rows:
            if directory_name(row.name) in places:
                raise ConfigError(
                    f"{self.title}: two rows are called {row.name!r}, or have names too much alike"
                )
            for name in row.needs:
                if name not in known:
                    raise ConfigError(
                        f"{self.title}: row {row.name!r} comes after {name!r}, which is no earlier row"
                    )
            for mark, name in ((AFTER, "after"), (DETECTOR, "detector")):
                if any(mark in override for override in row.overrides) and not getattr(row, name):
                    raise ConfigError(
                        f"{self.title}: row {row.name!r} has {mark} in it but names no row `{name}`"
                    )
            if row.evaluation and not row.after:
                raise ConfigError(f"{self.title}: row {row.name!r} is an evaluation but names no row `after`")
            for dataset, numbers in row.paper.items():
                for metric in numbers:
                    if metric not in self.metrics:
                        raise ConfigError(
                            f"{self.title}: row {row.name!r} has {metric!r} of {dataset}; the metrics are "
                            f"{', '.join(self.metrics)}"
                        )
            known.add(row.name)
            places.add(directory_name(row.name))
        named = [name for pair in self.contrasts for name in pair]
        if self.ladder:
            named += [
                self.ladder.baseline,
                *(n for line in self.ladder.series.values() for n in line.values()),
            ]
            for metric in self.ladder.metrics:
                if metric not in self.metrics:
                    raise ConfigError(f"{self.title}: the ladder draws {metric!r}, which is no metric here")
        for name in named:
            if name not in known:
                raise ConfigError(f"{self.title}: {name!r} is compared, but there is no such row")

    def row(self, name: str) -> Row:
        """The row of this name.

        Raises:
          ConfigError: there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise ConfigError(
            f"{self.title}: there is no row {name!r}; the rows are {', '.join(row.name for row in self.rows)}"
        )


def directory_name(row: str) -> str:
    """The name of a row as a part of a path."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", row).strip("_")


def load_table(place: str) -> Table:
    """Reads a table file.

    Args:
      place: a Python file with `get_table`, and after a colon its argument, the data set:
        "configs/tables/spnet_table8.py" or "configs/tables/spnet_table8.py:prw".

    Returns:
      The table.

    Raises:
      ConfigError: there is no such file or data set, or it is no table.
    """
    path, _, dataset = place.partition(":")
    if not Path(path).is_file():
        raise ConfigError(f"{path}: there is no such file; the tables lie in configs/tables/")
    spec = importlib.util.spec_from_file_location(f"table_{directory_name(path)}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    get_table: Callable[..., Table] | None = getattr(module, "get_table", None)
    if get_table is None:
        raise ConfigError(f"{path}: has no get_table; the files in configs/tables/ show what one looks like")
    return get_table(dataset) if dataset else get_table()
