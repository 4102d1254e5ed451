"""Boxes of a scene above falling thresholds of their score (figure 6 of LEAPS's paper).

    python -m benchmarks.boxes_by_score --workdir runs/leaps --out boxes.png [--thresholds 0.1 0.01] [--scene NAME]
                                        [--partition test]

One proposal finds each person, so nothing is suppressed: with a low threshold there are several boxes around a person,
which re-identification is trained with. Prints how many there are, and how many overlap a person by more than 0.7.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from benchmarks.sampling_points import find_scene
from input_pipeline import open_source
from ps_jax.errors import PersonSearchError
from ps_jax.evaluation.curves import as_png, new_figure
from ps_jax.evaluation.metrics import pairwise_iou
from ps_jax.evaluation.options import evaluation_config, parse_arguments
from ps_jax.evaluation.report import write_atomically
from ps_jax.markdown import markdown_table
from ps_jax.training import load_system

COLORS = ("#e8433f", "#f2a33a", "#4bc0f7", "#2be05a", "#b46bf2", "#f26bb8", "#ffffff")
NEAR = 0.7  # overlap from which a proposal stands for a person


def boxes_picture(
    image: np.ndarray,
    box: Float[np.ndarray, "box 4"],
    score: Float[np.ndarray, " box"],
    thresholds: Sequence[float],
) -> bytes:
    """Draws the boxes whose score is above each threshold, one panel a threshold.

    Args:
      image: u8[height, width, 3], the scene without padding.
      box, score: of the detections.
      thresholds: of the score.

    Returns:
      A PNG file.
    """
    height, width = image.shape[:2]
    figure, panels = new_figure(len(thresholds))
    figure.set_size_inches(6.4 * len(thresholds), 6.4 * height / width + 0.4)
    for axes, threshold in zip(panels, thresholds, strict=True):
        axes.imshow(image)
        shown = np.flatnonzero(score > threshold)
        for number, index in enumerate(shown):
            x1, y1, x2, y2 = box[index]
            color = COLORS[number % len(COLORS)]
            axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=color, linewidth=1.5)
            axes.text(x1, y1, f"{score[index]:.2f}", color=color, fontsize=7, va="bottom")
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        axes.set_title(f"score above {threshold}: {len(shown)} boxes", loc="left")
    return as_png(figure)


def count_boxes(
    box: Float[np.ndarray, "box 4"],
    score: Float[np.ndarray, " box"],
    people: Float[np.ndarray, "person 4"],
    thresholds: Sequence[float],
) -> list[tuple[str, ...]]:
    """For each threshold: it, boxes above it, those near a person, those people."""
    near = pairwise_iou(people, box) > NEAR
    return [
        (
            str(threshold),
            str(np.sum(score > threshold)),
            str(np.sum(near.any(axis=0) & (score > threshold))),
            str(np.sum(near[:, score > threshold].any(axis=1))),
        )
        for threshold in thresholds
    ]


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.boxes_by_score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--workdir", required=True, type=Path, help="work directory of a training")
    option("--out", required=True, type=Path, help="picture to write")
    option("--thresholds", nargs="+", type=float, default=(0.1, 0.01), help="default: 0.1 0.01")
    option("--scene", help="name of a scene, default: the one that shows most people")
    option("--partition", choices=("train", "test"), default="test")
    options, changes = parser.parse_known_args(arguments)
    config = evaluation_config(parse_arguments("", ["--workdir", str(options.workdir)])[0], changes)
    system, variables, _ = load_system(options.workdir, score_threshold=min(options.thresholds))
    source = open_source(config.data)
    batch = find_scene(source, source.split(options.partition), options.scene)
    found = jax.device_get(jax.jit(system.detect)(variables, batch.scenes))
    box, score = found.box[0], np.where(found.valid[0], found.score[0], -1.0)
    people = np.asarray(batch.people.box[0], np.float64)[np.asarray(batch.people.valid[0])]
    height, width = np.asarray(batch.scenes.size)[0]
    image = np.asarray(batch.scenes.image)[0, :height, :width]
    write_atomically(options.out, boxes_picture(image, box, score, options.thresholds))
    lines = count_boxes(box, score, people, options.thresholds)
    print(
        markdown_table(["score above", "boxes", f"overlap above {NEAR}", f"of {len(people)} people"], lines)
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PersonSearchError as error:
        print(f"boxes_by_score: {error}", file=sys.stderr)
        sys.exit(2)
