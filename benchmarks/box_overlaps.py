"""How well boxes lie on labelled people before and after SeqNet's first head (figure 4 of its paper).

    python -m benchmarks.box_overlaps --workdir runs/seqnet [--partition test] [--out overlaps.png]

Prints and draws the boxes that overlap a labelled person by 0.5 or more, by their overlap: the proposals that the first
head sees, and what it makes of them and keeps, which is what the second head sees.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from input_pipeline import open_source
from ps_jax.errors import ConfigError, PersonSearchError
from ps_jax.evaluation.curves import as_png, new_figure
from ps_jax.evaluation.metrics import pairwise_iou
from ps_jax.evaluation.options import evaluation_config, parse_arguments
from ps_jax.evaluation.report import write_atomically
from ps_jax.markdown import markdown_table
from ps_jax.systems import System
from ps_jax.training import load_system

EDGES = np.linspace(0.5, 1.0, 6)
KINDS = {"proposals": "proposals", "first_boxes": "boxes of the first head"}
COLORS = ("#c0562b", "#2654a0")


def count_overlaps(system: System, variables: Any, batches: Iterator[Any]) -> dict[str, np.ndarray]:
    """Counts boxes by their largest overlap with a labelled person.

    Args:
      system: a SeqNet with a first head.
      variables: its variables.
      batches: scenes with their people.

    Returns:
      For each of `KINDS` i64[5], the boxes whose overlap is in 0.5 .. 0.6, ... 0.9 .. 1.

    Raises:
      ConfigError: the system has no first head.
    """
    if not getattr(system.module, "sequential", False):
        raise ConfigError("this needs a SeqNet with a first head (config.model.sequential)")

    @jax.jit
    def boxes(variables, scenes):
        _, seen = system.module.apply(
            variables, system.normalise(scenes), method="detect", mutable=["intermediates"]
        )
        seen = {name: value[0] for name, value in seen["intermediates"].items()}
        return {
            "proposals": seen["proposals"],  # zeros where there is none
            "first_boxes": seen["first_boxes"] * seen["first_valid"][..., None],
        }

    counts = {kind: np.zeros(len(EDGES) - 1, np.int64) for kind in KINDS}
    for batch in batches:
        found = jax.device_get(boxes(variables, batch.scenes))
        for row in np.flatnonzero(np.asarray(batch.index) >= 0):
            labelled = np.asarray(batch.people.valid[row]) & (np.asarray(batch.people.identity[row]) >= 0)
            people = np.asarray(batch.people.box[row], np.float64)[labelled]
            for kind in KINDS:
                best = pairwise_iou(found[kind][row].astype(np.float64), people).max(axis=1, initial=0.0)
                counts[kind] += np.histogram(best, EDGES)[0]
    return counts


def overlap_table(counts: dict[str, np.ndarray]) -> str:
    """The counts as a table in percent of all boxes of a kind, in Markdown."""
    names = [f"{low:.1f} - {low + 0.1:.1f}" for low in EDGES[:-1]]
    rows = [
        [
            label,
            *(f"{100 * n / max(1, counts[kind].sum()):.1f}" for n in counts[kind]),
            str(counts[kind].sum()),
        ]
        for kind, label in KINDS.items()
    ]
    return markdown_table(["percent with overlap", *names, "boxes"], rows)


def overlap_picture(counts: dict[str, np.ndarray]) -> bytes:
    """The counts as bars, PNG."""
    figure, (axes,) = new_figure(1)
    middle = EDGES[:-1] + 0.05
    for (kind, label), color, side in zip(KINDS.items(), COLORS, (-0.02, 0.02), strict=True):
        share = 100 * counts[kind] / max(1, counts[kind].sum())
        axes.bar(middle + side, share, width=0.038, color=color, label=label)
    axes.set(xlabel="overlap with a labelled person", ylabel="boxes in percent", xticks=EDGES)
    axes.set_title("What the second head is given", loc="left")
    axes.legend(frameon=False)
    return as_png(figure)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.box_overlaps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, type=Path, help="work directory of a training")
    parser.add_argument("--partition", choices=("train", "test"), default="test")
    parser.add_argument("--out", type=Path, help="picture to write")
    options, changes = parser.parse_known_args(arguments)
    config = evaluation_config(parse_arguments("", ["--workdir", str(options.workdir)])[0], changes)
    system, variables, _ = load_system(options.workdir)
    counts = count_overlaps(system, variables, open_source(config.data).scene_batches(options.partition))
    print(overlap_table(counts))
    if options.out:
        write_atomically(options.out, overlap_picture(counts))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PersonSearchError as error:
        print(f"box_overlaps: {error}", file=sys.stderr)
        sys.exit(2)
