"""Which people a batch of crops shows: pure functions of (seed, step), as in `plan`.

A batch holds so many images of each of so many people ("PK sampling"; Hermans et al., In Defense of the Triplet Loss),
for losses that compare crops of one batch.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.scenes import UNKNOWN, Split
from ps_jax.errors import ConfigError, DataError

CROPS = "crops"  # name of the augmentation
_ORDER, _SAMPLE, _CHOICE = 11, 12, 13  # what a random stream is for


class CropSamples(NamedTuple):
    """The rows of one batch, or one host's share of them.

    Attributes:
      position: i32[rows], scene numbers in the split.
      person: i32[rows], number of the person among all annotations of the split, scene after scene.
      seed: i64[rows, 2], seed of each row's augmentation.
    """

    position: np.ndarray
    person: np.ndarray
    seed: np.ndarray


def known_people(split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label (0 .. L-1), scene number and annotation number of every annotation of a known person."""
    rows = [
        (split.labels[person.identity], position) if person.identity != UNKNOWN else (UNKNOWN, position)
        for position, scene in enumerate(split.scenes)
        for person in scene.people
    ]
    table = np.array(rows, np.int32).reshape(-1, 2)
    (number,) = np.nonzero(table[:, 0] != UNKNOWN)
    return table[number, 0], table[number, 1], number.astype(np.int32)


def crop_steps_per_epoch(split: Split, phase: Any) -> int:
    """Batches that hold as many crops as there are annotations of known people.

    Args:
      split: training records.
      phase: configuration with `batch_size` and `images_per_person`.

    Raises:
      ConfigError: the batch is no multiple of the images of a person.
      DataError: there are fewer known people than a batch shows.
    """
    label, _, _ = known_people(split)
    people = len(np.unique(label))
    each = phase.images_per_person
    if each < 1 or phase.batch_size < 1 or phase.batch_size % each:
        raise ConfigError(
            f"batch_size is {phase.batch_size}; it has to be a multiple of images_per_person, which is {each}"
        )
    if people < phase.batch_size // each:
        raise DataError(
            f"{split.dataset} {split.partition} has {people} known people, but a batch shows "
            f"{phase.batch_size // each} (batch_size {phase.batch_size} / images_per_person {each}); choose a smaller "
            "batch_size"
        )
    return max(1, len(label) // phase.batch_size)


@dataclass(frozen=True)
class CropPlan:
    """The batches of a phase that trains on crops.

    People come in a random order that is new after everybody was seen. Of each person as many annotations as asked for
    are drawn, with repetition only where there are too few.

    Attributes:
      label, position, number: of every annotation of a known person, see `known_people`.
      batch_size: rows of a batch over all hosts.
      images_per_person: consecutive rows that show the same person.
      seed: numbers that all that is drawn depends on.
    """

    label: np.ndarray
    position: np.ndarray
    number: np.ndarray
    batch_size: int
    images_per_person: int
    seed: tuple[int, ...]

    def samples(self, step: int) -> CropSamples:
        """The rows of one step's batch over all hosts; they depend on (seed, step) alone."""
        people = self.batch_size // self.images_per_person
        turns = np.arange(step * people, (step + 1) * people)
        rows = []
        for place, turn in enumerate(turns):
            epoch, index = divmod(int(turn), len(self._annotations))
            mine = self._annotations[self._order(epoch)[index]]
            generator = np.random.default_rng((_CHOICE, *self.seed, step, place))
            rows.append(generator.choice(mine, self.images_per_person, len(mine) < self.images_per_person))
        chosen = np.concatenate(rows)
        seeds = [
            np.random.SeedSequence((_SAMPLE, *self.seed, step, row)).generate_state(2)
            for row in range(self.batch_size)
        ]
        return CropSamples(self.position[chosen], self.number[chosen], np.array(seeds, np.int64))

    @functools.cached_property
    def _annotations(self) -> list[np.ndarray]:
        """For each known person the rows of the table above."""
        order = np.argsort(self.label, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self.label[order])) + 1)

    @functools.cached_property
    def _order(self) -> Any:
        return functools.lru_cache(maxsize=2)(
            lambda epoch: np.random.default_rng((_ORDER, *self.seed, epoch)).permutation(
                len(self._annotations)
            )
        )
