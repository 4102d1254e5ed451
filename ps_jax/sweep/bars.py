"""A table's numbers as bars: ours, with their spread over seeds, and the paper's.

    python -m ps_jax.sweep.bars configs/tables/alignps_figure6.py[:DATASET] --picture FILE [--out DIR]

Ours come from the data file of the table's sweep, `runs.jsonl` in the directory that `python -m ps_jax.sweep` was given
as `--out` or chose by itself.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ps_jax.errors import ConfigError, PersonSearchError
from ps_jax.evaluation.curves import as_png, new_figure
from ps_jax.evaluation.report import write_atomically
from ps_jax.sweep.records import Records
from ps_jax.sweep.summary import Measured, results_of
from ps_jax.sweep.tables import Table, load_table

COLORS = ("#a9bcd8", "#c9b8d9", "#2654a0")  # the paper's data sets, then ours


def bar_series(table: Table, records: Records, metric: str) -> dict[str, list[Measured | None]]:
    """The bars of one panel: for each data set of the paper and for our runs one value a row, None where unknown."""
    datasets = dict.fromkeys(name for row in table.rows for name in row.paper)

    def paper(dataset: str) -> list[Measured | None]:
        values = [row.paper.get(dataset, {}).get(metric) for row in table.rows]
        return [None if value is None else Measured(value, None, 1) for value in values]

    series = {f"paper, {dataset}": paper(dataset) for dataset in datasets}
    series["ours"] = [results_of(records, row.name, metric) for row in table.rows]
    return {name: values for name, values in series.items() if any(values)}


def table_bars(table: Table, records: Records) -> bytes:
    """Draws one panel a metric, as PNG.

    Raises:
      ConfigError: neither the paper nor a run has a number.
    """
    panels = {metric: bar_series(table, records, metric) for metric in table.metrics}
    panels = {metric: series for metric, series in panels.items() if series}
    if not panels:
        raise ConfigError(f"{table.title}: there are no numbers yet, neither the paper's nor of a run")
    figure, all_axes = new_figure(len(panels))
    for axes, (metric, series) in zip(all_axes, panels.items(), strict=True):
        _panel(axes, series, [row.name for row in table.rows])
        axes.set(ylabel=f"{metric} in percent")
        axes.set_title(table.title, loc="left")
    return as_png(figure)


def _panel(axes, series: Mapping[str, Sequence[Measured | None]], names: Sequence[str]) -> None:
    colors = dict(zip([name for name in series if name != "ours"], COLORS[:-1], strict=False))
    width = 0.8 / len(series)
    for number, (label, values) in enumerate(series.items()):
        there = [(place, value) for place, value in enumerate(values) if value is not None]
        place = np.array([place for place, _ in there]) + (number - (len(series) - 1) / 2) * width
        bars = axes.bar(
            place,
            [value.mean for _, value in there],
            width=0.94 * width,
            color=colors.get(label, COLORS[-1]),
            label=label,
            yerr=[value.spread or 0.0 for _, value in there]
            if any(value.spread for _, value in there)
            else None,
            error_kw={"elinewidth": 1.2, "ecolor": "#303338"},
        )
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.margins(y=0.16)
    axes.legend(frameon=False, ncols=len(series), loc="upper left", fontsize=8)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ps_jax.sweep.bars",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", help="table file, with :DATASET for another data set than the streets")
    parser.add_argument("--picture", required=True, type=Path, help="PNG file to write")
    parser.add_argument("--out", type=Path, help="directory of the sweep, default: as `ps_jax.sweep` has it")
    options = parser.parse_args(arguments)
    path, _, dataset = options.table.partition(":")
    out = options.out or Path("runs") / "sweeps" / "_".join(filter(None, (Path(path).stem, dataset)))
    write_atomically(options.picture, table_bars(load_table(options.table), Records(out / "runs.jsonl")))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PersonSearchError as error:
        print(f"bars: {error}", file=sys.stderr)
        sys.exit(2)
