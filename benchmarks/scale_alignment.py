"""What levels of several strides are good for, and what dividing people among them by size spoils.

    python -m benchmarks.scale_alignment --weights mobilenet_v2.npz [--out scales.png]
    python -m benchmarks.scale_alignment --workdirs runs/one_level runs/three_levels [--out scales.png]

The people of the generated streets stand in two streets in the same pose, in the second at the same or at another size.
Everybody in the first is searched for among everybody in the second.

With `--weights` features are those of an ImageNet trunk as it is, at the cell of stride 8 under the middle of the box:
of one level alone, or of C3, C4 and C5 side by side, the coarser ones upsampled to stride 8 by their nearest cells.
That is what aligned feature aggregation concatenates (AlignPS, section III-B), less its convolutions. Each level is
centred over its scene, as AlignPS's map is, and normalised to length 1, so that none outweighs the others. What it
shows: a level sees a window of so many pixels, so what finds nearly everybody at one size loses most of them at 2.5
times it; levels side by side find more there than any of them alone.

With `--workdirs` trained systems embed the people at their boxes. People are 1.3 times as tall in the second street,
three times: both below the size from which AlignPS with several levels takes the next one (table I; in small scenes 32
pixels from the middle to the top), one below and one above, and both above. To a system of one level the limit is
nothing; one of several must match features of two levels in the middle case.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.streets_cameras import make_camera
from input_pipeline.streets_drawing import paste
from input_pipeline.streets_figures import Pose, draw_figure
from input_pipeline.streets_looks import FAMILY, Look, person_look
from ps_jax.backbones import build_trunk
from ps_jax.errors import PersonSearchError
from ps_jax.evaluation.curves import as_png, new_figure
from ps_jax.evaluation.report import write_atomically
from ps_jax.evaluation.similarity import unit_rows
from ps_jax.interface import Scenes
from ps_jax.layers.resize import resize_nearest
from ps_jax.markdown import markdown_table
from ps_jax.porting import load_trunk_weights
from ps_jax.systems import System
from ps_jax.training import load_system

SCENE = (256, 384)  # height, width
PEOPLE_A_SCENE = 6
# Heights of a person in pixels, as a query and in the gallery.
TRUNK_SIZES = ((48, 48), (48, 120))
SYSTEM_SIZES = ((44, 57), (56, 72), (72, 94))
STRIDE = 8
LEVELS = ("c3", "c4", "c5")
TOGETHER = "c3 + c4 + c5"

Sizes = Sequence[tuple[int, int]]
# Pictures u8[scene, height, width, 3] and boxes f64[scene, person, 4] -> rows of length 1, by what they are of.
Embedder = Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]]


class Figures(NamedTuple):
    """People, each in a pose.

    Attributes:
      looks: how they look; no two wear the same colours.
      poses: what they do, in all their scenes.
    """

    looks: tuple[Look, ...]
    poses: tuple[Pose, ...]


class Retrieval(NamedTuple):
    """How a search went in which everybody has one right answer.

    Attributes:
      top1: share of the people whose right answer comes first.
      mean_ap: mean average precision, here the mean of 1 / rank.
    """

    top1: float
    mean_ap: float


def make_figures(count: int, seed: int = 0) -> Figures:
    """`count` people in random poses; the result depends on the arguments alone."""
    random = np.random.default_rng(seed)
    poses = [Pose(int(random.integers(360)), int(random.integers(360)), 20, 20) for _ in range(count)]
    looks = [person_look((seed, 1), number * FAMILY) for number in range(count)]
    return Figures(tuple(looks), tuple(poses))


def draw_scenes(figures: Figures, street: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Puts people side by side into an empty street.

    Args:
      figures: who, `PEOPLE_A_SCENE` a scene; their number is a multiple of that.
      street: number of the street.
      height: of the people, in pixels.

    Returns:
      u8[scene, height, width, 3], and f64[scene, person, 4] boxes in pixels.
    """
    pictures, boxes = [], []
    camera = make_camera(0, street, *SCENE)
    for start in range(0, len(figures.looks), PEOPLE_A_SCENE):
        picture = camera.backdrop.copy()
        for place in range(PEOPLE_A_SCENE):
            look, pose = figures.looks[start + place], figures.poses[start + place]
            sprite = draw_figure(look, pose, height, light=1)
            left, top, right, bottom = _extent(sprite)
            middle = int((place + 0.5) * SCENE[1] / PEOPLE_A_SCENE), SCENE[0] // 2
            sprite = sprite.moved(middle[0] - (left + right) // 2, middle[1] - (top + bottom) // 2)
            paste(picture, sprite)
            boxes.append(_extent(sprite))
        pictures.append(picture)
    return np.stack(pictures), np.array(boxes, np.float64).reshape(len(pictures), PEOPLE_A_SCENE, 4)


def _extent(sprite: Any) -> tuple[int, int, int, int]:
    """The box around a sprite's body, (x1, y1, x2, y2)."""
    rows, columns = np.flatnonzero(sprite.mask.any(1)), np.flatnonzero(sprite.mask.any(0))
    return (
        int(sprite.left + columns[0]),
        int(sprite.top + rows[0]),
        int(sprite.left + columns[-1] + 1),
        int(sprite.top + rows[-1] + 1),
    )


def embed(maps: Mapping[str, Any], boxes: np.ndarray) -> dict[str, np.ndarray]:
    """Features of the cell of stride 8 under the middle of each box.

    Args:
      maps: f[scene, height, width, channel] of each of `LEVELS`.
      boxes: f[scene, person, 4] in pixels.

    Returns:
      For each level, and for all of them side by side, f64[scene * person, dimension] of length 1.
    """
    cell = ((boxes[..., :2] + boxes[..., 2:]) / 2 // STRIDE).astype(int)
    scene = np.arange(len(boxes))[:, None]
    fine = maps[LEVELS[0]].shape[1:3]
    features = {}
    for level in LEVELS:
        centred = maps[level] - jnp.mean(maps[level], axis=(1, 2), keepdims=True)
        at_cells = np.asarray(resize_nearest(centred, fine), np.float64)[scene, cell[..., 1], cell[..., 0]]
        features[level] = unit_rows(at_cells.reshape(-1, at_cells.shape[-1]))
    return features | {TOGETHER: unit_rows(np.concatenate(list(features.values()), axis=1))}


def retrieve(queries: np.ndarray, gallery: np.ndarray) -> Retrieval:
    """Searches with row k of the queries for row k of the gallery, by the cosine of features of length 1."""
    similarity = queries @ gallery.T
    rank = 1 + np.sum(similarity > np.diag(similarity)[:, None], axis=1)
    return Retrieval(float(np.mean(rank == 1)), float(np.mean(1 / rank)))


def compare(embedder: Embedder, count: int, sizes: Sizes) -> dict[str, list[Retrieval]]:
    """Retrieval of `count` people by each kind of features, one result for each pair of sizes.

    Args:
      embedder: of people in pictures.
      count: of people, a multiple of `PEOPLE_A_SCENE`.
      sizes: heights in pixels as a query and in the gallery.
    """
    figures = make_figures(count)
    results: dict[str, list[Retrieval]] = {}
    for query, other in sizes:
        queries, gallery = (
            embedder(*draw_scenes(figures, street, height)) for street, height in ((0, query), (1, other))
        )
        for name, rows in queries.items():
            results.setdefault(name, []).append(retrieve(rows, gallery[name]))
    return results


def trained_systems(workdirs: Sequence[Path]) -> Embedder:
    """The systems of some work directories, under the names of these.

    Raises:
      CheckpointError: a directory has no checkpoint.
    """
    found = {}
    for workdir in workdirs:
        system, variables, _ = load_system(workdir)
        found[workdir.name] = jax.jit(system.embed), variables

    def embed_people(pictures, boxes):
        scenes = Scenes(jnp.asarray(pictures), jnp.tile(jnp.array(SCENE), (len(pictures), 1)))
        rows = {
            name: np.asarray(embed(variables, scenes, jnp.asarray(boxes, jnp.float32)), np.float64)
            for name, (embed, variables) in found.items()
        }
        return {name: unit_rows(x.reshape(-1, x.shape[-1])) for name, x in rows.items()}

    return embed_people


def imagenet_trunk(weights: str) -> Embedder:
    """Features of MobileNetV2 with weights from a file, or published ones by name; see `embed`.

    Raises:
      PortingError: the weights cannot be read or do not fit.
    """
    trunk = build_trunk("mobilenet_v2")
    blank = jnp.zeros((1, *SCENE, 3))
    template = jax.eval_shape(lambda: trunk.init(jax.random.key(0), blank, train=False))
    variables = load_trunk_weights(weights, "mobilenet_v2", template)
    forward = jax.jit(lambda image: trunk.apply(variables, image, train=False))

    def embed_people(pictures, boxes):
        mean, deviation = np.array(System.pixel_mean), np.array(System.pixel_std)
        return embed(forward(jnp.asarray((pictures / 255 - mean) / deviation, jnp.float32)), boxes)

    return embed_people


def retrieval_table(results: Mapping[str, Sequence[Retrieval]], sizes: Sizes) -> str:
    """The results in percent, in Markdown."""
    head = ["features"]
    head += [f"{metric}, {query} and {other} pixels" for query, other in sizes for metric in ("mAP", "top-1")]
    rows = [
        [name, *(f"{100 * value:.1f}" for found in line for value in (found.mean_ap, found.top1))]
        for name, line in results.items()
    ]
    return markdown_table(head, rows)


def retrieval_picture(results: Mapping[str, Sequence[Retrieval]], sizes: Sizes) -> bytes:
    """One pair of scenes, with the second of the pairs of sizes, and top-1 as bars, PNG."""
    figure, (scenes, axes) = new_figure(2)
    figures = make_figures(PEOPLE_A_SCENE)
    scenes.imshow(
        np.concatenate([draw_scenes(figures, street, height)[0][0] for street, height in enumerate(sizes[1])])
    )
    scenes.set_axis_off()
    scenes.set_title("The same people in both scenes", loc="left")
    place, width = np.arange(len(results)), 0.8 / len(sizes)
    colors = ("#a9bcd8", "#2654a0", "#d8a85a")
    for number, ((query, other), color) in enumerate(zip(sizes, colors[: len(sizes)], strict=True)):
        values = [100 * line[number].top1 for line in results.values()]
        side = (number - (len(sizes) - 1) / 2) * width
        bars = axes.bar(place + side, values, 0.95 * width, color=color, label=f"{query} and {other} pixels")
        axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=9)
    axes.set_xticks(place, list(results))
    axes.set(ylabel="top-1 in percent", ylim=(0, 118))
    axes.legend(frameon=False, ncols=len(sizes), loc="upper left")
    axes.set_title("Search for people seen at two heights", loc="left")
    return as_png(figure)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale_alignment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--weights", help="MobileNetV2's: a file or torchvision/mobilenet_v2")
    what.add_argument("--workdirs", type=Path, nargs="+", help="of trained systems, to compare")
    parser.add_argument("--scenes", type=int, default=16, help=f"of {PEOPLE_A_SCENE} people, default: 16")
    parser.add_argument("--out", type=Path, help="picture to write")
    options = parser.parse_args(arguments)
    embedder = imagenet_trunk(options.weights) if options.weights else trained_systems(options.workdirs)
    sizes = TRUNK_SIZES if options.weights else SYSTEM_SIZES
    results = compare(embedder, PEOPLE_A_SCENE * options.scenes, sizes)
    print(retrieval_table(results, sizes))
    if options.out:
        write_atomically(options.out, retrieval_picture(results, sizes))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PersonSearchError as error:
        print(f"scale_alignment: {error}", file=sys.stderr)
        sys.exit(2)
