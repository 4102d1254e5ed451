"""Metrics on disk: one line of JSON a record, and TensorBoard event files.

`<workdir>/metrics.jsonl` holds all phases; each phase has its own TensorBoard files in `<workdir>/<phase>`,
so that both appear as runs under `tensorboard --logdir <workdir>`. On resume what was written after the
checkpoint is taken back, so that no step appears twice.
"""

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboardX import SummaryWriter

from ps_jax.errors import TrainingError

BEFORE = -1  # the step of a phase that begins anew, before its evaluation at step 0


def read_records(path: str | os.PathLike) -> list[dict]:
    """All whole records of a metrics file; a last line cut short by a crash is left out."""
    path = Path(path)
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def first_result(scalars: Mapping[str, float], name: str) -> float | None:
    """The first scalar whose path ends in `name`, None where there is none."""
    return next((value for path, value in scalars.items() if path.split("/")[-1] == name), None)


class MetricWriter:
    """Writes the metrics of one phase; a context manager.

    Args:
      workdir: the run's work directory.
      phases: names of all phases in order.
      phase: the phase that is about to train.
      step: the step it starts from; later records of it and of later phases are dropped. `BEFORE` drops all of it.
    """

    def __init__(self, workdir: str | os.PathLike, phases: Sequence[str], phase: str, step: int):
        self._phase = phase
        self._path = Path(workdir) / "metrics.jsonl"
        now = (phases.index(phase), step)
        kept = [
            record
            for record in read_records(self._path)
            if record["phase"] in phases and (phases.index(record["phase"]), record["step"]) <= now
        ]
        temporary = self._path.with_suffix(".jsonl.new")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
        temporary.replace(self._path)
        self._evaluations = {
            record["step"]: record["evaluation"]
            for record in kept
            if record["phase"] == phase and "evaluation" in record
        }
        self._file = self._path.open("a")
        self._board = SummaryWriter(str(Path(workdir) / phase), purge_step=step + 1)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        with contextlib.suppress(OSError):  # a failed write was reported when it was tried
            self._file.close()
        self._board.close()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records the scalars of one training step."""
        self._write({"phase": self._phase, "step": step, **scalars}, step, scalars)

    def write_evaluation(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records the scalars of an evaluation after `step` steps."""
        self._evaluations[step] = dict(scalars)
        record = {"phase": self._phase, "step": step, "evaluation": dict(scalars)}
        self._write(record, step, {f"evaluation/{name}": value for name, value in scalars.items()})

    def evaluated(self, step: int) -> bool:
        """Whether an evaluation after `step` steps is on record."""
        return step in self._evaluations

    def evaluation(self, step: int) -> dict[str, float]:
        """The scalars of the evaluation after `step` steps."""
        return self._evaluations[step]

    def best_evaluation(self, name: str) -> float:
        """Largest first result called `name` among the evaluations on record, -inf where there is none."""
        found = [first_result(scalars, name) for scalars in self._evaluations.values()]
        return max((value for value in found if value is not None), default=-math.inf)

    def _write(self, record, step, scalars):
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)
        except OSError as error:
            raise TrainingError(f"{self._path}: cannot write metrics ({error.strerror})") from error
