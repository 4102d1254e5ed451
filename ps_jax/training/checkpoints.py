"""Checkpoints: written in the background, complete or absent, and verified leaf by leaf when read.

Orbax stores the arrays and makes a checkpoint appear under its final name only when it is whole. It restores
flipped bits in silence, though, casts wrong dtypes and takes an emptied directory for a checkpoint. Therefore
a crc32, the shape and the dtype of every leaf lie beside the arrays, and reading walks back from the newest
checkpoint to the first one that verifies.
"""

import contextlib
import json
import logging as python_logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from ps_jax.errors import CheckpointError, TrainingError
from ps_jax.training._leaves import (
    check_same_leaves,
    checksum,
    describe_template,
    flatten_state,
    unflatten_state,
    unflatten_variables,
)
from ps_jax.training.packages import is_package, read_package
from ps_jax.training.state import TrainState

KEEP_LAST = 3  # checkpoints of a phase


class _Damaged(Exception):
    """A checkpoint that cannot be read, with the reason."""


class Checkpoints:
    """The checkpoints of one phase in one directory; a context manager that ends with everything on disk.

    In a run of several processes it belongs to one of them; the others have none.

    Args:
      directory: created where it does not exist.
      keep: how many of the newest to keep.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = KEEP_LAST):
        self.directory = Path(directory).absolute()
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(_quiet_orbax())
        self.directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=False,
            enable_async_checkpointing=True,
            multiprocessing_options=_this_process(),
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        try:
            self.wait()
        except TrainingError as failure:
            if kind is None:
                raise
            logging.error("%s", failure)  # the error that ended the run goes first
        finally:
            with self._quiet, contextlib.suppress(Exception):  # a failed save was reported above
                self._manager.close()

    @property
    def steps(self) -> list[int]:
        """Steps with a whole checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def last_good(self) -> str:
        """The newest checkpoint in words, for error messages."""
        steps = self.steps
        if not steps:
            return "there is no earlier checkpoint of this phase"
        return f"the last good checkpoint is {self.directory / str(steps[-1])}"

    def drop_from(self, step: int) -> None:
        """Deletes the checkpoints of `step` and later."""
        for late in self.steps:
            if late >= step:
                self._manager.delete(late)

    def save(self, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Starts writing `state` under its step; returns as soon as the values are copied.

        Args:
          state: what to save.
          meta: more to keep beside it, as JSON.

        Raises:
          TrainingError: this or the previous save failed, for example on a full disk.
        """
        self.wait()
        leaves = flatten_state(state)
        meta = {
            **meta,
            "step": int(leaves["step"]),
            "versions": _versions(),
            "leaves": {
                name: [list(leaf.shape), str(leaf.dtype), checksum(leaf)] for name, leaf in leaves.items()
            },
        }
        stored = {name: leaf for name, leaf in leaves.items() if leaf.size}  # orbax takes no empty arrays
        with self._saving():
            self._manager.save(
                meta["step"],
                args=ocp.args.Composite(state=ocp.args.StandardSave(stored), meta=ocp.args.JsonSave(meta)),
            )

    def wait(self) -> None:
        """Waits until the last save is on disk; raises TrainingError where it failed."""
        with self._saving():
            self._manager.wait_until_finished()

    def check(self) -> None:
        """Raises TrainingError where a save in the background has failed; does not wait."""
        with self._saving():
            self._manager.check_for_errors()

    def restore(self, template: TrainState) -> tuple[TrainState, dict] | None:
        """Reads the newest checkpoint that verifies.

        Damaged ones newer than it are moved aside to `damaged-<step>` beside the directory, with a warning.

        Args:
          template: a state of arrays or of shapes (`jax.eval_shape`) that the checkpoint must match.

        Returns:
          The state in host memory and what was saved beside it; None where there is no checkpoint.

        Raises:
          CheckpointError: the checkpoint belongs to another model, or none of them can be read.
        """
        damaged = []
        for step in reversed(self.steps):
            try:
                leaves, meta = _read(self._manager, self.directory, step)
            except _Damaged as damage:
                logging.warning("%s: this checkpoint is damaged (%s)", self.directory / str(step), damage)
                damaged.append(step)
                continue
            check_same_leaves(
                {name: (tuple(shape), dtype) for name, (shape, dtype, _) in meta["leaves"].items()},
                describe_template(template),
                f"{self.directory / str(step)}: this checkpoint belongs to another model",
                "Use the configuration it was trained with, or another --workdir.",
            )
            for bad in damaged:
                self._move_aside(bad)
            if damaged:
                logging.warning("%s: going on from step %d, the last good checkpoint", self.directory, step)
            return unflatten_state(leaves, template), meta
        if damaged:
            raise _none_readable(self.directory, damaged)
        return None

    def _move_aside(self, step: int) -> None:
        target = self.directory.parent / f"damaged-{step}"
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(self.directory / str(step), target)
        self._manager.reload()

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Turns what orbax and the operating system raise in a save into one clear error."""
        try:
            with _without_late_noise():
                yield
        except Exception as error:
            for unfinished in self.directory.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(unfinished, ignore_errors=True)
            free = shutil.disk_usage(self.directory).free
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            full = "No space left" in str(error)
            raise TrainingError(
                f"{self.directory}: the checkpoint could not be saved, "
                + ("no space is left on the device" if full else reason)
                + f" ({free / 2**20:.1f} MiB free). "
                + f"What was saved before is intact: {self.last_good}. "
                + "Make room, or move the work directory, and start the same command again."
            ) from error


def has_checkpoints(directory: str | os.PathLike) -> bool:
    """Whether a checkpoint directory holds anything saved under its final name."""
    directory = Path(directory)
    return directory.is_dir() and any(entry.name.isdigit() for entry in directory.iterdir())


def load_variables(
    workdir: str | os.PathLike, phase: str | None = None, which: str = "last"
) -> tuple[dict[str, Any], dict]:
    """Reads the variables of a trained system, for evaluation and search.

    Args:
      workdir: work directory of a training run, or a model package (`ps_jax.training.packages`), which holds the one
        checkpoint it was made of.
      phase: name of the phase; None takes the last one that has a checkpoint.
      which: "last", or "best" for the checkpoint with the best periodic evaluation.

    Returns:
      The variables {"params", "batch_stats", "memory"} in host memory, and what was saved beside them:
      "step", "phase", "system", "model" (keyword arguments of the module), "config", "versions", ...

    Raises:
      CheckpointError: there is no such checkpoint, or none can be read.
    """
    if which not in ("last", "best"):
        raise ValueError(f'which must be "last" or "best", not {which!r}')
    workdir = Path(workdir).absolute()
    if is_package(workdir):
        return read_package(workdir)
    folder = "checkpoints" if which == "last" else "best"
    found = [path for path in workdir.glob(f"*/{folder}") if has_checkpoints(path)]
    if phase is not None:
        found = [path for path in found if path.parent.name == phase]
    if not found:
        what = f"phase {phase!r}" if phase else "any phase"
        best = which == "best"
        remedy = (
            "; evaluations during the training (--config.<phase>.evaluate_every=N) choose it" if best else ""
        )
        raise CheckpointError(
            f"{workdir}: there is no {'best ' if best else ''}checkpoint of {what}{remedy}; "
            "train first, or name the work directory of a finished training"
        )
    leaves, meta = _newest(max(found, key=lambda path: _place(workdir, path.parent.name)))
    return unflatten_variables(leaves), meta


def _place(workdir: Path, phase: str) -> int:
    """Place of a phase in the configuration that the work directory belongs to; -1 for one it does not have."""
    config = workdir / "config.json"
    phases = json.loads(config.read_text())["phases"] if config.is_file() else []
    return phases.index(phase) if phase in phases else -1


def _newest(directory: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Leaves and meta of the newest checkpoint of a directory that verifies; changes nothing on disk."""
    damaged = []
    with _quiet_orbax():
        options = ocp.CheckpointManagerOptions(read_only=True, multiprocessing_options=_this_process())
        with ocp.CheckpointManager(directory, options=options) as manager:
            for step in sorted(manager.all_steps(), reverse=True):
                try:
                    return _read(manager, directory, step)
                except _Damaged as damage:
                    logging.warning("%s: this checkpoint is damaged (%s)", directory / str(step), damage)
                    damaged.append(step)
    raise _none_readable(directory, damaged)


def _read(manager: ocp.CheckpointManager, directory: Path, step: int) -> tuple[dict[str, np.ndarray], dict]:
    """Reads and verifies one checkpoint; raises _Damaged."""
    try:
        with _without_late_noise():
            meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
            leaves = {
                name: np.empty(shape, np.dtype(dtype)) for name, (shape, dtype, _) in meta["leaves"].items()
            }
            stored = {name: leaf for name, leaf in leaves.items() if leaf.size}
            restored = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(stored)))
            leaves |= restored.state
    except Exception as error:  # whatever orbax, tensorstore or the JSON reader find wrong
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise _Damaged(reason) from error
    for name, (shape, dtype, crc) in meta["leaves"].items():
        leaf = leaves[name]
        if list(leaf.shape) != shape or str(leaf.dtype) != dtype or checksum(leaf) != crc:
            raise _Damaged(f"the checksum of {name} does not match")
    return leaves, meta


def _this_process() -> ocp.options.MultiprocessingOptions:
    """Tells orbax not to wait for the other processes of the run."""
    number = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=number, active_processes={number}, barrier_sync_key_prefix=f"process_{number}"
    )


def _none_readable(directory: Path, damaged: list[int]) -> CheckpointError:
    return CheckpointError(
        f"{directory}: none of the checkpoints can be read (steps {sorted(damaged)}); "
        "restore them from a copy, or delete this directory to train the phase again"
    )


def _versions() -> dict[str, str]:
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in packages}


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Drops orbax's log: it tells each failure with several stacks before it raises it, which is enough."""

    def not_orbax(record: python_logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    python_logging.getLogger("absl").addFilter(not_orbax)
    try:
        yield
    finally:
        python_logging.getLogger("absl").removeFilter(not_orbax)


@contextlib.contextmanager
def _without_late_noise() -> Iterator[None]:
    """After a failed read or write tensorstore's threads still report to an event loop that orbax has closed.

    Python prints that as an unraisable exception. It says nothing that the error does not say, so it is
    dropped, and after an error the threads get the time to run out.
    """
    hook = sys.unraisablehook

    def drop_closed_loop(unraisable):
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    sys.unraisablehook = drop_closed_loop
    try:
        yield
    except Exception:
        time.sleep(0.5)
        raise
    finally:
        sys.unraisablehook = hook
