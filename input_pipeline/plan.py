"""Which scenes a batch holds: pure functions of (seed, step), so that a stream can start anywhere.

No picture is opened here and nothing is kept from one batch to the next: resuming, and the share of one host
out of many, need no iterator state.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.resampling import window_size
from input_pipeline.scenes import Split
from ps_jax.errors import ConfigError

STRIDE = 32  # padded sizes are multiples of this
_ORDER, _SAMPLE, _SCALE = 1, 2, 3  # what a random stream is for


class Samples(NamedTuple):
    """The rows of one batch, or one host's share of them.

    Attributes:
      position: i32[rows] scene numbers in the split; -1 for a filler.
      seed: i64[rows, 2] seed of each row's augmentation.
      resized: i32[rows, 2] (height, width) of the row's whole scene after the window resize; 0 for a filler.
      size: i32[rows, 2] padded (height, width) of the picture, the same for all rows of a batch.
    """

    position: np.ndarray
    seed: np.ndarray
    resized: np.ndarray
    size: np.ndarray


def scene_sizes(split: Split, resize: tuple[int, int]) -> np.ndarray:
    """i32[scenes, 2], (height, width) of every scene after the window resize."""
    return window_size(
        np.array([scene.height for scene in split.scenes], np.float64),
        np.array([scene.width for scene in split.scenes], np.float64),
        resize,
    )


def padded(size: np.ndarray) -> np.ndarray:
    """Sizes rounded up to multiples of 32."""
    return -(-size // STRIDE) * STRIDE


def steps_per_epoch(scenes: int, phase: Any) -> int:
    """Batches in one pass over the scenes; the last, incomplete one is dropped.

    Args:
      scenes: number of scenes in the training split.
      phase: configuration with `batch_size` (counting views) and `views`.

    Raises:
      ConfigError: the batch is no multiple of the views, or there are too few scenes for one batch.
    """
    if phase.views < 1 or phase.batch_size < 1 or phase.batch_size % phase.views:
        raise ConfigError(
            f"batch_size is {phase.batch_size}; it counts every view and so has to be a multiple of views, "
            f"which is {phase.views}"
        )
    steps = scenes // (phase.batch_size // phase.views)
    if not steps:
        raise ConfigError(
            f"one batch takes {phase.batch_size // phase.views} scenes (batch_size {phase.batch_size} / "
            f"views {phase.views}), but the training split has only {scenes}; choose a smaller batch_size"
        )
    return steps


def host_rows(phase: Any, start_step: int, process_index: int, process_count: int) -> np.ndarray:
    """The rows of the global batch that one host makes: equally many for each.

    Where a step accumulates over micro-batches, each of these is a block of consecutive rows of the global batch,
    and a host makes consecutive rows of every block: micro-batches hold the same rows on any number of hosts.

    Args:
      phase: configuration with `batch_size` and optionally `accumulate_steps`, the number of micro-batches.
      start_step: step of the first batch; only checked.
      process_index, process_count: this host and the number of hosts.

    Returns:
      Row numbers, micro-batch after micro-batch.

    Raises:
      ConfigError: the batch cannot be split evenly over the hosts.
    """
    if start_step < 0:
        raise ValueError(f"start_step is {start_step}, wanted is a step from 0 on")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index is {process_index}, wanted is one of 0 .. {process_count - 1}")
    micro_batches = phase.get("accumulate_steps") or 1
    if phase.batch_size % (process_count * micro_batches):
        raise ConfigError(
            f"batch_size is {phase.batch_size}; it has to be a multiple of the {process_count} hosts"
            + (f" times the {micro_batches} micro-batches (accumulate_steps)" if micro_batches > 1 else "")
        )
    blocks = np.arange(phase.batch_size).reshape(micro_batches, process_count, -1)
    return blocks[:, process_index].reshape(-1)


@dataclass(frozen=True)
class TrainPlan:
    """The batches of a training phase.

    Scenes are shuffled anew for every epoch. Where whole scenes are trained on (`crop` is None), a batch
    takes scenes of one orientation as long as there are enough, so that only two padded sizes come up, and a
    third one for the few batches of left-over scenes; every size is the largest that the split needs.

    With several scales one is drawn for each batch, and all its scenes are resized to that: every scale has these
    padded sizes of its own, so that small scenes cost little and no more sizes come up than three for each scale.

    Attributes:
      sizes: i32[scales, scenes, 2], (height, width) after the window resize to each scale.
      crop: (height, width) of the augmented pictures, None for whole scenes.
      batch_size: rows of a batch over all hosts.
      views: consecutive rows that show the same scene.
      seed: numbers that all that is drawn depends on.
    """

    sizes: np.ndarray
    crop: tuple[int, int] | None
    batch_size: int
    views: int
    seed: tuple[int, ...]

    def samples(self, step: int) -> Samples:
        """The rows of one step's batch over all hosts; row r's seed depends on (seed, step, r) alone."""
        scenes_a_batch = self.batch_size // self.views
        epoch, batch = divmod(step, self.sizes.shape[1] // scenes_a_batch)
        positions, sizes = self._epoch(epoch)
        scale = self._scale(step)
        seeds = [
            np.random.SeedSequence((_SAMPLE, *self.seed, step, row)).generate_state(2)
            for row in range(self.batch_size)
        ]
        position = np.repeat(positions[batch], self.views).astype(np.int32)
        return Samples(
            position,
            np.array(seeds, np.int64),
            self.sizes[scale, position].astype(np.int32),
            np.tile(sizes[scale, batch], (self.batch_size, 1)).astype(np.int32),
        )

    def _scale(self, step: int) -> int:
        """The scale of one step's batch, every one as probable as another."""
        if len(self.sizes) == 1:
            return 0
        return int(np.random.default_rng((_SCALE, *self.seed, step)).integers(len(self.sizes)))

    @functools.cached_property
    def _epoch(self) -> Any:
        return functools.lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Scene numbers [steps, scenes of a batch] and padded sizes [scales, steps, 2] of one epoch."""
        scales, scenes, _ = self.sizes.shape
        scenes_a_batch = self.batch_size // self.views
        steps = scenes // scenes_a_batch
        generator = np.random.default_rng((_ORDER, *self.seed, epoch))
        order = generator.permutation(scenes)
        if self.crop is not None:
            whole = order[: steps * scenes_a_batch].reshape(steps, scenes_a_batch)
            return whole, np.tile(np.array(self.crop), (scales, steps, 1))
        upright = self.sizes[0, :, 0] > self.sizes[0, :, 1]
        largest = padded(self.sizes.max(1))
        batches: list[np.ndarray] = []
        sizes: list[np.ndarray] = []
        left_over = []
        for orientation in (False, True):
            group = order[upright[order] == orientation]
            full = len(group) // scenes_a_batch * scenes_a_batch
            batches += list(group[:full].reshape(-1, scenes_a_batch))
            if full:
                sizes += [padded(self.sizes[:, group].max(1))] * (full // scenes_a_batch)
            left_over.append(group[full:])
        rest = np.concatenate(left_over)
        for start in range(0, len(rest) - scenes_a_batch + 1, scenes_a_batch):
            batches.append(rest[start : start + scenes_a_batch])
            sizes.append(largest)
        again = generator.permutation(steps)
        return np.stack(batches)[again], np.stack(sizes, axis=1)[:, again]


def scene_plan(sizes: np.ndarray, batch_size: int) -> list[Samples]:
    """Every scene once, in batches of one padded size; the last batch of a size is filled up.

    Args:
      sizes: i32[scenes, 2], (height, width) after the window resize.
      batch_size: rows of a batch.

    Returns:
      The batches, smaller heights first, then smaller widths, then in the order of the split.
    """
    size = padded(sizes)
    batches = []
    for group in np.unique(size, axis=0):
        members = np.flatnonzero((size == group).all(1))
        for start in range(0, len(members), batch_size):
            position = np.full(batch_size, -1, np.int32)
            chosen = members[start : start + batch_size]
            position[: len(chosen)] = chosen
            seed = np.zeros((batch_size, 2), np.int64)
            resized = np.zeros((batch_size, 2), np.int32)
            resized[: len(chosen)] = sizes[chosen]
            batches.append(Samples(position, seed, resized, np.tile(group, (batch_size, 1)).astype(np.int32)))
    return batches
