"""Speed of models: ours beside the same layers in PyTorch, query-centric search, frames a second and hours of training.

    python -m benchmarks.speed [pairs] [search] [throughput] [--torch_python PYTHON] [--threads N] [--rounds N]
                               [--only WORDS] [--tiny] [--out FILE]

`make bench TORCH_PYTHON=...` runs `pairs` and `search`. PyTorch works in a process of its own under an interpreter that
has it (Python 3.11: `python3.11 -m venv DIR && DIR/bin/pip install torch==2.13.0 numpy`); both sides share the same
cores and threads and are timed in turns, so the ratio means something on a machine with other work too. Only shapes and
costs are compared here, numbers agree in `tests/golden`. PyTorch's side is plain layers (`torch_models.py`,
`torch_spnet.py`, ...), with torchvision's compiled RoIAlign, suppression and deformable convolution where it has them;
the line of versions says whether.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.timing import in_turns, jax_clock, median_ratio, summarise
from ps_jax.errors import ConfigError
from ps_jax.markdown import markdown_row, markdown_table

ROOT = Path(__file__).parents[1]
SCENE = (928, 1504)  # 900 x 1500 padded to multiples of 32
MODES = ("pairs", "search", "throughput")
QUERIES = (1, 16, 256)
LARGE = {"num_cascade_steps": 2, "separate_location_heads": True, "reid_dim": 2048}

# Training scenes (times views), batches of 8, 30 epochs: the paper's schedules.
EPOCHS, BATCH = 30, 8
SCENES = {"COCOPersons": 64115 * 2, "CUHK-SYSU": 11206, "PRW": 5704}
# (system, trunk, crop of fine-tuning, hours in the paper's table 4 on an A100)
SYSTEMS = (
    (
        "SPNet-S",
        "convnext_tiny",
        512,
        {"QC COCOPersons": 30.0, "OC COCOPersons": 24.5, "CUHK-SYSU": 2.5, "PRW": 1.5},
    ),
    (
        "SPNet-L",
        "convnext_base",
        1024,
        {"QC COCOPersons": 46.5, "OC COCOPersons": 40.5, "CUHK-SYSU": 9.0, "PRW": 4.5},
    ),
)
PAPER_FPS = {("SPNet-L", "resnet50"): 27.6}  # table 1, on an A100

NOT_HERE = (
    ConfigError,
    RuntimeError,
)  # no such option in this version; XLA's error where memory does not suffice


def reason(error: Exception) -> str:
    """Why a row has no figures."""
    return f"skipped: {str(error).splitlines()[0].partition('. ')[0]}"


@dataclass(frozen=True)
class Case:
    """Work that both sides can do.

    Attributes:
      name: for the table.
      work: "detect", "detect by seqnet", "detect by alignps", "train", "trunk forward" or "trunk step".
      trunk: its name.
      size: (height, width) of the images.
      batch: how many.
      steps, reid_dim: of the cascade and of the embedding, for "detect".
      people, samples: in a scene, for "train".
    """

    name: str
    work: str
    trunk: str
    size: tuple[int, int]
    batch: int = 1
    steps: int = 0
    reid_dim: int = 128
    people: int = 6
    samples: int = field(default=128)


def cases(tiny: bool) -> tuple[Case, ...]:
    """What is compared."""
    scene = (64, 96) if tiny else SCENE
    crop, side = (64, 64) if tiny else (512, 256)
    samples = 16 if tiny else 128
    return (
        Case("SPNet-L, ResNet-50, inference", "detect", "resnet50", scene, steps=2, reid_dim=2048),
        Case("SPNet-S, ResNet-50, inference", "detect", "resnet50", scene),
        Case(
            "SPNet-S, ConvNeXt-T, training step", "train", "convnext_tiny", (crop, crop), 2, samples=samples
        ),
        Case("SeqNet, ResNet-50, inference", "detect by seqnet", "resnet50", scene),
        Case("AlignPS, ResNet-50, inference", "detect by alignps", "resnet50_caffe", scene),
        Case("ResNet-50 trunk, forward", "trunk forward", "resnet50", scene),
        Case("ConvNeXt-T trunk, forward", "trunk forward", "convnext_tiny", scene),
        Case("ResNet-50 trunk, forward and gradient", "trunk step", "resnet50", (side, side), 2),
        Case("ConvNeXt-T trunk, forward and gradient", "trunk step", "convnext_tiny", (side, side), 2),
    )


def ours(case: Case, dtype: str = "float32") -> Callable[[], Any]:
    """Our side of a case, as a function without arguments; a training step has the type that training uses here.

    Raises:
      ConfigError: the system has no such options.
    """
    from benchmarks import workloads

    if case.work == "trunk forward":
        return workloads.trunk_forward(case.trunk, *case.size, case.batch, dtype)
    if case.work == "trunk step":
        return workloads.trunk_step(case.trunk, *case.size, case.batch, dtype)
    if case.work == "detect":
        model = {**LARGE, "num_cascade_steps": case.steps, "reid_dim": case.reid_dim} if case.steps else {}
        return workloads.detection(workloads.spnet(dtype, trunk=case.trunk, **model), *case.size)
    if case.work == "detect by seqnet":
        return workloads.detection(workloads.seqnet(dtype, trunk=case.trunk), *case.size)
    if case.work == "detect by alignps":
        return workloads.detection(workloads.alignps(dtype, trunk=case.trunk), *case.size)
    from configs import spnet_oc

    config = spnet_oc.get_config("prw").unlock()
    config.model.trunk = case.trunk
    config.finetune.update(batch_size=case.batch, crop=case.size[0])
    config.finetune.model.samples_per_image = case.samples
    return workloads.training_step(config, "finetune")


class TorchWorker:
    """The PyTorch process; a context manager.

    Args:
      python: interpreter that has torch.
      threads: that it computes with.

    Raises:
      ConfigError: it does not start, or cannot do a case.
    """

    def __init__(self, python: str, threads: int):
        # Threads that wait must sleep, or they would take the cores from the other side.
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "GOMP_SPINCOUNT": "0"}
        try:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.torch_worker", str(threads)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise ConfigError(f"{python}: cannot be run ({error.strerror})") from error
        self.versions = self._answer().get("versions", {})

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise ConfigError("the PyTorch process ended; does its interpreter have torch?")
        answer = json.loads(line)
        if "error" in answer:
            raise ConfigError(f"PyTorch: {answer['error']}")
        return answer

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Sends a question and waits for its answer."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def clock(self) -> float:
        """Seconds of the work prepared last."""
        return self.ask({"time": 1})["seconds"]


def pairs(options: argparse.Namespace, worker: TorchWorker | None) -> Iterator[list[str]]:
    """Rows of the comparison with PyTorch."""
    for case in cases(options.tiny):
        if options.only and options.only not in case.name:
            continue
        shape = f"{case.batch} x {case.size[0]} x {case.size[1]}"
        try:
            clocks = {"ours": jax_clock(ours(case))}
            if worker:
                worker.ask({"prepare": asdict(case)})
                clocks["torch"] = worker.clock
            seconds = in_turns(clocks, options.rounds)
        except NOT_HERE as error:
            yield [case.name, shape, "", "", reason(error)]
            continue
        row = [case.name, shape, summarise(seconds["ours"]).milliseconds]
        if worker:
            ratio = median_ratio(seconds["torch"], seconds["ours"])
            row += [summarise(seconds["torch"]).milliseconds, f"{ratio:.2f}"]
        else:
            row += ["", "skipped: no --torch_python"]
        yield row


def search(options: argparse.Namespace) -> Iterator[list[str]]:
    """Rows of query-centric search of one scene: time and memory by the number of queries searched at once.

    Of a query's candidates a quarter is embedded, the least that the search does: hardly a query has more than
    one person in a scene, so this is the usual case.
    """
    from benchmarks import workloads

    size = (64, 96) if options.tiny else SCENE
    trunk = "mobilenet_v2" if options.tiny else "convnext_tiny"
    for queries in QUERIES[:2] if options.tiny else QUERIES:
        name, scene = f"SPNet-S, {trunk}, {queries} queries", f"1 x {size[0]} x {size[1]}"
        if options.only and options.only not in name:
            continue
        call, memory = workloads.query_search(workloads.spnet("float32", trunk=trunk), queries, *size)
        needed, there = memory / 2**20, free_memory() / 2**20
        if needed > there:
            yield [name, scene, f"not run: only {there:.0f} MiB are free", "", f"{needed:.0f}"]
            continue
        timing = summarise(in_turns({"ours": jax_clock(call)}, options.rounds)["ours"])
        yield [name, scene, timing.milliseconds, f"{1e3 * timing.median / queries:.3g}", f"{needed:.0f}"]


def free_memory() -> float:
    """Bytes free on the device that jax computes on."""
    import jax

    if statistics := jax.local_devices()[0].memory_stats():
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def throughput(options: argparse.Namespace) -> Iterator[list[str]]:
    """Rows of the paper's tables 1 and 4: frames a second, and hours that its schedules would take here."""
    from benchmarks import workloads
    from configs import spnet_oc, spnet_oc_pretrain, spnet_qc
    from ps_jax.training import compute_dtype

    dtype = str(compute_dtype("auto"))
    scene = (64, 96) if options.tiny else SCENE
    frames = [(name, trunk) for name, trunk, *_ in SYSTEMS] + [("SPNet-L", "resnet50")]
    for name, trunk in frames:
        if options.tiny:
            trunk = "mobilenet_v2"
        title, paper = f"{name}, {trunk}, {dtype}: frames a second", PAPER_FPS.get((name, trunk), "")
        if options.only and options.only not in title:
            continue
        try:
            model = LARGE if name == "SPNet-L" else {}
            call = workloads.detection(workloads.spnet(dtype, trunk=trunk, **model), *scene)
            timing = summarise(in_turns({"ours": jax_clock(call)}, options.rounds)["ours"])
        except NOT_HERE as error:
            yield [title, "", "", str(paper), reason(error)]
            continue
        yield [title, timing.milliseconds, f"{1 / timing.median:.3g}", str(paper), ""]
    for name, trunk, crop, hours in SYSTEMS:
        for schedule, paper_hours in hours.items():
            mode, _, dataset = schedule.rpartition(" ")
            title = (
                f"{name}, {trunk}, {dtype}: hours of {'pre-training' if mode else 'fine-tuning'}, {schedule}"
            )
            if options.only and options.only not in title:
                continue
            source = {"QC": spnet_qc, "OC": spnet_oc_pretrain, "": spnet_oc}[mode]
            config = source.get_config("prw").unlock()
            phase = "pretrain" if mode else "finetune"
            config.model.trunk = "mobilenet_v2" if options.tiny else trunk
            config[phase].crop = 64 if options.tiny else 512 if mode else crop
            if name == "SPNet-L":  # pre-trained without the cascade, with one head
                config.model.update({} if mode else LARGE)
            try:
                call = workloads.training_step(config, phase)
                timing = summarise(in_turns({"ours": jax_clock(call)}, options.rounds)["ours"])
            except NOT_HERE as error:
                yield [title, "", "", str(paper_hours), reason(error)]
                continue
            steps = SCENES[dataset] // BATCH * EPOCHS
            ours_hours = f"{steps * timing.median / 3600:.3g}"
            yield [title, timing.milliseconds, ours_hours, str(paper_hours), f"{steps} steps, extrapolated"]


HEADS = {
    "pairs": (
        "work",
        "images",
        "ours ms (lowest - highest)",
        "PyTorch ms (lowest - highest)",
        "PyTorch / ours",
    ),
    "search": ("search", "scene", "ms (lowest - highest)", "ms a query", "working memory MiB"),
    "throughput": ("what", "ms a step (lowest - highest)", "ours", "paper (A100)", "note"),
}


def environment(threads: int, torch_versions: dict[str, str]) -> str:
    """What the figures were measured on."""
    import flax
    import jax

    device = jax.local_devices()[0].device_kind
    versions = {"jax": jax.__version__, "flax": flax.__version__, "python": platform.python_version()}
    versions |= torch_versions
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{listed}; {device}, {platform.machine()}, {threads} of {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f} at the start"
    )


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("modes", nargs="*", metavar="MODE", help=f"of {', '.join(MODES)}; default: pairs search")
    option("--torch_python", help="interpreter that has torch; without it our side is timed alone")
    option("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    option("--rounds", type=int, default=5, help="default: %(default)s")
    option("--only", help="rows whose name has this in it")
    option("--tiny", action="store_true", help="small sizes, to see that it runs; says nothing about speed")
    option("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args(arguments)
    for mode in options.modes:
        if mode not in MODES:
            parser.error(f"{mode!r} is none of {', '.join(MODES)}")
    # Before jax is imported: it makes as many threads as there are cores to run on.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    worker = None
    try:
        if options.torch_python:
            worker = TorchWorker(options.torch_python, options.threads)
    except ConfigError as error:
        print(f"speed: {error}", file=sys.stderr)
        return 2
    text = f"`{shlex.join(['python', '-m', 'benchmarks.speed', *arguments])}`\n\n"
    text += environment(options.threads, worker.versions if worker else {})
    print(text, flush=True)
    for mode in options.modes or ["pairs", "search"]:
        made = {"pairs": lambda: pairs(options, worker), "search": lambda: search(options)}
        head = f"\n{markdown_table(HEADS[mode], [])}"
        print(head, flush=True)
        text += f"\n{head}"
        for row in made.get(mode, lambda: throughput(options))():
            print(markdown_row(row), flush=True)
            text += f"\n{markdown_row(row)}"
    if worker:
        worker.__exit__()
    if options.out:
        options.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
