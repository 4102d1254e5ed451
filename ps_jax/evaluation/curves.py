"""Curves as PNG files: precision against recall of detection, mAP against gallery size, context matching."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ps_jax.evaluation.cbgm_grid import GridCell, best_cell, grid_cells
from ps_jax.evaluation.detection import DetectionResult
from ps_jax.evaluation.metrics import precision_recall

COLORS = {"search": "#2654a0", "search_cbgm": "#8a4fb0", "search_true_boxes": "#188c42"}
LABELS = {"search": "detections", "search_cbgm": "context matching", "search_true_boxes": "true boxes"}


def precision_recall_curve(detection: DetectionResult) -> bytes:
    """Precision of the detections above a score against the share of people they find, for all scores."""
    precision, recall = precision_recall(detection.matched, detection.score)
    figure, (axes,) = new_figure()
    if len(recall):
        recall = recall * detection.recall
        axes.fill_between(recall, precision, step="pre", color=COLORS["search"], alpha=0.12, linewidth=0)
        axes.plot(recall, precision, color=COLORS["search"], linewidth=2, drawstyle="steps-pre")
    axes.axvline(detection.recall, color="#8a8e94", linewidth=1, linestyle="--")
    axes.annotate(
        f"recall {100 * detection.recall:.1f} %",
        (detection.recall, 0.04),
        xytext=(-6 if detection.recall > 0.5 else 6, 0),
        textcoords="offset points",
        ha="right" if detection.recall > 0.5 else "left",
        color="#5a5e64",
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title(f"Detection, AP {100 * detection.ap:.1f} %", loc="left")
    return as_png(figure)


def gallery_size_curve(results: Mapping[str, Any]) -> bytes | None:
    """mAP of the same queries against the size of their gallery; None unless there are several sizes."""
    names = results["sizes"]
    sizes = [results["search"][name]["scenes"] for name in names]
    if len(set(sizes)) < 2:
        return None
    figure, (axes,) = new_figure()
    for kind in (kind for kind in COLORS if kind in results):
        values = [100 * results[kind][name]["mAP"] for name in names]
        axes.plot(sizes, values, marker="o", linewidth=2, color=COLORS[kind], label=LABELS[kind])
        for size, value in zip(sizes, values, strict=True):
            axes.annotate(
                f"{value:.1f}",
                (size, value),
                xytext=(4, 8),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=COLORS[kind],
            )
    axes.set_xscale("log")
    axes.set_xticks(sorted(set(sizes)), [f"{size:.0f}" for size in sorted(set(sizes))])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low - 3), min(100.0, high + 3) if high < 97 else 104.0)
    axes.margins(x=0.08)
    axes.set(xlabel="scenes in the gallery", ylabel="mAP in percent")
    axes.set_title("Search against gallery size", loc="left")
    if len([kind for kind in COLORS if kind in results]) > 1:
        axes.legend(frameon=False)
    return as_png(figure)


def grid_picture(results: Mapping[str, Any], gallery: str) -> bytes:
    """(mAP + top-1) / 2 with context matching by k1 and k2 as shaded cells, the best one framed."""
    rows = grid_cells(results["search_cbgm_grid"][gallery])
    without = results["search"][gallery]
    figure, (axes,) = new_figure()
    values = np.array([[100 * cell.score for cell in row] for row in rows])
    axes.grid(False)
    # Never a wider range of shades than there are differences: half a percent at least.
    low, high = values.min(), max(values.max(), values.min() + 0.5)
    axes.imshow(values, cmap="Purples", vmin=low - 0.5 * (high - low), vmax=high + 0.5 * (high - low))
    best = best_cell(rows)
    for down, row in enumerate(rows):
        for across, cell in enumerate(row):
            dark = values[down, across] > low + 0.6 * (high - low)
            color = "white" if dark else "#303338"
            axes.text(across, down, f"{values[down, across]:.1f}", ha="center", va="center", color=color)
            if cell is best:
                corner = (across - 0.5, down - 0.5)
                axes.add_patch(
                    Rectangle(corner, 1, 1, fill=False, edgecolor="#188c42", linewidth=2.5, clip_on=False)
                )
    axes.set_xticks(range(len(rows[0])), [str(cell.k1) for cell in rows[0]])
    axes.set_yticks(range(len(rows)), [str(row[0].k2) for row in rows])
    axes.set(xlabel="k1, candidates looked at again", ylabel="k2, people around the query")
    plain = GridCell(0, 0, without["mAP"], without["top1"]).score
    axes.set_title(f"Context matching, (mAP + top-1) / 2; without {100 * plain:.1f}", loc="left")
    return as_png(figure)


def new_figure(panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels side by side, in the style of all curves."""
    figure = Figure(figsize=(6.4 * panels, 4.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e4e6ea", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, all_axes


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
