"""Our systems beside one another on one scene of 900 x 1500, in turns.

    python -m benchmarks.systems [--rounds 5] [--only WORDS] [--tiny] [--out FILE]

ResNet-50 and the paper's numbers everywhere, every candidate kept, so that the work does not depend on the weights:
SeqNet, SPNet-S, AlignPS, LEAPS with 2 to 8 stages (table 5 of its paper) and with 50 and 200 proposals (table 7), and
the RoIAligns of its flexible head alone, for 100 boxes on the map of stride 8: plain, dynamic, deformable.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import workloads
from benchmarks.speed import SCENE
from benchmarks.timing import in_turns, jax_clock, summarise
from ps_jax.errors import ConfigError, PersonSearchError
from ps_jax.evaluation.report import write_atomically
from ps_jax.heads.flexible_reid import ROI_ALIGNS, STRIDE, MovingRoIAlign
from ps_jax.markdown import markdown_table
from ps_jax.systems import build_system

STAGES = (2, 3, 4, 5, 6, 7, 8)
PROPOSALS = (50, 200)
# Milliseconds on a V100: table IX of AlignPS's paper, tables 5 and 7 of LEAPS's.
PAPER = {
    "SeqNet": 86,
    "AlignPS": 61,
    "LEAPS, 2 stages": 38,
    "LEAPS, 3 stages": 41,
    "LEAPS, 4 stages": 44,
    "LEAPS, 5 stages": 46,
    "LEAPS, 6 stages": 48,
    "LEAPS, 7 stages": 51,
    "LEAPS, 8 stages": 54,
    "LEAPS, 50 proposals": 45,
    "LEAPS, 200 proposals": 51,
}


def systems(tiny: bool) -> dict[str, Callable[[], Any]]:
    """What makes the function to be timed of each row; weights and programs exist only from then on."""
    scene = (64, 96) if tiny else SCENE

    def detection(name: str, **model: Any) -> Callable[[], Any]:
        def make():
            options = {"num_identities": workloads.IDENTITIES, **model}
            return workloads.detection(build_system(name, options), *scene)

        return make

    rows = {
        "SeqNet": detection("seqnet", **workloads.KEEP_ALL_PROPOSALS),
        "SPNet-S": detection("spnet", trunk="resnet50"),
        "AlignPS": detection("alignps"),
    }
    rows |= {f"LEAPS, {count} stages": detection("leaps", num_stages=count) for count in STAGES}
    rows |= {f"LEAPS, {count} proposals": detection("leaps", num_proposals=count) for count in PROPOSALS}
    return rows | {
        f"RoIAlign of LEAPS, {kind}": lambda kind=kind: pooling(kind, *scene) for kind in ROI_ALIGNS
    }


def pooling(kind: str, height: int, width: int) -> Callable[[], Any]:
    """The flexible head's RoIAlign of 100 boxes, with what predicts its offsets."""
    module = MovingRoIAlign(kind)
    keys = jax.random.split(jax.random.key(0), 3)
    level = jax.random.normal(keys[0], (1, height // STRIDE, width // STRIDE, 256))
    features = jax.random.normal(keys[1], (1, 100, 256))
    corner = jax.random.uniform(keys[2], (1, 100, 2)) * jax.numpy.array([0.8 * width, 0.6 * height])
    box = jax.numpy.concatenate([corner, corner + jax.numpy.array([0.1 * width, 0.3 * height])], axis=-1)
    variables = jax.device_put(workloads.fill(jax.eval_shape(module.init, keys[0], level, features, box)))
    run = jax.jit(module.apply)
    return lambda: run(variables, level, features, box)


def time_systems(rows: Mapping[str, Callable[[], Any]], rounds: int) -> list[tuple[str, ...]]:
    """Lines of the table: name, milliseconds, times the first row's, the paper's milliseconds."""
    clocks = {name: jax_clock(make()) for name, make in rows.items()}
    timings = {name: summarise(seconds) for name, seconds in in_turns(clocks, rounds).items()}
    first = next(iter(timings.values()))
    return [
        (name, timing.milliseconds, f"{timing.median / first.median:.2f}", str(PAPER.get(name, "")))
        for name, timing in timings.items()
    ]


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.systems",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--tiny", action="store_true", help="a small scene, to see that it works")
    parser.add_argument("--out", type=Path, help="file to write the table to")
    options = parser.parse_args(arguments)
    rows = {name: make for name, make in systems(options.tiny).items() if options.only in name}
    if not rows:
        raise ConfigError(f"no row is called {options.only!r}; there are {', '.join(systems(options.tiny))}")
    lines = time_systems(rows, options.rounds)
    text = markdown_table(["row", "ms", "times the first row", "paper, ms on a V100"], lines)
    print(
        f"{jax.default_backend()}, {os.cpu_count()} cores, {platform.machine()}, jax {jax.__version__}\n\n{text}"
    )
    if options.out:
        write_atomically(options.out, text.encode())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PersonSearchError as error:
        print(f"systems: {error}", file=sys.stderr)
        sys.exit(2)
