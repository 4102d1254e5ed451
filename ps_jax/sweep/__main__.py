"""Runs a table of configurations one after the other and puts our numbers beside the paper's.

    python -m ps_jax.sweep configs/tables/spnet_table8.py --weights FILE [--reid_weights FILE] [--out DIR]
                           [--runs DIR] [--seeds N] [--only ROW ...] [--config.x.y=value ...]
    python -m ps_jax.sweep configs/tables/spnet_table8.py --list

The file alone runs on the generated streets, a few minutes a run; `FILE.py:prw` takes another data set at the
paper's size, from data/prw (a table without pre-training also by --config.data.dir=PATH). Every run is a process
with a work directory and a log of its own. The same command goes on where it ended: finished runs are not run again,
nor are rows that another table has run with the same arguments; two tables may run at the same time. Exit code 1: a
run failed, 2: something the user can mend (one message on stderr), 130 after Ctrl-C and 143 after SIGTERM (the running
state was saved first).
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from ps_jax.errors import ConfigError, PersonSearchError
from ps_jax.porting.published import is_published
from ps_jax.sweep.records import Records
from ps_jax.sweep.running import Sweep, describe, is_rdlr, run_sweep
from ps_jax.sweep.tables import load_table


def parse_sweep(arguments: list[str]) -> tuple[Sweep, bool]:
    """The sweep that a command line asks for, and whether it is only to be listed.

    Raises:
      ConfigError: there is no such table or row, or an argument is unknown.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ps_jax.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("table", help="table file, with :DATASET for another data set than the streets")
    option("--out", type=Path, help="default: runs/sweeps/<table>[_<data set>]")
    option(
        "--runs",
        type=Path,
        default=Path("runs") / "sweeps" / "runs",
        help="work directories of the runs, common to all tables (default: %(default)s)",
    )
    option("--seeds", type=int, help="seeds of each row, counted from 0 (default: the table's)")
    option("--only", nargs="+", metavar="ROW", help="names of rows")
    option(
        "--weights",
        help="trunk weights that every run starts from, file or name, unless its row says otherwise",
    )
    option(
        "--reid_weights",
        help="what the re-identification network of every run of RDLR starts from, file, name or work directory, "
        "unless its row says otherwise",
    )
    option("--list", action="store_true", help="print the runs and what became of them, run nothing")
    options, passed = parser.parse_known_args(arguments)
    for argument in passed:
        if not (argument.startswith("--config.") and "=" in argument):
            raise ConfigError(
                f"unknown argument {argument}; options of the configuration are --config.x.y=value"
            )
    if options.seeds is not None and options.seeds < 1:
        raise ConfigError(f"--seeds is {options.seeds}; wanted is 1 or more")
    if options.weights and not (is_published(options.weights) or Path(options.weights).is_file()):
        raise ConfigError(f"--weights {options.weights}: there is no such file")
    reid = options.reid_weights
    if reid and not (is_published(reid) or Path(reid).exists()):
        raise ConfigError(f"--reid_weights {reid}: there is no such file or directory")
    table = load_table(options.table)
    if reid and not any(map(is_rdlr, table.rows)):
        raise ConfigError(
            f"--reid_weights {reid}: {options.table} has no row of RDLR, which alone takes them"
        )
    path, _, dataset = options.table.partition(":")
    out = Path("runs") / "sweeps" / "_".join(filter(None, (Path(path).stem, dataset)))
    sweep = Sweep(
        table=table,
        out=options.out or out,
        runs_dir=options.runs,
        rows=tuple(map(table.row, options.only)) if options.only else table.rows,
        seeds=options.seeds or table.seeds,
        arguments=tuple(passed),
        weights=_weights(options.weights),
        reid_weights=_weights(reid),
        command=shlex.join(["python", "-m", "ps_jax.sweep", *arguments]),
    )
    datasets = sorted({row.config.partition(":")[2] for row, _ in sweep.runs()})
    for argument in passed:
        if argument.startswith("--config.data.") and len(datasets) > 1:
            raise ConfigError(
                f"{argument} would change every row, but these are trained on {' and '.join(datasets)}: each is looked "
                "for in data/ under its name; put it, or a link to it, there"
            )
    return sweep, options.list


def _weights(given: str | None) -> str:
    """The weights as every run takes them: a file by its absolute path, published ones by their name."""
    return os.path.abspath(given) if given and not is_published(given) else given or ""


def list_runs(sweep: Sweep) -> None:
    """Prints every run with its arguments and, where it was run, what became of it."""
    print(f"{sweep.table.title} ({sweep.table.source})")
    records = Records(sweep.out / "runs.jsonl")
    for row, seed in sweep.runs():
        record = records.get(row.name, seed)
        print(describe(record, sweep.log(row, seed)) if record else f"{row.name}, seed {seed}: not run yet")
        print(
            "    "
            + shlex.join(
                [
                    *(("eval.py", "--out") if row.evaluation else ("train.py", "--workdir")),
                    str(sweep.workdir(row, seed)),
                    *sweep.run_arguments(row, seed),
                ]
            )
        )


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    sweep, only_list = parse_sweep(arguments)
    if only_list:
        list_runs(sweep)
        return 0
    failed = run_sweep(sweep)
    print((sweep.out / "table.md").read_text())
    print(f"written to {sweep.out}")
    if failed:
        print(f"{failed} runs failed; the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PersonSearchError as error:
        print(f"sweep: {error}", file=sys.stderr)
        sys.exit(2)
