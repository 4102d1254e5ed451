"""The summary of a sweep: the paper's numbers, ours beside them, and what can be said about the contrasts."""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ps_jax.evaluation.report import write_atomically
from ps_jax.markdown import markdown_table
from ps_jax.sweep.records import FAILED, FINISHED, Records
from ps_jax.sweep.tables import Row, Table

NOT_PACKAGES = ("phase", "checkpoint_step", "config", "changes")  # of a run, not of the software


class Measured(NamedTuple):
    """A number over seeds, in percent.

    Attributes:
      mean: mean.
      spread: standard deviation with n - 1; None of a single seed.
      seeds: n, how many.
    """

    mean: float
    spread: float | None
    seeds: int

    def __str__(self):
        return f"{self.mean:.1f}" if self.spread is None else f"{self.mean:.1f} ± {self.spread:.1f}"


def measured(values: Sequence[float]) -> Measured | None:
    """Mean and spread of fractions; None of none."""
    if not values:
        return None
    percent = [100 * value for value in values]
    spread = statistics.stdev(percent) if len(percent) > 1 else None
    return Measured(statistics.fmean(percent), spread, len(percent))


def results_of(records: Records, row: str, metric: str) -> Measured | None:
    """A metric of a row over the seeds that finished; None where none did."""
    return measured([one.results[metric] for one in records.of(row) if metric in one.results])


def difference(first: Measured, second: Measured) -> Measured:
    """first - second. The spread is that of the difference of two single runs, sqrt(s1^2 + s2^2)."""
    spread = None
    if first.spread is not None and second.spread is not None:
        spread = math.hypot(first.spread, second.spread)
    return Measured(first.mean - second.mean, spread, min(first.seeds, second.seeds))


def verdict(ours: Measured, paper: Sequence[float]) -> str:
    """What a contrast says.

    Args:
      ours: our difference.
      paper: the paper's differences, one a data set.

    Returns:
      "undecided" where the spread covers the difference, or there is none as there is one seed; else "as the
      paper" or "against the paper" where its differences have one sign, else "higher" or "lower".
    """
    if ours.spread is None:
        return "undecided (one seed)"
    if abs(ours.mean) <= ours.spread:
        return "undecided"
    signs = {math.copysign(1, value) for value in paper if value}
    if len(signs) != 1 or 0 in paper:
        return "higher" if ours.mean > 0 else "lower"
    return "as the paper" if math.copysign(1, ours.mean) in signs else "against the paper"


def format_summary(table: Table, records: Records, command: str = "") -> str:
    """The summary as Markdown."""
    parts = [
        f"# {table.title}",
        f"Source of the paper's numbers: {table.source}.",
        _rows_table(table, records),
    ]
    if table.contrasts:
        parts += ["## Contrasts", _contrasts_table(table, records)]
        parts.append(
            "Undecided: the spread of the difference, sqrt(s1² + s2²), covers the difference, or there is one seed "
            "only."
        )
    if failures := _failures(table, records):
        parts += ["## Failed", failures]
    if command:
        parts.append(f"Command: `{command}`")
    versions = {
        ", ".join(f"{name} {value}" for name, value in one.versions.items() if name not in NOT_PACKAGES)
        for row in table.rows
        for one in records.of(row.name)
        if one.versions
    }
    parts += [f"Versions: {line}" for line in sorted(versions)]
    return "\n\n".join(parts) + "\n"


def write_summary(out: Path, table: Table, records: Records, command: str) -> None:
    """Writes `table.md`, and `ladder.png` where the table has a curve and there are numbers for it."""
    write_atomically(out / "table.md", format_summary(table, records, command).encode())
    if table.ladder:
        from ps_jax.sweep.ladder import ladder_curve

        if (picture := ladder_curve(table, records)) is not None:
            write_atomically(out / "ladder.png", picture)


def _paper_columns(rows: Iterable[Row], table: Table) -> list[tuple[str, str]]:
    """(data set, metric) of every number that the paper gives."""
    datasets = dict.fromkeys(name for row in rows for name in row.paper)
    given = {
        (name, metric) for row in table.rows for name, numbers in row.paper.items() for metric in numbers
    }
    return [pair for pair in itertools.product(datasets, table.metrics) if pair in given]


def _rows_table(table: Table, records: Records) -> str:
    columns = _paper_columns(table.rows, table)
    head = ["row", *(f"{dataset} {metric}" for dataset, metric in columns)]
    head += [*(f"ours {metric}" for metric in table.metrics), "runs", "minutes a run"]
    lines = []
    for row in table.rows:
        finished = [one for one in records.of(row.name) if one.status == FINISHED]
        paper = [row.paper.get(dataset, {}).get(metric) for dataset, metric in columns]
        ours = [results_of(records, row.name, metric) for metric in table.metrics]
        minutes = f"{statistics.fmean(one.minutes for one in finished):.1f}" if finished else ""
        numbers = [*(_text(value) for value in paper), *(str(value or "") for value in ours)]
        lines.append([row.name, *numbers, str(len(finished) or ""), minutes])
    text = markdown_table(head, lines)
    if any(len(records.of(row.name)) > 1 for row in table.rows):
        text += "\n\nOurs: mean ± standard deviation (n - 1) over seeds."
    return text


def _contrasts_table(table: Table, records: Records) -> str:
    columns = _paper_columns(table.rows, table)
    datasets = list(dict.fromkeys(dataset for dataset, _ in columns))
    lines = []
    for first, second in table.contrasts:
        one, two = table.row(first), table.row(second)
        for metric in table.metrics:
            paper: dict[str, float] = {}
            for dataset in datasets:
                ahead, behind = (row.paper.get(dataset, {}).get(metric) for row in (one, two))
                if ahead is not None and behind is not None:
                    paper[dataset] = round(
                        ahead - behind, 6
                    )  # of printed numbers, so without rounding errors
            ours = [results_of(records, row.name, metric) for row in (one, two)]
            line = [f"{first} - {second}", metric]
            line += [f"{paper[dataset]:+.1f}" if dataset in paper else "" for dataset in datasets]
            if ours[0] and ours[1]:
                lead = difference(ours[0], ours[1])
                spread = "" if lead.spread is None else f" ± {lead.spread:.1f}"
                line += [f"{lead.mean:+.1f}{spread}", verdict(lead, list(paper.values()))]
            else:
                line += ["", ""]
            lines.append(line)
    return markdown_table(["contrast", "metric", *datasets, "ours", "verdict"], lines)


def _failures(table: Table, records: Records) -> str:
    failed = [one for row in table.rows for one in records.of(row.name) if one.status == FAILED]
    return "\n".join(f"- {one.row}, seed {one.seed}: {one.message}" for one in failed)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
