"""The data file of a sweep: one JSON line a run, kept whole at every moment."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ps_jax.errors import DataError
from ps_jax.evaluation.report import write_atomically

FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"


@dataclass(frozen=True)
class Record:
    """What became of one run.

    Attributes:
      row, seed: which run.
      arguments: of `train.py`, without the work directory.
      status: FINISHED, FAILED or INTERRUPTED.
      exit_code: of the last attempt.
      minutes: wall time of all attempts that the sweep saw the end of.
      results: the table's metrics as `results.json` has them; empty unless finished.
      versions: of what made the results.
      message: why it failed.
    """

    row: str
    seed: int
    arguments: tuple[str, ...]
    status: str
    exit_code: int
    minutes: float
    results: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""


class Records:
    """All records of a sweep, by row and seed, in a file that grows with every run.

    Args:
      path: the file; it is read where it exists.

    Raises:
      DataError: a line of it is no record.
    """

    def __init__(self, path: Path):
        self._path = path
        self._records: dict[tuple[str, int], Record] = {}
        for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
            try:
                content = json.loads(line)
                record = Record(**content | {"arguments": tuple(content["arguments"])})
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise DataError(f"{path}, line {number}: is no record of a run; remove the line") from error
            self._records[record.row, record.seed] = record

    def get(self, row: str, seed: int) -> Record | None:
        """The record of a run, None where it was not run yet."""
        return self._records.get((row, seed))

    def of(self, row: str) -> list[Record]:
        """The records of a row, by seed."""
        return sorted((one for one in self._records.values() if one.row == row), key=lambda one: one.seed)

    def put(self, record: Record) -> None:
        """Adds a record, in place of an earlier one of the same run."""
        self._records[record.row, record.seed] = record
        lines = [json.dumps(asdict(one)) + "\n" for one in self._records.values()]
        write_atomically(self._path, "".join(lines).encode())
