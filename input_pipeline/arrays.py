"""Batches written beforehand by `python -m input_pipeline.export_arrays`, read without TensorFlow.

A directory of prepared arrays holds

    manifest.json                      version, settings, configuration, size and checksum of every file
    records/scenes_train.json ...      the records of both partitions, and their galleries
    train/<phase>/000000.npz ...       the training batches of the first steps of a phase
    test/people.npz, 928x1504.npy ...  all scenes of a partition after the window resize, by padded size
    test/pictures.bin                  its encoded pictures, one after the other, as they lay on disk
"""

import functools
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import records_json
from input_pipeline.galleries import Galleries
from input_pipeline.plan import host_rows, scene_plan, steps_per_epoch
from input_pipeline.scenes import Split
from input_pipeline.transforms import Augmentation
from ps_jax.errors import ConfigError, DataError
from ps_jax.interface import Batch, People, Scenes

VERSION = 1
MANIFEST = "manifest.json"
REMEDY = "write the arrays again: python -m input_pipeline.export_arrays --config CONFIG --out DIRECTORY"


def phase_settings(phase: Any) -> dict[str, Any]:
    """All of a phase that its batches depend on, as JSON values."""
    settings = asdict(Augmentation.from_phase(phase)) | {"views": phase.views, "batch_size": phase.batch_size}
    if not settings["scales"]:  # as arrays were written before there were any
        del settings["scales"]
    return json.loads(json.dumps(settings))


def file_checksum(path: Path) -> int:
    """CRC-32 of a file."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


class ArrayFiles:
    """The files of a directory of prepared arrays, each checked when it is first used.

    Args:
      directory: the directory.

    Raises:
      DataError: it is missing, unfinished, of another version, or one of its files is missing or cut short.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory).expanduser()
        if not (self.directory / MANIFEST).is_file():
            raise DataError(
                f"{self.directory}: there are no finished prepared arrays ({MANIFEST} is missing); {REMEDY}"
            )
        self.manifest = records_json.read_json(self.directory / MANIFEST, REMEDY)
        if self.manifest.get("version") != VERSION:
            raise DataError(
                f"{self.directory}: prepared arrays of version {self.manifest.get('version')}, this library "
                f"reads version {VERSION}; {REMEDY}"
            )
        for name, entry in self.manifest["files"].items():
            path = self.directory / name
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                raise DataError(f"{path}: this file is missing or was not copied completely; {REMEDY}")
        self.path = functools.cache(self._path)

    def _path(self, name: str) -> Path:
        """The path of a file; raises DataError if its content is not what was written."""
        path = self.directory / name
        if name not in self.manifest["files"]:
            raise DataError(f"{path}: is not among the prepared arrays; {REMEDY}")
        if file_checksum(path) != self.manifest["files"][name]["crc32"]:
            raise DataError(f"{path}: this file is damaged (its checksum is wrong); {REMEDY}")
        return path

    def load(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of an .npz file."""
        with np.load(self.path(name)) as arrays:
            return dict(arrays)


@dataclass(frozen=True)
class ArraysSplit(Split):
    """A split whose pictures, if they were written at all, lie in one file.

    Attributes:
      files: the directory.
    """

    files: ArrayFiles = field(kw_only=True)

    @functools.cached_property
    def _pictures(self) -> tuple[np.ndarray, np.ndarray]:
        if self.partition not in self.files.manifest["partitions"]:
            raise DataError(
                f"{self.files.directory}: holds no pictures of {self.partition!r}; {REMEDY} "
                f"--partition={self.partition}"
            )
        start = self.files.load(f"{self.partition}/people.npz")["picture_start"]
        return start, np.memmap(self.files.path(f"{self.partition}/pictures.bin"), np.uint8, mode="r")

    def encoded(self, position: int) -> bytes:
        """The encoded picture (JPEG or PNG bytes) of scene number `position`."""
        start, pictures = self._pictures
        return pictures[start[position] : start[position + 1]].tobytes()


class ArraysSource:
    """Gives exactly the batches that the data set on disk gave when the arrays were written.

    Scene batches come in any batch size. Training batches are there for the first N steps of the phases of
    the exported configuration and for its seed; after N steps they start over, so a run longer than N steps
    sees the same N batches again and again.

    Args:
      data: `config.data`: `dir`, and `max_people`, `resize`, `annotations` and `least_people` as they were when
        the arrays were written.

    Raises:
      ConfigError: one of these is another than that of the arrays.
      DataError: see `ArrayFiles`.
    """

    def __init__(self, data: Any):
        self._files = ArrayFiles(data.dir)
        self._manifest = self._files.manifest
        self._splits: dict[str, Split] = {}
        self._check("data.resize", list(data.resize), self._manifest["resize"])
        self._check("data.max_people", data.max_people, self._manifest["max_people"])
        for name, everything in (("annotations", 100), ("least_people", 0)):
            written = self._manifest.get(name, everything)
            self._check(f"data.{name}", data.get(name, everything), written)

    def split(self, partition: str) -> Split:
        """The records of "train" or "test"."""
        if partition not in self._splits:
            self._splits[partition] = self._read_split(partition)
        return self._splits[partition]

    def steps_per_epoch(self, phase: Any) -> int:
        """Batches in one pass over the original training scenes, whether or not they were all written."""
        return steps_per_epoch(len(self.split("train").scenes), phase)

    def train_batches(
        self, phase: Any, seed: int, start_step: int = 0, process_index: int = 0, process_count: int = 1
    ) -> Iterator[Batch]:
        """The training stream from a step on; see `input_pipeline.batches.train_batches`.

        Raises:
          ConfigError: there are no batches of such a phase or of this seed.
        """
        share = host_rows(phase, start_step, process_index, process_count)
        settings = phase_settings(phase)
        written = self._manifest["phases"]
        names = [
            name for name, entry in written.items() if entry["settings"] == settings and entry["batches"]
        ]
        if not names:
            there = "; ".join(
                f"{name} ({entry['batches']}) {entry['settings']}" for name, entry in written.items()
            )
            raise ConfigError(
                f"{self._files.directory}: holds no training batches of a phase with {settings}. There are: "
                f"{there or 'none'}. Change the phase, or {REMEDY} --train_batches=N"
            )
        self._check("seed", seed, self._manifest["seed"])
        return self._train_batches(names[0], written[names[0]]["batches"], start_step, share)

    def scene_batches(
        self, partition: str, resize: tuple[int, int] | None = None, batch_size: int = 1
    ) -> Iterator[Batch]:
        """Every scene once; see `input_pipeline.batches.scene_batches`. None is `config.data.resize`.

        Raises:
          ConfigError: the scenes were written with another resize.
          DataError: the scenes of this partition were not written.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; wanted is at least one scene")
        if resize is not None:
            self._check("resize", list(resize), self._manifest["resize"])
        if partition not in self._manifest["partitions"]:
            raise DataError(
                f"{self._files.directory}: the scenes of {partition!r} were not written; {REMEDY} "
                f"--partition={partition}"
            )
        return self._scene_batches(partition, batch_size)

    def _read_split(self, partition: str) -> Split:
        records = Path("records")

        def read(path: Path) -> dict[str, Any]:
            return records_json.read_json(self._files.path(path.as_posix()), REMEDY)

        def gallery(name: str) -> Any:
            names = [scene.name for scene in scenes]
            return records_json.gallery_of(read(records_json.gallery_file(records, name)), names)

        content = read(records_json.scenes_file(records, partition))
        scenes = records_json.scenes_of(content, str(self._files.directory))
        owner = f"{self._files.directory} {partition}"
        readers = {name: functools.partial(gallery, name) for name in content["galleries"]}
        galleries = Galleries(owner, readers, REMEDY)
        return ArraysSplit(
            content["dataset"], partition, scenes, galleries, content["default_gallery"], files=self._files
        )

    def _train_batches(self, name: str, count: int, step: int, share: np.ndarray) -> Iterator[Batch]:
        while True:
            arrays = self._files.load(f"train/{name}/{step % count:06d}.npz")
            yield unflatten({key: array[share] for key, array in arrays.items()})
            step += 1

    def _scene_batches(self, partition: str, batch_size: int) -> Iterator[Batch]:
        table = self._files.load(f"{partition}/people.npz")
        place = np.empty(len(table["size"]), np.int64)  # of a scene among those of its padded size
        for group in scene_plan(table["size"], len(place)):
            place[group.position[group.position >= 0]] = np.arange((group.position >= 0).sum())
        for samples in scene_plan(table["size"], batch_size):
            height, width = samples.size[0]
            path = self._files.path(f"{partition}/{height}x{width}.npy")
            pictures = np.load(path, mmap_mode="r")
            real = samples.position >= 0
            chosen = samples.position[real]
            image = np.zeros((batch_size, height, width, 3), np.uint8)
            image[real] = pictures[place[chosen]]
            people = empty_people(batch_size, table["valid"].shape[1])
            for slot, key in zip(people, People._fields, strict=True):
                slot[real] = table[key][chosen]
            size = samples.size.copy()
            size[real] = table["size"][chosen]
            yield Batch(Scenes(image, size), people, samples.position)

    def _check(self, name: str, value: Any, written: Any) -> None:
        if value != written:
            raise ConfigError(
                f"{name} is {value}, but the arrays in {self._files.directory} were written with {written}; "
                f"use that, or {REMEDY}"
            )


def empty_people(batch_size: int, slots: int) -> People:
    """Slots with nobody in them, as the pipeline pads them."""
    return People(
        np.zeros((batch_size, slots, 4), np.float32),
        np.full((batch_size, slots), -1, np.int32),
        np.full((batch_size, slots), -1, np.int32),
        np.zeros((batch_size, slots), bool),
    )


def flatten(batch: Batch) -> dict[str, np.ndarray]:
    """The arrays of a batch by name."""
    return {
        "image": batch.scenes.image,
        "size": batch.scenes.size,
        "index": batch.index,
        **batch.people._asdict(),
    }


def unflatten(arrays: dict[str, np.ndarray]) -> Batch:
    """The batch of which `flatten` made the arrays."""
    people = People(*(arrays[name] for name in People._fields))
    return Batch(Scenes(arrays["image"], arrays["size"]), people, arrays["index"])
