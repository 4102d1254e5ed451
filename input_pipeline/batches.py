"""Batches from records: reads, augments and pads scenes and their people with tf.data.

Shuffling happens on scene numbers (`plan`), before anything is decoded; pictures are read and augmented in
parallel and come out in order.
"""

import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.decoding import read_picture
from input_pipeline.lazy_tensorflow import tensorflow
from input_pipeline.plan import Samples, TrainPlan, host_rows, scene_plan, scene_sizes, steps_per_epoch
from input_pipeline.resampling import Tensor, resize_picture
from input_pipeline.scenes import UNKNOWN, Split
from input_pipeline.transforms import Augmentation
from ps_jax.errors import ConfigError, DataError
from ps_jax.interface import Batch, People, Scenes


class Annotations(NamedTuple):
    """The people of a split in one table, scene after scene.

    Attributes:
      box: f32[annotations, 4] in pixels of the original pictures.
      identity: i32[annotations], 0 .. L-1, -1 unknown.
      person: i32[annotations], the identity, or where it is unknown a number of its own behind all of these.
      start: i32[scenes + 1], the people of scene s are start[s] .. start[s + 1] - 1.
    """

    box: np.ndarray
    identity: np.ndarray
    person: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, split: Split) -> "Annotations":
        """Collects the people of a split."""
        people = [person for scene in split.scenes for person in scene.people]
        labels = split.labels
        identity = np.array([labels.get(person.identity, -1) for person in people], np.int32).reshape(-1)
        own_number = max(labels.values(), default=-1) + 1 + np.arange(len(people), dtype=np.int32)
        return cls(
            np.array([person.box for person in people], np.float32).reshape(-1, 4),
            identity,
            np.where(identity == UNKNOWN, own_number, identity).astype(np.int32),
            np.cumsum([0] + [len(scene.people) for scene in split.scenes]).astype(np.int32),
        )

    @property
    def most(self) -> int:
        """The largest number of people in a scene, rounded up to a multiple of 8, at least 8."""
        return max(8, int(-(-np.diff(self.start).max(initial=0) // 8) * 8))


def train_batches(
    split: Split,
    phase: Any,
    *,
    resize: tuple[int, int],
    max_people: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    raw: bool = False,
) -> Iterator[Batch]:
    """The endless stream of a phase's training batches, or one host's share of it.

    Args:
      split: training records.
      phase: configuration with `augmentation`, `crop`, `views`, `batch_size` and optionally `scales`, `scale_range`,
        `pad`, `photometric` (see `Augmentation`) and `accumulate_steps` (see `host_rows`).
      resize: (short side, longest long side) of the window resize, where the phase has no `scales`.
      max_people: slots for people a scene; identified people come first where a scene has more.
      seed: seed of the run.
      start_step: the step of the first batch; the stream from step k is the stream from 0 without its first
        k batches.
      process_index, process_count: this host and the number of hosts; each gets equally many rows of the global
        batch (see `host_rows`).
      raw: the pictures before resizing come along, mirrored where the scene is; only with augmentation "window".

    Returns:
      An iterator of host batches with u8 images.

    Raises:
      ConfigError: values of the phase contradict each other.
      DataError: (from the iterator) a picture cannot be read; names the file.
    """
    share = host_rows(phase, start_step, process_index, process_count)
    if max_people < 1:
        raise ConfigError(f"max_people is {max_people}; wanted is at least one slot")
    augmentation = Augmentation.from_phase(phase)
    if raw and augmentation.name != "window":
        raise ConfigError(
            f"augmentation is {augmentation.name!r}, but the original pictures (data.raw) go with whole scenes; use "
            '"window"'
        )
    steps_per_epoch(len(split.scenes), phase)  # checks batch_size and views
    sizes = np.stack([scene_sizes(split, scale) for scale in augmentation.scales or (resize,)])
    crop = None if augmentation.name == "window" else augmentation.crop
    # Phases of one run draw differently: what they do to a scene is part of the seed.
    stream = zlib.crc32(f"{augmentation.name} {phase.views}".encode())
    plan = TrainPlan(sizes, crop, phase.batch_size, phase.views, (seed, stream))
    rows = len(share)

    def samples(step: np.ndarray) -> Samples:
        return Samples(*(column[share] for column in plan.samples(int(step))))

    tf = tensorflow()

    @tf.autograph.experimental.do_not_convert
    def load_samples(step: Tensor) -> Samples:
        types = (tf.int32, tf.int64, tf.int32, tf.int32)
        position, seeds, resized, size = tf.numpy_function(samples, [step], types)
        return Samples(
            tf.ensure_shape(position, [rows]),
            tf.ensure_shape(seeds, [rows, 2]),
            tf.ensure_shape(resized, [rows, 2]),
            tf.ensure_shape(size, [rows, 2]),
        )

    reader = SceneReader(split)
    largest = largest_picture(split)

    def make(sample: Samples) -> tuple[Batch, Tensor]:
        picture, (box, identity, person), failure = reader(sample.position)
        image, box, visible = augmentation(picture, box, identity >= 0, sample.resized, sample.seed)
        people = pad_people(box, identity, person, visible, max_people)
        scenes = pad_scene(image, sample.size)
        if raw:
            flipped = augmentation.is_flipped(sample.seed)
            picture = tf.cond(flipped, lambda: tf.reverse(picture, [1]), lambda: picture)
            scenes = with_raw(scenes, picture, largest)
        return Batch(scenes, people, sample.position), failure

    stream = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max).map(load_samples).unbatch()
    return reader.batches(stream, make, rows)


def scene_batches(
    split: Split, resize: tuple[int, int], batch_size: int, raw: bool = False
) -> Iterator[Batch]:
    """Every scene once, as evaluation and indexing take it.

    Scenes come grouped by their size padded to multiples of 32, so that each size is compiled once and a
    scene's result does not depend on its neighbours.

    Args:
      split: records.
      resize: (short side, longest long side) of the window resize.
      batch_size: rows of a batch.
      raw: the pictures before resizing come along.

    Returns:
      An iterator of host batches. Fillers at the end of a size have index -1, a black picture and no people.
      People are all annotated boxes in resized pixels in the order of the records, in as many slots as the
      fullest scene of the split needs (rounded up to a multiple of 8).

    Raises:
      DataError: (from the iterator) a picture cannot be read; names the file.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; wanted is at least one scene")
    if not split.scenes:
        raise DataError(
            f"{split.dataset} {split.partition}: there are no scenes; see the list of scenes on disk"
        )
    tf = tensorflow()
    reader = SceneReader(split)
    max_people = reader.annotations.most
    largest = largest_picture(split)

    def scene(sample: Samples) -> tuple[Tensor, ...]:
        image, (box, identity, person), failure = reader(sample.position)
        size = sample.resized
        ratio = tf.cast(size, tf.float32) / tf.cast(tf.shape(image)[:2], tf.float32)
        resized = resize_picture(image, size)
        return image, resized, box * tf.tile(ratio[::-1], [2]), identity, person, failure

    def filler(sample: Samples) -> tuple[Tensor, ...]:
        nobody = tf.zeros([0], tf.int32)
        return (
            tf.zeros([1, 1, 3], tf.uint8),
            tf.zeros([*tf.unstack(sample.size), 3], tf.uint8),
            tf.zeros([0, 4]),
            nobody,
            nobody,
            tf.constant(-1),
        )

    def make(sample: Samples) -> tuple[Batch, Tensor]:
        picture, image, box, identity, person, failure = tf.cond(
            sample.position >= 0, lambda: scene(sample), lambda: filler(sample)
        )
        people = pad_people(box, identity, person, tf.ones_like(identity, tf.bool), max_people)
        scenes = pad_scene(image, sample.size)
        return Batch(with_raw(scenes, picture, largest) if raw else scenes, people, sample.position), failure

    batches = scene_plan(scene_sizes(split, resize), batch_size)
    rows = Samples(*(np.concatenate(column) for column in zip(*batches, strict=True)))
    return reader.batches(tf.data.Dataset.from_tensor_slices(rows), make, batch_size)


def pad_people(box: Tensor, identity: Tensor, person: Tensor, keep: Tensor, max_people: int) -> People:
    """Puts the kept people into a fixed number of slots.

    Where there are too many, the identified come first, then the earlier annotated; those that are taken stay
    in the order of the annotations.

    Args:
      box: f32[people, 4].
      identity, person: i32[people], see `ps_jax.interface.People`.
      keep: bool[people], who is still visible.
      max_people: number of slots.

    Returns:
      People of one scene: zeros in the boxes, -1 in identity and person of the empty slots.
    """
    tf = tensorflow()
    rank = tf.where(keep, tf.where(identity >= 0, 0, 1), 2)
    first = tf.argsort(rank, stable=True)[
        : tf.minimum(max_people, tf.math.count_nonzero(keep, dtype=tf.int32))
    ]
    chosen = tf.sort(first)
    empty = max_people - tf.shape(chosen)[0]

    def slots(values: Tensor, nothing: Any) -> Tensor:
        values = tf.gather(values, chosen)
        padding = [[0, empty]] + [[0, 0]] * (values.shape.rank - 1)
        values = tf.pad(values, padding, constant_values=nothing)
        return tf.ensure_shape(values, [max_people, *values.shape[1:]])

    return People(slots(box, 0.0), slots(identity, UNKNOWN), slots(person, -1), slots(keep, False))


def pad_scene(image: Tensor, size: Tensor) -> Scenes:
    """Pads a u8[height, width, 3] picture with zeros on the right and at the bottom to `size`, i32[2]."""
    tf = tensorflow()
    before = tf.shape(image)[:2]
    space = size - before
    return Scenes(tf.pad(image, [[0, space[0]], [0, space[1]], [0, 0]]), before)


def largest_picture(split: Split) -> np.ndarray:
    """i32[2], (height, width) that all pictures of the split fit into."""
    return np.array([[scene.height, scene.width] for scene in split.scenes], np.int32).max(axis=0, initial=1)


def with_raw(scenes: Scenes, picture: Tensor, size: np.ndarray) -> Scenes:
    """Scenes with the picture before resizing, padded as `pad_scene` does to `size`, (height, width)."""
    return Scenes(scenes.image, scenes.size, *pad_scene(picture, size)[:2])


class SceneReader:
    """Reads scenes and their people inside tf.data, and brings errors out of it.

    tf.data would turn an exception into an error of its own, so a broken picture travels to the consumer as
    the number of its failure, and the failure is raised there.
    """

    def __init__(self, split: Split):
        tf = tensorflow()
        self.annotations = Annotations.of(split)
        self._split = split
        self._table = tuple(tf.constant(column) for column in self.annotations)
        self._failures: list[DataError] = []

    def __call__(self, position: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:
        """The decoded picture, box, identity and person of its people, and the failure's number or -1."""
        tf = tensorflow()
        image, failure = tf.numpy_function(self._read, [position], (tf.uint8, tf.int32))
        box, identity, person, start = self._table
        people = slice(start[position], start[position + 1])
        image, failure = tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(failure, [])
        return image, (box[people], identity[people], person[people]), failure

    def batches(self, samples: Any, make: Any, rows: int) -> Iterator[Batch]:
        """Makes every sample in parallel, in order, and gathers `rows` of them a batch."""
        tf = tensorflow()

        @tf.autograph.experimental.do_not_convert
        def element(sample: Samples) -> tuple[Tensor, ...]:
            batch, failure = make(sample)
            scenes = [part for part in batch.scenes if part is not None]
            return *scenes, *batch.people, batch.index, failure

        dataset = samples.map(element, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return self._iterate(dataset.batch(rows, drop_remainder=True).prefetch(2))

    def _iterate(self, dataset: Any) -> Iterator[Batch]:
        slots = len(People._fields)
        for *parts, index, failure in dataset.as_numpy_iterator():
            for number in failure[failure >= 0]:
                raise self._failures[number]
            yield Batch(Scenes(*parts[:-slots]), People(*parts[-slots:]), index)

    def _read(self, position: np.ndarray) -> tuple[np.ndarray, np.int32]:
        try:
            return read_picture(self._split, int(position)), np.int32(-1)
        except DataError as error:
            self._failures.append(error)
            return np.zeros((1, 1, 3), np.uint8), np.int32(self._failures.index(error))
