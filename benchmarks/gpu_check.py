"""One call, under nine minutes, on a machine with a GPU: is it right there, and how fast is it.

    python -m input_pipeline.export_arrays --config configs/spnet_demo.py --out arrays --train_batches 50   (beforehand)
    python -m benchmarks.gpu_check --out gpu_check --arrays arrays

Kernel tests on the GPU; operations in each form, trunks and models timed, beside PyTorch and torchvision with CUDA
where they are there; open questions about GPUs (`benchmarks/gpu_questions.py`); a short training on prepared arrays
with its curve and contact sheet, and its evaluation. Every part has a budget of time and fails alone; `--out` gets
`gpu_check.md`, `rows.jsonl`, the pictures and `log.txt`. Exit code 0 if no part failed.
`--tiny` shows on any machine that the parts run.

Needs jax with a GPU, flax, optax, orbax-checkpoint, einops, absl-py, jaxtyping, pillow, matplotlib, tqdm, scipy, chex
and pytest with pytest-timeout; neither TensorFlow nor PyTorch nor a network. What such a machine lacks travels as
wheels in a folder (ml_collections, tensorboardX and beartype are pure Python and small):

    pip download --no-deps -d wheels ml-collections==1.1.0 tensorboardx==2.6.5 beartype==0.23.1        (beforehand)
    pip install --no-index --no-deps --target site wheels/*.whl && export PYTHONPATH=site              (there)

Arrays of the demo's size are 45 MB with 50 batches; fewer batches are used again and again.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ps_jax.evaluation.report import write_atomically
from ps_jax.markdown import markdown_table
from ps_jax.sweep.running import final_results

ROOT = Path(__file__).parents[1]
MINUTES = 8.8  # all parts together
TINY_SLOWNESS = 4.0  # of the CPUs that --tiny may run on, which may have other work
COLUMNS = ("case", "ours", "torch", "ratio", "note")
HEAD = ("case", "ours", "PyTorch", "PyTorch / ours", "note")
TESTS = (
    "tests/kernels",
    "tests/golden/test_golden_ops.py",
    "tests/boxes",
    "tests/layers/test_resize_pooling.py",
)
TINY_TESTS = ("tests/kernels/test_grid_sample.py",)


@dataclass
class Check:
    """What all parts share.

    Attributes:
      out: where results go.
      arrays: prepared arrays, None for none.
      config: configuration that the arrays were made with.
      changes: its changes, --config.x.y=value.
      tiny: small sizes on any machine.
      environment: of every process.
      rows: what was found out, part by part.
      endings: how each part ended.
    """

    out: Path
    arrays: Path | None
    config: str
    changes: tuple[str, ...]
    tiny: bool
    environment: dict[str, str]
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    endings: dict[str, str] = field(default_factory=dict)

    @property
    def workdir(self) -> Path:
        """Work directory of the training; large, and so not where the results go."""
        return self.out.with_name(f"{self.out.name}_work")

    def run(self, command: Sequence[str], seconds: float, **environment: str) -> tuple[int | None, str]:
        """Runs a command for so many seconds at most, with a line in the log.

        Returns:
          Its exit code, None if it had to be ended, and what it printed.
        """
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=max(1.0, seconds))
            code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            code = None
        with open(self.out / "log.txt", "a") as file:
            file.write(f"$ {shlex.join(command)}\n{output}\n[{code}, {time.monotonic() - began:.0f} s]\n\n")
        return code, output


class Skipped(Exception):
    """A part cannot run here; the message says why."""


class Failed(Exception):
    """A part ran and something was wrong; the message says what."""


def _ended(code: int | None, output: str) -> None:
    """Raises Failed unless a command ended well."""
    if code is None:
        raise Failed("ran out of its time")
    if code:
        lines = output.strip().splitlines() or ["it printed nothing"]
        raise Failed(f"exit code {code}: {lines[-1][:300]}")


def machine(check: Check, seconds: float) -> None:
    """Versions and devices."""
    code = """
import importlib.metadata as m, os, platform, json
import jax
found = {n: m.version(n) for n in
         ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "torchvision", "tensorflow-cpu")
         if any(d.metadata["Name"].lower() == n for d in m.distributions())}
found |= {"python": platform.python_version(), "platform": jax.default_backend(), "cores": os.cpu_count(),
          "device": ", ".join(d.device_kind for d in jax.local_devices())}
print(json.dumps(found))
"""
    exit_code, output = check.run([sys.executable, "-c", code], seconds)
    _ended(exit_code, output)
    found = json.loads(output.strip().splitlines()[-1])
    check.rows["machine"] = [{"case": name, "ours": str(value)} for name, value in found.items()]
    if found["platform"] == "cpu" and not check.tiny:
        raise Failed("jax sees no GPU")


def timed_part(name: str) -> Callable[[Check, float], None]:
    """A part of `benchmarks.gpu_parts`; without PyTorch if it breaks with it."""

    def part(check: Check, seconds: float) -> None:
        began = time.monotonic()
        path = check.out / "rows.jsonl"
        before = len(path.read_text().splitlines()) if path.exists() else 0
        command = [sys.executable, "-m", "benchmarks.gpu_parts", name, str(path)]
        command += ["--tiny"] if check.tiny else []
        code, output = check.run(command, seconds)
        if code and (left := seconds - (time.monotonic() - began)) > 5:
            code, output = check.run([*command, "--without_torch"], left)
        lines = path.read_text().splitlines()[before:] if path.exists() else []
        check.rows[name] = [json.loads(line) for line in lines]
        _ended(code, output)

    return part


def tests(check: Check, seconds: float) -> None:
    """Tests of the operations on the GPU, with products in full float32."""
    chosen = TINY_TESTS if check.tiny else TESTS
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "not slow",
        "-k",
        "not interpreted",
        "-W",
        "default",
        "--no-header",
        *chosen,
    ]
    platform = "cpu" if check.tiny else "cuda"
    code, output = check.run(
        command, seconds, JAX_PLATFORMS=f"{platform},cpu", JAX_DEFAULT_MATMUL_PRECISION="highest"
    )
    lines = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    lines += output.strip().splitlines()[-1:]
    check.rows["tests"] = [{"case": line[:300]} for line in lines]
    _ended(code, output)


def _training_arguments(check: Check) -> list[str]:
    if check.arrays is None:
        raise Skipped("no --arrays")
    return [
        *("--config.data.source=arrays", f"--config.data.dir={check.arrays.absolute()}"),
        *check.changes,
    ]


def training(check: Check, seconds: float) -> None:
    """A short training on prepared arrays with train.py: loss, rate, results, curve and contact sheet."""
    command = [sys.executable, "train.py", "--config", check.config, "--workdir", str(check.workdir)]
    began = time.monotonic()
    code, output = check.run([*command, *_training_arguments(check), "--config.eval.pictures=5"], seconds)
    wall = time.monotonic() - began
    path = check.workdir / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    steps = [record for record in records if "loss/total" in record]
    if steps:
        first, last = steps[0], steps[-1]
        rate = statistics.median(record["steps_per_second"] for record in steps[-max(1, len(steps) // 2) :])
        check.rows["training"] = [
            {"case": "steps taken", "ours": str(last["step"]), "note": f"{wall:.0f} s with compilation"},
            {"case": "steps a second, median of the second half", "ours": f"{rate:.2f}"},
            *(
                {"case": name, "ours": f"{first[name]:.3f} -> {last[name]:.3f}"}
                for name in last
                if name.startswith("loss/")
            ),
        ]
        write_atomically(check.out / "loss_curve.png", _loss_curve(steps))
    _ended(code, output)
    results = final_results(check.workdir)
    check.rows["training"] += _scores(json.loads(results.read_text()))
    sheets = sorted((results.parent / "pictures").glob("*_01.png"))
    if sheets:
        shutil.copy(sheets[0], check.out / "contact_sheet.png")


def _scores(results: dict[str, Any]) -> list[dict[str, str]]:
    rows = [
        {
            "case": f"{kind}, {gallery}, mAP / top-1",
            "ours": f"{100 * one['mAP']:.2f} / {100 * one['top1']:.2f}",
        }
        for kind in ("search", "search_true_boxes")
        for gallery, one in results.get(kind, {}).items()
    ]
    detection = results["detection"]
    numbers = f"{100 * detection['recall']:.2f} / {100 * detection['AP']:.2f}"
    return [*rows, {"case": "detection, recall / AP", "ours": numbers}]


def _loss_curve(steps: Sequence[dict[str, Any]]) -> bytes:
    from ps_jax.evaluation.curves import as_png, new_figure

    figure, (axes,) = new_figure()
    for name in (name for name in steps[-1] if name.startswith("loss/")):
        values = [(place, step[name]) for place, step in enumerate(steps) if name in step]
        axes.plot(*zip(*values, strict=True), label=name.removeprefix("loss/"), linewidth=1.5)
    axes.set(xlabel="record", ylabel="loss", yscale="log")
    axes.set_title("Training on prepared arrays", loc="left")
    axes.legend(frameon=False)
    return as_png(figure)


def evaluation(check: Check, seconds: float) -> None:
    """eval.py on the arrays: the numbers must be those of the training's own evaluation."""
    arguments = [argument for argument in _training_arguments(check) if argument.startswith("--config.data.")]
    if not (check.workdir / "evaluation").exists():
        raise Skipped("the training left nothing to evaluate")
    out = check.workdir / "again"
    command = [sys.executable, "eval.py", "--workdir", str(check.workdir), "--out", str(out), *arguments]
    began = time.monotonic()
    code, output = check.run(command, seconds)
    _ended(code, output)
    wall = time.monotonic() - began
    again, before = (
        json.loads(path.read_text()) for path in (out / "results.json", final_results(check.workdir))
    )
    same = all(again[name] == before[name] for name in ("search", "detection"))
    check.rows["evaluation"] = [
        {"case": "wall time", "ours": f"{wall:.0f} s"},
        *_scores(again),
        {"case": "the same numbers as the training's own evaluation", "ours": "yes" if same else "NO"},
    ]
    largest = abs(again["detection"]["AP"] - before["detection"]["AP"])
    if largest > 1e-3:
        raise Failed(f"detection AP differs by {largest:.4f} from the training's own evaluation")


# Seconds each may take on a GPU; together no more than MINUTES.
PARTS: dict[str, tuple[Callable[[Check, float], None], float]] = {
    "machine": (machine, 25),
    "operations": (timed_part("operations"), 120),
    "questions": (timed_part("questions"), 60),
    "models": (timed_part("models"), 65),
    "trunks": (timed_part("trunks"), 65),
    "training": (training, 75),
    "evaluation": (evaluation, 25),
    "tests": (tests, 90),
}


def report(check: Check, command: str) -> str:
    """Everything known so far, as Markdown."""
    parts = ["# GPU check", f"Command: `{command}`"]
    parts.append(
        "Times in milliseconds, median (lowest - highest); a ratio above 1 means that ours is faster."
    )
    parts.append(markdown_table(("part", "how it ended"), check.endings.items()))
    for name, rows in check.rows.items():
        lines = [[str(row.get(column, "")) for column in COLUMNS] for row in rows]
        parts += [f"## {name}", markdown_table(HEAD, lines)]
    return "\n\n".join(parts) + "\n"


def run_parts(check: Check, names: Sequence[str], command: str) -> int:
    """Runs the parts one after the other, each within its budget; returns how many failed.

    Without a GPU nothing else is run.
    """
    slower = TINY_SLOWNESS if check.tiny else 1.0
    end = time.monotonic() + 60 * MINUTES * slower
    failed = 0
    for name in names:
        part, budget = PARTS[name]
        began = time.monotonic()
        try:
            if (left := min(slower * budget, end - began)) < 5:
                raise Skipped("no time left")
            part(check, left)
            ending = "done"
        except Skipped as reason:
            ending = f"skipped: {reason}"
        except Failed as reason:
            ending, failed = f"FAILED: {reason}", failed + 1
        except Exception as error:  # a part must not sink the others
            ending, failed = f"FAILED: {type(error).__name__}: {error}", failed + 1
        check.endings[name] = f"{ending} ({time.monotonic() - began:.0f} s)"
        print(f"{name}: {check.endings[name]}", flush=True)
        write_atomically(check.out / "gpu_check.md", report(check, command).encode())
        if name == "machine" and failed:
            break
    return failed


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--out", type=Path, default=Path("runs/gpu_check"), help="default: %(default)s; emptied first")
    option("--arrays", type=Path, help="prepared arrays for training and evaluation")
    option(
        "--config",
        default="configs/spnet_demo.py",
        help="what the arrays were made with; default: %(default)s",
    )
    option("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    option("--tiny", action="store_true", help="small sizes on a CPU; says nothing about speed")
    options, changes = parser.parse_known_args(arguments)
    if unknown := [change for change in changes if not change.startswith("--config.")]:
        parser.error(f"unknown arguments: {' '.join(unknown)}")
    environment = dict(os.environ)
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs room beside
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if options.tiny:
        environment["JAX_PLATFORMS"] = "cpu"
    out = options.out.absolute()
    check = Check(out, options.arrays, options.config, tuple(changes), options.tiny, environment)
    for directory in (out, check.workdir):
        shutil.rmtree(directory, ignore_errors=True)
    out.mkdir(parents=True)
    command = shlex.join(["python", "-m", "benchmarks.gpu_check", *arguments])
    failed = run_parts(check, options.only or list(PARTS), command)
    print((out / "gpu_check.md").read_text())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
