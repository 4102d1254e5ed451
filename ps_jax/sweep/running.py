"""Runs the rows of a table, each as a process of its own, and keeps what comes of them."""

import dataclasses
import fcntl
import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ps_jax.errors import ConfigError
from ps_jax.evaluation.options import CHANGEABLE
from ps_jax.evaluation.report import write_atomically
from ps_jax.sweep.records import FAILED, FINISHED, INTERRUPTED, Record, Records
from ps_jax.sweep.summary import write_summary
from ps_jax.sweep.tables import AFTER, DETECTOR, Row, Table, directory_name
from ps_jax.training.interruption import Interruption

TRAIN, EVALUATE = (
    (sys.executable, str(Path(__file__).parents[2] / name)) for name in ("train.py", "eval.py")
)
POLL_SECONDS = 0.2


def is_rdlr(row: Row) -> bool:
    """Whether a row is of RDLR, whose configurations alone have `reid_weights`."""
    return Path(row.config).name.startswith("rdlr")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A table to be run into a directory.

    Attributes:
      table: the table.
      out: the directory: `runs.jsonl` and `table.md`.
      runs_dir: where the runs' work directories and what they printed go. Tables that have it in common run the
        rows they have in common, those with equal arguments, once.
      rows: which of its rows, in order; the rows they start from are run before them.
      seeds: how many seeds, counted from 0.
      arguments: given to every run; they win over the row's own.
      weights: trunk weights of every run, "" for none; a row's own overrides win over it.
      reid_weights: what RDLR's re-identification network starts from, in the same way; other systems have none.
      command: how this sweep was called, for the summary.
      program: what trains: called with --config, --workdir and --config.*=value, leaves
        `evaluation/<phase>-<step>/results.json` in the work directory and says by its exit code whether it
        went well.
      evaluator: what evaluates a work directory once more: called with --workdir, --out and the row's overrides,
        leaves `results.json` in `out`.
    """

    table: Table
    out: Path
    runs_dir: Path
    rows: tuple[Row, ...]
    seeds: int
    arguments: tuple[str, ...] = ()
    weights: str = ""
    reid_weights: str = ""
    command: str = ""
    program: tuple[str, ...] = TRAIN
    evaluator: tuple[str, ...] = EVALUATE

    def workdir(self, row: Row, seed: int) -> Path:
        """Work directory of a run, named by all its arguments."""
        digest = hashlib.sha256(json.dumps(self.run_arguments(row, seed)).encode()).hexdigest()
        return self.runs_dir / f"{directory_name(Path(row.config).name.replace('.py', ''))}-{digest[:12]}"

    def log(self, row: Row, seed: int) -> Path:
        """What a run printed."""
        return beside(self.workdir(row, seed), ".txt")

    def run_arguments(self, row: Row, seed: int) -> tuple[str, ...]:
        """Arguments of `train.py`, or of `eval.py`, for a run, without the directory it writes to."""
        own = list(row.overrides)
        for mark, name in ((AFTER, row.after), (DETECTOR, row.detector)):
            if name:
                place = str(self.workdir(self.table.row(name), seed))
                own = [override.replace(mark, place) for override in own]
        if row.evaluation:
            trained = str(self.workdir(self.table.row(row.after), seed))
            passed = (argument for argument in self.arguments if argument.startswith(CHANGEABLE))
            return ("--workdir", trained, *own, *passed)
        starts = {"weights": self.weights, "reid_weights": self.reid_weights if is_rdlr(row) else ""}
        start = (f"--config.{name}={path}" for name, path in starts.items() if path)
        return ("--config", row.config, f"--config.seed={seed}", *start, *own, *self.arguments)

    def runs(self) -> Iterator[tuple[Row, int]]:
        """All runs in order: every row with the first seed, then with the next."""
        wanted = {row.name for row in self.rows}
        for row in reversed(self.table.rows):  # a row comes after an earlier one
            if row.name in wanted:
                wanted.update(row.needs)
        for seed in range(self.seeds):
            yield from ((row, seed) for row in self.table.rows if row.name in wanted)


def run_sweep(sweep: Sweep) -> int:
    """Runs what is left of a sweep and writes the summary after every run.

    A finished run is not run again, whichever table ran it; one that failed or was interrupted goes on. SIGTERM and
    SIGINT are passed on to the run, which saves its state, and end the sweep.

    Returns:
      How many runs failed.

    Raises:
      ConfigError: a finished run had other arguments, a file is missing, or another sweep works in `out`.
      SystemExit: 143 after SIGTERM, 130 after SIGINT.
    """
    for row in sweep.rows:
        if not Path(row.config.partition(":")[0]).is_file():
            raise ConfigError(f"{row.name}: there is no configuration file {row.config.partition(':')[0]}")
    for place in (sweep.out, sweep.runs_dir):
        place.mkdir(parents=True, exist_ok=True)
    with _alone_in(sweep.out), Interruption() as interruption:
        records = Records(sweep.out / "runs.jsonl")
        runs = list(sweep.runs())
        for row, seed in runs:
            _check_arguments(sweep, row, seed, records)
        failed = 0
        for number, (row, seed) in enumerate(runs, 1):
            record = records.get(row.name, seed)
            if record is None or record.status != FINISHED:
                print(f"[{number}/{len(runs)}] {row.name}, seed {seed} ...", flush=True)
                record = _run(sweep, row, seed, records, interruption)
                records.put(record)
                print(f"[{number}/{len(runs)}] {describe(record, sweep.log(row, seed))}", flush=True)
            failed += record.status == FAILED
            write_summary(sweep.out, sweep.table, records, sweep.command)
            if interruption.received:
                raise SystemExit(interruption.exit_code)
    return failed


def describe(record: Record, log: Path) -> str:
    """One line about a run."""
    words = f"{record.row}, seed {record.seed}: {record.status}, {record.minutes:.1f} minutes"
    if record.status == FINISHED:
        values = ", ".join(f"{name} {100 * value:.1f}" for name, value in record.results.items())
        return f"{words}; {values}" if values else words
    return f"{words}, exit code {record.exit_code}: {record.message} ({log})"


def beside(workdir: Path, suffix: str) -> Path:
    """A file that belongs to a work directory and lies beside it."""
    return workdir.with_name(workdir.name + suffix)


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Holds the directory's lock."""
    with open(out / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"{out}: another sweep works here; wait for its end or choose another --out"
            ) from None
        yield


@contextmanager
def _alone_with(workdir: Path, interruption: Interruption) -> Iterator[int | None]:
    """Waits for the run's lock and holds it; None where a signal came first.

    Training inherits it: what a killed sweep left behind still holds it.
    """
    with open(beside(workdir, ".lock"), "w") as file:
        waiting = False
        while not interruption.received:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if not waiting:
                    print(f"waiting: another sweep runs {workdir}", flush=True)
                waiting = True
                time.sleep(POLL_SECONDS)
            else:
                yield file.fileno()
                return
        yield None


def _check_arguments(sweep: Sweep, row: Row, seed: int, records: Records) -> None:
    record = records.get(row.name, seed)
    now = sweep.run_arguments(row, seed)
    if record and record.status == FINISHED and record.arguments != now:
        raise ConfigError(
            f"{sweep.out}: {row.name}, seed {seed}, was run with other arguments:\n  there {' '.join(record.arguments)}"
            f"\n  here  {' '.join(now)}\nChoose another --out, or remove its line from "
            f"{sweep.out / 'runs.jsonl'}."
        )


def _run(sweep: Sweep, row: Row, seed: int, records: Records, interruption: Interruption) -> Record:
    """Runs one row with one seed from where it stands to its end, or takes over what another table ran."""
    before = records.get(row.name, seed)
    record = Record(
        row=row.name,
        seed=seed,
        arguments=sweep.run_arguments(row, seed),
        status=FAILED,
        exit_code=1,
        minutes=before.minutes if before and before.arguments == sweep.run_arguments(row, seed) else 0.0,
    )
    for name in row.needs:
        first = records.get(name, seed)
        if first is None or first.status != FINISHED:
            return dataclasses.replace(record, message=f"it starts from {name}, which did not finish")
    workdir, log = sweep.workdir(row, seed), sweep.log(row, seed)
    finished = beside(workdir, ".json")
    with _alone_with(workdir, interruption) as lock:
        if lock is None:
            exit_code, minutes = 1, record.minutes
        elif finished.exists() and (workdir / ("results.json" if row.evaluation else "config.json")).exists():
            exit_code, minutes = 0, json.loads(finished.read_text())["minutes"]
        else:
            began = time.monotonic()
            place = ("--out" if row.evaluation else "--workdir", str(workdir))
            program = sweep.evaluator if row.evaluation else sweep.program
            exit_code = _call([*program, *place, *record.arguments], log, lock, interruption)
            minutes = round(record.minutes + (time.monotonic() - began) / 60, 3)
            if not exit_code:
                content = {"minutes": minutes, "arguments": record.arguments}
                write_atomically(finished, json.dumps(content).encode())
    record = dataclasses.replace(record, exit_code=exit_code, minutes=minutes)
    if interruption.received and exit_code:
        message = f"stopped by {interruption.received.name}; the same command goes on"
        return dataclasses.replace(record, status=INTERRUPTED, message=message)
    if exit_code:
        return dataclasses.replace(record, message=_last_line(log))
    if row.preparation:
        return dataclasses.replace(record, status=FINISHED)
    try:
        results_file = workdir / "results.json" if row.evaluation else final_results(workdir)
        content = json.loads(results_file.read_text())
        metrics = {**sweep.table.metrics, **row.metrics}
        results = {name: result_at(content, path) for name, path in metrics.items() if path}
    except (ConfigError, OSError, json.JSONDecodeError) as error:
        return dataclasses.replace(record, message=str(error))
    versions = content.get("versions", {})
    return dataclasses.replace(record, status=FINISHED, results=results, versions=versions)


def _call(command: Sequence[str], log: Path, lock: int, interruption: Interruption) -> int:
    """Runs a command to its end, appending what it prints to a file; returns its exit code."""
    with open(log, "ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C reaches the sweep alone, which passes it on, once
            pass_fds=(lock,),
        )
        try:
            passed_on = False
            while True:
                try:
                    return process.wait(timeout=POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    if interruption.received and not passed_on:
                        process.terminate()
                        passed_on = True
        finally:
            if process.poll() is None:  # a second Ctrl-C
                process.kill()
                process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it printed nothing"


def final_results(workdir: Path) -> Path:
    """The `results.json` of the end of a training: last phase, last step.

    Raises:
      ConfigError: there is none.
    """
    phase = json.loads((workdir / "config.json").read_text())["phases"][-1]
    found = {}
    for path in (workdir / "evaluation").glob("*/results.json"):
        if match := re.fullmatch(rf"{re.escape(phase)}-(\d+)", path.parent.name):
            found[int(match[1])] = path
    if not found:
        raise ConfigError(f"{workdir}: the run ended well but left no evaluation of phase {phase!r}")
    return found[max(found)]


def result_at(results: Mapping[str, Any], path: str) -> float:
    """The number at a path such as "search/*/mAP"; "*" is the first entry.

    Raises:
      ConfigError: there is no number.
    """
    value: Any = results
    for part in path.split("/"):
        if isinstance(value, Mapping) and part == "*":
            part = next(iter(value), "")
        value = value.get(part) if isinstance(value, Mapping) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ConfigError(f"the results have no number at {path!r}")
    return float(value)
