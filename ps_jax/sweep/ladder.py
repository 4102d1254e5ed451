"""The curve of a ladder of amounts: one line a series with its spread, the baseline dashed."""

import itertools

from ps_jax.evaluation.curves import as_png, new_figure
from ps_jax.sweep.records import Records
from ps_jax.sweep.summary import results_of
from ps_jax.sweep.tables import Ladder, Table

LINE_COLORS = ("#2654a0", "#c0562b", "#188c42", "#8a4fb0")


def ladder_curve(table: Table, records: Records) -> bytes | None:
    """Draws `table.ladder` from the runs that finished, as PNG; None where there is nothing to draw yet."""
    ladder = table.ladder
    assert ladder is not None
    if not any(results_of(records, name, ladder.metrics[0]) for name in _rows(ladder)):
        return None
    figure, panels = new_figure(len(ladder.metrics))
    for axes, metric in zip(panels, ladder.metrics, strict=True):
        for (label, rows), color in zip(ladder.series.items(), itertools.cycle(LINE_COLORS), strict=False):
            found = {amount: results_of(records, name, metric) for amount, name in sorted(rows.items())}
            points = [(amount, value) for amount, value in found.items() if value]
            axes.errorbar(
                [amount for amount, _ in points],
                [value.mean for _, value in points],
                yerr=[value.spread or 0.0 for _, value in points],
                marker="o",
                linewidth=2,
                elinewidth=1.2,
                capsize=3,
                color=color,
                label=label,
            )
        if baseline := results_of(records, ladder.baseline, metric):
            axes.axhline(baseline.mean, color="#303338", linewidth=1.2, linestyle="--", label=ladder.baseline)
        axes.set(xlabel=ladder.amount, ylabel=f"{metric} in percent")
        axes.set_title(f"{ladder.title}, {metric}", loc="left")
        axes.legend(frameon=False)
    return as_png(figure)


def _rows(ladder: Ladder) -> list[str]:
    return [name for rows in ladder.series.values() for name in rows.values()]
