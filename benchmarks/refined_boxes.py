"""Boxes before and after RDLR's refinement on the scenes where they moved most (figure 7 of its paper).

    python -m benchmarks.refined_boxes --workdir runs/rdlr [--before reid] [--count 12] [--out boxes.png]
    python -m benchmarks.refined_boxes --workdir runs/rdlr_refine --before_workdir runs/rdlr_detector

Prints the mean overlap with the annotated boxes of known people, before and after, and draws the annotated boxes, those
of the detector on its own and those of the refined one.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.box_pictures import draw_boxes
from input_pipeline import open_source
from ps_jax.errors import ConfigError, PersonSearchError
from ps_jax.evaluation.metrics import pairwise_iou
from ps_jax.evaluation.options import evaluation_config, parse_arguments
from ps_jax.evaluation.report import write_atomically
from ps_jax.markdown import markdown_table
from ps_jax.systems import build_system
from ps_jax.training import load_variables

FOUND = 0.5  # overlap from which a detection is a person's


def best_boxes(box: np.ndarray, valid: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each person the detection that overlaps the annotated box most, and by how much.

    Args:
      box, valid: f32[K, 4], bool[K], the detections of a scene.
      people: f32[N, 4], the annotated boxes.

    Returns:
      f32[N, 4], zeros where nothing was detected; f64[N].
    """
    found = box[valid]
    if not len(found) or not len(people):
        return np.zeros_like(people), np.zeros(len(people))
    overlap = pairwise_iou(people, found)
    return found[overlap.argmax(axis=1)], overlap.max(axis=1)


def _detector(workdir: Path, phase: str | None) -> Any:
    """A function from scenes to detections, of a phase of a work directory."""
    variables, meta = load_variables(workdir, phase)
    system = build_system(meta["system"], meta["model"])
    detect = jax.jit(system.detect)
    return lambda scenes: jax.device_get(detect(variables, scenes))


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.refined_boxes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, type=Path, help="work directory with the refinement")
    parser.add_argument("--before_workdir", type=Path, help="work directory of what was refined")
    parser.add_argument("--before", help="phase of what was refined (default: the last one before)")
    parser.add_argument("--partition", choices=("train", "test"), default="test")
    parser.add_argument("--count", type=int, default=12, help="scenes to draw")
    parser.add_argument("--out", type=Path, help="picture to write")
    options, changes = parser.parse_known_args(arguments)
    config = evaluation_config(parse_arguments("", ["--workdir", str(options.workdir)])[0], changes)
    before_phase = options.before
    if options.before_workdir is None and before_phase is None:
        if len(config.phases) < 2:
            raise ConfigError(
                f"{options.workdir} has the refinement alone; name the work directory of what was refined, "
                "--before_workdir"
            )
        before_phase = config.phases[-2]
    before = _detector(options.before_workdir or options.workdir, before_phase)
    after = _detector(options.workdir, "refine")
    overlaps: list[np.ndarray] = []
    scenes: list[tuple[float, np.ndarray, dict[str, np.ndarray]]] = []
    for batch in open_source(config.data).scene_batches(options.partition):
        found = [detect(batch.scenes) for detect in (before, after)]
        for row in np.flatnonzero(np.asarray(batch.index) >= 0):
            known = np.asarray(batch.people.valid[row]) & (np.asarray(batch.people.identity[row]) >= 0)
            true = np.asarray(batch.people.box[row])[known]
            (old, was), (new, now) = (best_boxes(x.box[row], x.valid[row], true) for x in found)
            both = (was >= FOUND) & (now >= FOUND)
            overlaps.append(np.stack([was, now], axis=1)[both])
            if both.any():
                height, width = np.asarray(batch.scenes.size[row])
                picture = np.asarray(batch.scenes.image[row, :height, :width])
                boxes = {"annotated": true[both], "before": old[both], "after": new[both]}
                scenes.append((float(np.abs(now - was)[both].max()), picture, boxes))
    if not scenes:
        print("nobody is found both before and after")
        return
    mean = np.concatenate(overlaps).mean(axis=0)
    rows = [["before", f"{mean[0]:.4f}"], ["after", f"{mean[1]:.4f}"]]
    print(markdown_table(["boxes of people whom both find", "mean IoU"], rows))
    if options.out:
        scenes.sort(key=lambda scene: -scene[0])
        drawn = [(picture, boxes) for _, picture, boxes in scenes[: options.count]]
        write_atomically(options.out, draw_boxes(drawn))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PersonSearchError as error:
        print(f"refined_boxes: {error}", file=sys.stderr)
        sys.exit(2)
