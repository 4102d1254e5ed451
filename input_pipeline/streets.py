"""Generated street scenes for person search, written to disk in the layout of CUHK-SYSU or of PRW.

    python -m input_pipeline.streets --out data/streets --layout cuhk_sysu --seed 0

People with lasting looks walk through the streets of several cameras, each with its own light; look-alikes
wear the same colours in other patterns. Pictures depend on the options alone, on every machine.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import uuid
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from input_pipeline.streets_cameras import Camera, make_camera
from input_pipeline.streets_layouts import (
    StreetsPerson,
    StreetsScene,
    cuhk_sysu_picture,
    prw_picture,
    write_cuhk_sysu,
    write_prw,
)
from input_pipeline.streets_roster import PARTITIONS, plan_scenes
from input_pipeline.streets_scenes import DrawnScene, draw_scene
from ps_jax.errors import ConfigError, DataError, PersonSearchError

LAYOUTS = ("cuhk_sysu", "prw")
OPTIONS_FILE = "streets.json"
_VERSION = 1  # goes up whenever the same options give other pictures


@dataclasses.dataclass(frozen=True)
class StreetsOptions:
    """Everything a set of generated streets depends on.

    Attributes:
      layout: "cuhk_sysu" or "prw".
      seed: of everything that is drawn by chance.
      height, width: size of a scene in pixels; people are laid out in proportion to the height.
      train_scenes, test_scenes: number of pictures.
      train_identities, test_identities: number of known people; no one is in both.
      cameras: number of cameras, which train and test share.
      people: fewest and most people in a scene; one for whom the crowd leaves no room is missing.
      unknown_fraction: share of people without a name.
      gallery_sizes: TestG files to write beside TestG50, as far as there are test scenes ("cuhk_sysu").

    Raises:
      ConfigError: a value is out of its range, or the scenes cannot show everyone twice.
    """

    layout: str = "cuhk_sysu"
    seed: int = 0
    height: int = 240
    width: int = 320
    train_scenes: int = 480
    test_scenes: int = 160
    train_identities: int = 100
    test_identities: int = 40
    cameras: int = 6
    people: tuple[int, int] = (3, 6)
    unknown_fraction: float = 0.25
    gallery_sizes: tuple[int, ...] = (50, 100, 150)

    def __post_init__(self):
        object.__setattr__(self, "people", tuple(self.people))
        object.__setattr__(self, "gallery_sizes", tuple(self.gallery_sizes))
        if self.layout not in LAYOUTS:
            raise ConfigError(f"streets: layout is {self.layout!r}, wanted one of {', '.join(LAYOUTS)}")
        for name, least in (("height", 96), ("width", 96), ("seed", 0), ("cameras", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"streets: {name} is {getattr(self, name)}, wanted at least {least}")
        if len(self.people) != 2 or not 1 <= self.people[0] <= self.people[1]:
            raise ConfigError(f"streets: people is {self.people}, wanted (fewest, most), 1 <= fewest <= most")
        if not 0 <= self.unknown_fraction < 1:
            raise ConfigError(
                f"streets: unknown_fraction is {self.unknown_fraction}, wanted 0 <= fraction < 1"
            )
        if any(size < 2 for size in self.gallery_sizes):
            raise ConfigError(f"streets: gallery_sizes is {self.gallery_sizes}, wanted sizes of 2 or more")
        for partition in PARTITIONS:
            scenes, identities = self.scenes(partition), self.identities(partition)
            if scenes < 2 or identities < 1:
                raise ConfigError(
                    f"streets: {scenes} {partition}_scenes with {identities} {partition}_identities, "
                    "wanted at least 2 scenes and 1 identity"
                )
            if scenes * sum(self.people) / 2 * (1 - self.unknown_fraction) < 2 * identities:
                raise ConfigError(
                    f"streets: {scenes} {partition}_scenes cannot show {identities} {partition}_identities "
                    "twice each; take more scenes, more people in a scene, or fewer identities"
                )

    def scenes(self, partition: str) -> int:
        """Number of scenes of "train" or "test"."""
        return self.train_scenes if partition == "train" else self.test_scenes

    def identities(self, partition: str) -> int:
        """Number of known people of "train" or "test"."""
        return self.train_identities if partition == "train" else self.test_identities


def write_streets(directory: str | Path, options: StreetsOptions) -> None:
    """Writes a set of generated streets, or leaves the one that is there if it has the same options.

    The directory appears under its name only when it is complete.

    Args:
      directory: folder to write; its parents are made.
      options: what to write.

    Raises:
      DataError: the directory holds something else, or cannot be written.
    """
    target = Path(os.path.abspath(Path(directory).expanduser()))
    if _holds(target, options):
        return
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        _write(partial, options)
        partial.rename(target)
    except OSError as error:
        if _holds(target, options):
            return  # another process was quicker
        raise DataError(
            f"{target}: cannot write the generated streets ({error.strerror or error}); nothing is left of "
            "them. Make room, or name a directory that can be written"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def draw_street_scene(options: StreetsOptions, partition: str, number: int) -> DrawnScene:
    """Draws one scene of a set, as `write_streets` does, with the masks of the people in it."""
    plan = _plan(options, partition)[number]
    camera = make_camera(options.seed, plan.camera, options.height, options.width)
    return draw_scene(camera, plan.looks, _scene_random(options, partition, number))


def _plan(options: StreetsOptions, partition: str):
    return plan_scenes(
        options.seed,
        partition,
        options.scenes(partition),
        options.identities(partition),
        options.cameras,
        options.people,
        options.unknown_fraction,
    )


def _scene_random(options: StreetsOptions, partition: str, number: int) -> np.random.Generator:
    return np.random.default_rng(
        np.random.SeedSequence([options.seed, PARTITIONS.index(partition), 2, number])
    )


def _content(options: StreetsOptions) -> dict:
    return json.loads(json.dumps({"version": _VERSION, **dataclasses.asdict(options)}))


def _holds(target: Path, options: StreetsOptions) -> bool:
    """Whether `target` holds exactly this set; DataError where it holds anything else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        found = json.loads((target / OPTIONS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(
            f"{target}: exists, but is no set of generated streets (no readable {OPTIONS_FILE}); name "
            "another directory, or remove this one"
        ) from None
    wanted = _content(options)
    if found == wanted:
        return True
    if not isinstance(found, dict):
        found = {}
    differences = [
        f"{name} {found.get(name)!r} instead of {wanted.get(name)!r}"
        for name in {**wanted, **found}
        if found.get(name) != wanted.get(name)
    ]
    raise DataError(
        f"{target}: holds generated streets with other options: {', '.join(differences)}; name another "
        "directory, or remove this one"
    )


def _write(root: Path, options: StreetsOptions) -> None:
    cameras = [
        make_camera(options.seed, number, options.height, options.width) for number in range(options.cameras)
    ]
    total = options.train_scenes + options.test_scenes
    with tqdm(total=total, desc="streets", unit="scene", disable=None) as progress:
        train, test = (_write_pictures(root, options, name, cameras, progress) for name in PARTITIONS)
    if options.layout == "prw":
        galleries = write_prw(root, train, test, options.train_identities)
    else:
        galleries = write_cuhk_sysu(root, train, test, options.gallery_sizes, options.seed)
    if not any(galleries.values()):
        raise ConfigError("streets: nobody is seen in two test scenes; take more test_scenes")
    (root / OPTIONS_FILE).write_text(json.dumps(_content(options), indent=2) + "\n", encoding="utf-8")


def _write_pictures(
    root: Path, options: StreetsOptions, partition: str, cameras: list[Camera], progress: tqdm
) -> list[StreetsScene]:
    scenes = []
    for number, plan in enumerate(_plan(options, partition)):
        drawn = draw_scene(cameras[plan.camera], plan.looks, _scene_random(options, partition, number))
        if options.layout == "prw":
            path = root / prw_picture(partition, plan.camera, plan.frame)
        else:
            path = root / cuhk_sysu_picture(number + (options.train_scenes if partition == "test" else 0))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.picture).save(path, "JPEG", quality=92, subsampling=0)
        people = tuple(
            StreetsPerson(placed.box, plan.identities[placed.number], placed.visible)
            for placed in drawn.people
        )
        scenes.append(StreetsScene(number, plan.camera, plan.frame, options.height, people))
        progress.update()
    return scenes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.streets",
        description="Writes generated street scenes for person search.",
    )
    parser.add_argument("--out", required=True, help="directory to write")
    for name, value in dataclasses.asdict(StreetsOptions()).items():
        several = isinstance(value, tuple)
        parser.add_argument(
            f"--{name}",
            type=type(value[0] if several else value),
            default=value,
            nargs=None if not several else 2 if name == "people" else "+",
            choices=LAYOUTS if name == "layout" else None,
            help="default: %(default)s",
        )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    values = vars(_parser().parse_args(arguments))
    out = values.pop("out")
    try:
        options = StreetsOptions(**values)
        write_streets(out, options)
    except PersonSearchError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"{out}: generated streets in the {options.layout} layout, seed {options.seed}: "
        f"{options.train_scenes} train and {options.test_scenes} test scenes of "
        f"{options.width}x{options.height}, "
        f"{options.train_identities} and {options.test_identities} identities, {options.cameras} cameras"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
