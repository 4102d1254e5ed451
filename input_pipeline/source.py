"""Where a run's scenes and batches come from: a data set on disk, or prepared arrays."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from input_pipeline.annotation_amount import with_annotation_amount
from input_pipeline.arrays import ArraysSource
from input_pipeline.crop_plan import CROPS, crop_steps_per_epoch
from input_pipeline.plan import steps_per_epoch
from input_pipeline.scenes import Split
from ps_jax.errors import ConfigError
from ps_jax.interface import Batch


class Source(Protocol):
    """What the trainer and the evaluator take their data from."""

    def split(self, partition: str) -> Split:
        """The records of "train" or "test"."""

    def steps_per_epoch(self, phase: Any) -> int:
        """Batches in one pass over the training scenes."""

    def train_batches(
        self, phase: Any, seed: int, start_step: int = 0, process_index: int = 0, process_count: int = 1
    ) -> Iterator[Batch]:
        """The endless training stream from a step on; see `input_pipeline.batches.train_batches`."""

    def scene_batches(
        self, partition: str, resize: tuple[int, int] | None = None, batch_size: int = 1
    ) -> Iterator[Batch]:
        """Every scene once; see `input_pipeline.batches.scene_batches`. None is the run's own resize."""


class DiskSource:
    """Decodes and augments the pictures of a data set with tf.data.

    Args:
      data: `config.data`: `max_people`, `resize`, `raw` (the pictures before resizing come along) and, for the training
        scenes, `annotations` and `least_people` (see `with_annotation_amount`; all boxes of all scenes by default).
      read: partition -> its records.
    """

    def __init__(self, data: Any, read: Callable[[str], Split]):
        self._resize = tuple(data.resize)
        self._max_people = data.max_people
        self._raw = data.get("raw", False)
        self._annotations = data.get("annotations", 100)
        self._least_people = data.get("least_people", 0)
        self._read = read
        self._splits: dict[str, Split] = {}

    def split(self, partition: str) -> Split:
        """The records of "train" or "test", read once."""
        if partition not in self._splits:
            split = self._read(partition)
            if partition == "train":
                split = with_annotation_amount(split, self._annotations, self._least_people)
            self._splits[partition] = split
        return self._splits[partition]

    def steps_per_epoch(self, phase: Any) -> int:
        """Batches in one pass over the training scenes; the last, incomplete one is dropped."""
        if phase.augmentation == CROPS:
            return crop_steps_per_epoch(self.split("train"), phase)
        return steps_per_epoch(len(self.split("train").scenes), phase)

    def train_batches(
        self, phase: Any, seed: int, start_step: int = 0, process_index: int = 0, process_count: int = 1
    ) -> Iterator[Batch]:
        """The endless training stream from a step on; see `input_pipeline.batches.train_batches`.

        Or, for a phase whose `augmentation` is "crops", `input_pipeline.crop_batches.crop_batches`.
        """
        where = {
            "seed": seed,
            "start_step": start_step,
            "process_index": process_index,
            "process_count": process_count,
        }
        if phase.augmentation == CROPS:
            from input_pipeline.crop_batches import crop_batches

            return crop_batches(self.split("train"), phase, **where)
        from input_pipeline.batches import train_batches

        return train_batches(
            self.split("train"),
            phase,
            resize=self._resize,
            max_people=self._max_people,
            raw=self._raw and phase.get("raw", False),
            **where,
        )

    def scene_batches(
        self, partition: str, resize: tuple[int, int] | None = None, batch_size: int = 1
    ) -> Iterator[Batch]:
        """Every scene once; see `input_pipeline.batches.scene_batches`. None is `config.data.resize`."""
        from input_pipeline.batches import scene_batches

        return scene_batches(self.split(partition), tuple(resize or self._resize), batch_size, self._raw)


def open_source(data: Any) -> Source:
    """Opens the data a configuration names; generated streets are drawn first where they are not there yet.

    Args:
      data: `config.data`: `source`, `dir`, `max_people`, `resize`, optionally `annotations` and `least_people`,
        for PRW `released_labels` (see `read_prw`) and, for streets, `streets` with the options of the generator.

    Returns:
      The source; records are read when they are first asked for.

    Raises:
      ConfigError: the source or an option of the generator is unknown, or `released_labels` are asked of a source
        other than PRW.
      DataError: (from here or from the source) the directory is missing or not what it should be.
    """
    layout = data.get("streets", {}).get("layout") if data.source == "streets" else data.source
    if data.get("released_labels", False) and layout != "prw":
        raise ConfigError(
            f"data.released_labels numbers people as PRW does, but data.source is {data.source!r}; leave it out"
        )
    if data.source == "arrays":
        if data.get("raw", False):
            raise ConfigError(
                "data.raw wants the pictures before resizing, which arrays do not hold; use another source"
            )
        return ArraysSource(data)
    readers = {
        "streets": _read_streets,
        "prw": _read_prw,
        "cuhk_sysu": _read_cuhk_sysu,
        "coco_json": _read_coco_json,
        "coco_persons": _read_coco_persons,
        "market1501": _read_market1501,
        "prepared": _read_prepared,
    }
    if data.source not in readers:
        raise ConfigError(f"data.source is {data.source!r}; known are {', '.join([*readers, 'arrays'])}")
    return DiskSource(data, readers[data.source](data))


def _read_streets(data: Any) -> Callable[[str], Split]:
    from input_pipeline.streets import StreetsOptions, write_streets

    chosen = dict(data.get("streets", {}))
    known = [field.name for field in dataclasses.fields(StreetsOptions)]
    for name in chosen:
        if name not in known:
            raise ConfigError(f"data.streets.{name} is unknown; the options are {', '.join(known)}")
    options = StreetsOptions(**chosen)
    write_streets(data.dir, options)
    return _read_prw(data) if options.layout == "prw" else _read_cuhk_sysu(data)


def _read_prw(data: Any) -> Callable[[str], Split]:
    from input_pipeline.prw import read_prw

    released = data.get("released_labels", False)
    if released and data.get("annotations", 100) > 100:
        raise ConfigError(
            "data.released_labels numbers people as PRW does, which leaves no numbers for the spurious boxes of "
            f"data.annotations={data.annotations}; leave one of them out"
        )
    return lambda partition: read_prw(data.dir, partition, released)


def _read_cuhk_sysu(data: Any) -> Callable[[str], Split]:
    from input_pipeline.cuhk_sysu import read_cuhk_sysu

    return lambda partition: read_cuhk_sysu(data.dir, partition)


def _read_coco_json(data: Any) -> Callable[[str], Split]:
    from input_pipeline.coco_json import read_coco_json

    return lambda partition: read_coco_json(data.dir, partition)


def _read_coco_persons(data: Any) -> Callable[[str], Split]:
    from input_pipeline.coco_persons import read_coco_persons

    return lambda partition: read_coco_persons(data.dir, partition)


def _read_market1501(data: Any) -> Callable[[str], Split]:
    from input_pipeline.market1501 import read_market1501

    return lambda partition: read_market1501(data.dir, partition)


def _read_prepared(data: Any) -> Callable[[str], Split]:
    from input_pipeline.prepared import read_prepared

    return lambda partition: read_prepared(data.dir, partition)
