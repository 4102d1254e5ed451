"""Time and memory of the operations in each of their forms on this machine, and the table that picks among them.

    python -m benchmarks.operations                                    prints them
    python -m benchmarks.operations --write kernels/_choices.py        and makes this platform's part of the table

Memory is what the compiled program holds at its peak, arguments and results included, as the compiler plans it.
"""

import argparse
import contextlib
import copy
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.operation_cases import Case, cases
from benchmarks.timing import in_turns, jax_clock, summarise
from kernels._choices import MACHINES, MEASURED
from kernels._implementation import only_form
from kernels._launch import why_not
from ps_jax.markdown import markdown_table

HEAD = ("operation", "case", "form", "forward ms", "gradient ms", "forward MB", "gradient MB")


class Compiled(NamedTuple):
    """One form of a case.

    Attributes:
      forward: compiled, a function of the case's arrays.
      gradient: likewise, None where there is none; computes the forward as well.
      megabytes: at the peak of both.
    """

    forward: Any
    gradient: Any
    megabytes: tuple[float, float]


def compile_form(case: Case, form: str, arrays: list[jax.Array]) -> Compiled:
    """Compiles one form of a case for the platform at hand; ValueError where its kernel cannot run there."""
    if form == "pallas" and (reason := why_not()):
        raise ValueError(reason)
    with only_form(form):
        programs = [
            jax.jit(function).lower(*arrays).compile() if function else None
            for function in (case.forward, case.gradient if case.differentiated else None)
        ]
    return Compiled(programs[0], programs[1], (_megabytes(programs[0]), _megabytes(programs[1])))


def _megabytes(program: Any) -> float:
    if program is None:
        return 0.0
    memory = program.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return (held - memory.alias_size_in_bytes) / 1e6


def forms_here(case: Case) -> list[str]:
    """The forms of a case that can run here."""
    return [form for form in case.forms if form != "pallas" or not why_not()]


def measured(case: Case, rounds: int) -> Iterator[tuple[str, float, float, tuple[float, float]]]:
    """Seconds of each form, forward and gradient, measured in turns, and megabytes."""
    arrays = [jnp.asarray(array) for array in case.arrays]
    clocks, compiled = {}, {}
    for form in forms_here(case):
        compiled[form] = compile_form(case, form, arrays)
        for kind, program in (("forward", compiled[form].forward), ("gradient", compiled[form].gradient)):
            if program is not None:
                clocks[f"{form} {kind}"] = jax_clock(program, *arrays)
    seconds = {name: summarise(values).median for name, values in in_turns(clocks, rounds).items()}
    for form, one in compiled.items():
        yield form, seconds[f"{form} forward"], seconds.get(f"{form} gradient", 0.0), one.megabytes


def write_table(path: Path, table: dict[str, Any], machines: dict[str, str]) -> None:
    """Writes `kernels/_choices.py`."""
    text = path.read_text()
    begin = text.index("MACHINES")
    body = f"MACHINES: dict[str, str] = {_as_source(machines)}\n\n"
    body += "MEASURED: dict[str, dict[str, dict[str, dict[str, float]]]] = "
    path.write_text(text[:begin] + body + _as_source(table) + "\n")


def _as_source(value: Any, indent: str = "") -> str:
    """A nested dict as the formatter of the sources wants it."""
    if not isinstance(value, dict):
        return json.dumps(value)
    inner = indent + "    "
    lines = [f"{inner}{json.dumps(key)}: {_as_source(value[key], inner)},\n" for key in sorted(value)]
    return "{\n" + "".join(lines) + indent + "}"


def machine() -> str:
    """Device and versions, for the table."""
    device = jax.devices()[0].device_kind
    if jax.default_backend() == "cpu":
        device = f"{os.cpu_count()} cores, {platform.machine()}"
    return f"{device}, jax {jax.__version__}"


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operations", description=__doc__)
    parser.add_argument("--write", type=Path, help="source file of the table")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="operations")
    parser.add_argument("--tiny", action="store_true", help="small sizes; says nothing about speed")
    options = parser.parse_args(arguments)
    print(machine(), flush=True)
    name = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    table = copy.deepcopy(MEASURED)
    mine: dict[str, Any] = {}
    rows = []
    for case in cases(options.tiny):
        if options.only and case.operation not in options.only:
            continue
        times = {}
        for form, forward, gradient, megabytes in measured(case, options.rounds):
            times[form] = float(np.round(1e3 * (gradient or forward), 3))
            row = [case.operation, case.name, form, f"{1e3 * forward:.3g}", f"{1e3 * gradient:.3g}"]
            rows.append([*row, *(f"{size:.0f}" for size in megabytes)])
            print(" | ".join(rows[-1]), flush=True)
        mine.setdefault(case.operation, {})[case.name] = times
    print(markdown_table(HEAD, rows))
    if options.write:
        table.setdefault(name, {}).update(mine)
        write_table(options.write, table, MACHINES | {name: machine()})
    return 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
