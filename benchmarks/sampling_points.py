"""Where the deformable convolutions of aligned feature aggregation look at people (figure 7 of AlignPS's paper).

    python -m benchmarks.sampling_points --workdir runs/alignps --out points.png [--scene NAME] [--levels 3 4]
                                         [--people 6] [--partition test]

For the location in the middle of a person the output convolution reads nine places of the concatenated map, and for
each of these the lateral convolution of a level reads nine places of the trunk's map: 81 points, one colour a person,
the person's middle in green. Offsets point between cells; the nearest cell of the concatenated map is followed.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from input_pipeline import open_source
from input_pipeline.scenes import Split
from ps_jax.errors import ConfigError, DataError, PersonSearchError
from ps_jax.evaluation.curves import as_png, new_figure
from ps_jax.evaluation.options import evaluation_config, parse_arguments
from ps_jax.evaluation.report import write_atomically
from ps_jax.interface import Batch, Scenes
from ps_jax.systems import System
from ps_jax.training import load_system

STRIDE = 8  # of the concatenated map
TAPS = np.mgrid[-1:2, -1:2].reshape(2, 9).T  # (down, right), row by row
COLORS = ("#e8433f", "#f2a33a", "#f7e04b", "#4bc0f7", "#b46bf2", "#f26bb8", "#ffffff", "#7a9cff")
MIDDLE = "#2be05a"

Offsets = Float[np.ndarray, "height width 18"]


def neck_offsets(system: System, variables: Any, scenes: Scenes) -> dict[str, Offsets]:
    """The offsets that the neck predicts for the first of some scenes.

    Args:
      system: AlignPS with deformable lateral and output convolutions.
      variables: its variables.
      scenes: a batch.

    Returns:
      "output3" and "lateral3" to "lateral5" -> offsets of the taps, (down, right) in cells.

    Raises:
      ConfigError: the system has no such convolutions.
    """
    module = system.module
    if not (getattr(module, "lateral_deformable", False) and module.output_deformable and 3 in module.levels):
        raise ConfigError(
            "this needs an AlignPS with deformable lateral and output convolutions (config.model.lateral_deformable, "
            "output_deformable) and level 3"
        )

    def run(module, scenes):
        return module.features(scenes, train=False)

    @jax.jit
    def offsets(variables, scenes):
        _, seen = module.apply(
            variables,
            system.normalise(scenes),
            method=run,
            capture_intermediates=lambda module, _: module.name == "offset",
            mutable=["intermediates"],
        )
        return seen["intermediates"]["neck"]

    neck = offsets(variables, scenes)
    return {
        name: np.asarray(neck[name]["offset"]["__call__"][0][0], np.float64)
        for name in ("output3", "lateral3", "lateral4", "lateral5")
    }


def sampling_points(
    offsets: Mapping[str, Offsets], level: int, cell: tuple[int, int]
) -> Float[np.ndarray, "81 2"]:
    """The places that a location sees on one level.

    Args:
      offsets: from `neck_offsets`.
      level: 3, 4 or 5.
      cell: (row, column) of the location on the map of stride 8.

    Returns:
      (x, y) in pixels of the scene.
    """
    output, lateral = offsets["output3"], offsets[f"lateral{level}"]
    seen = _places(output, np.array(cell))
    cells = np.clip(np.round(seen).astype(int), 0, np.array(output.shape[:2]) - 1)
    # Upsampled by its nearest cells, a map of twice the stride has cell i under i // 2.
    cells = np.minimum(cells >> (level - 3), np.array(lateral.shape[:2]) - 1)
    places = np.concatenate([_places(lateral, one) for one in cells])
    return (places[:, ::-1] + 0.5) * 2**level


def _places(offsets: Offsets, cell: np.ndarray) -> Float[np.ndarray, "9 2"]:
    """(row, column) of what the nine taps read for an output cell."""
    return cell + TAPS + offsets[cell[0], cell[1]].reshape(9, 2)


def points_picture(
    image: np.ndarray,
    boxes: Float[np.ndarray, "people 4"],
    offsets: Mapping[str, Offsets],
    levels: Sequence[int],
) -> bytes:
    """Draws the points of some people, one panel a level.

    Args:
      image: u8[height, width, 3], the scene without padding.
      boxes: of the people, in its pixels.
      offsets: from `neck_offsets`.
      levels: some of 3, 4 and 5.

    Returns:
      A PNG file.
    """
    height, width = image.shape[:2]
    figure, panels = new_figure(len(levels))
    figure.set_size_inches(6.4 * len(levels), 6.4 * height / width + 0.4)
    for axes, level in zip(panels, levels, strict=True):
        axes.imshow(image)
        for number, box in enumerate(boxes):
            middle = (box[:2] + box[2:]) / 2
            cell = np.minimum(middle[::-1] // STRIDE, np.array(offsets["output3"].shape[:2]) - 1).astype(int)
            points = sampling_points(offsets, level, (int(cell[0]), int(cell[1])))
            axes.scatter(*points.T, s=8, color=COLORS[number % len(COLORS)], linewidths=0)
            axes.scatter(*((cell[::-1, None] + 0.5) * STRIDE), s=22, color=MIDDLE, edgecolors="black")
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        axes.set_title(f"lateral convolution of C{level}, then output convolution", loc="left")
    return as_png(figure)


def find_scene(source: Any, split: Split, name: str | None) -> Batch:
    """The scene of that name, resized, as a batch of one; None is the one that shows most people.

    Raises:
      DataError: there is no such scene.
    """
    if name is not None:
        split.scene(name)
        position = split.positions[name]
    else:
        position = int(np.argmax([len(scene.people) for scene in split.scenes]))
    for batch in source.scene_batches(split.partition, batch_size=1):
        if int(np.asarray(batch.index)[0]) == position:
            return batch
    raise DataError(f"{split.dataset} {split.partition}: scene {position} did not come")


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sampling_points",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--workdir", required=True, type=Path, help="work directory of a training of AlignPS")
    option("--out", required=True, type=Path, help="picture to write")
    option("--scene", help="name of a scene, default: the one that shows most people")
    option("--levels", nargs="+", type=int, choices=(3, 4, 5), default=(3, 4), help="default: 3 4")
    option("--people", type=int, default=6, help="at most so many, the largest, default: %(default)s")
    option("--partition", choices=("train", "test"), default="test")
    options, changes = parser.parse_known_args(arguments)
    config = evaluation_config(parse_arguments("", ["--workdir", str(options.workdir)])[0], changes)
    system, variables, _ = load_system(options.workdir)
    source = open_source(config.data)
    batch = find_scene(source, source.split(options.partition), options.scene)
    offsets = neck_offsets(system, variables, batch.scenes)
    height, width = np.asarray(batch.scenes.size)[0]
    boxes = np.asarray(batch.people.box[0], np.float64)[np.asarray(batch.people.valid[0])]
    largest = np.argsort(boxes[:, 1] - boxes[:, 3], kind="stable")[: options.people]
    picture = points_picture(
        np.asarray(batch.scenes.image)[0, :height, :width], boxes[largest], offsets, options.levels
    )
    write_atomically(options.out, picture)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PersonSearchError as error:
        print(f"sampling_points: {error}", file=sys.stderr)
        sys.exit(2)
