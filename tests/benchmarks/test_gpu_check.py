"""The GPU check in its tiny form, on a CPU, without TensorFlow; and how it deals with parts that go wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import Check, Failed, Skipped, run_parts

ROOT = Path(__file__).parents[2]
KERNEL_NEEDS = "skipped: it needs an NVIDIA GPU, this process computes on cpu"
SCENES = [
    "--config.data.max_people=4",
    "--config.data.resize=(96, 128)",
    "--config.data.streets.height=96",
    "--config.data.streets.width=128",
    "--config.data.streets.train_scenes=24",
    "--config.data.streets.test_scenes=10",
    "--config.data.streets.train_identities=8",
    "--config.data.streets.test_identities=4",
    "--config.data.streets.cameras=2",
    "--config.data.streets.people=(2, 3)",
    "--config.data.streets.gallery_sizes=(4, 8)",
    "--config.finetune.crop=96",
    "--config.finetune.batch_size=4",
    "--config.finetune.epochs=0.5",
    "--config.finetune.log_every=1",
]


def without_tensorflow(directory):
    """The environment of a machine on which importing TensorFlow fails, for all processes."""
    (directory / "hidden").mkdir()
    (directory / "hidden" / "tensorflow.py").write_text("raise ImportError('hidden')\n")
    return os.environ | {"PYTHONPATH": str(directory / "hidden")}


def run(directory, *arguments):
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu_check",
        "--tiny",
        "--out",
        str(directory / "out"),
        *arguments,
    ]
    environment = without_tensorflow(directory)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return (directory / "out" / "gpu_check.md").read_text()


@pytest.mark.slow
def test_parts_run_on_a_cpu_without_tensorflow_and_torch(tmp_path):
    text = run(tmp_path, "--only", "machine", "operations", "questions", "training", "tests")
    assert "| platform | cpu |" in text
    for part in ("machine", "operations", "questions", "tests"):
        assert f"| {part} | done (" in text
    assert "| training | skipped: no --arrays (" in text
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    timed = [row["case"] for row in rows if "ours" in row]
    for name in (
        "copy",
        "roi_align",
        "deform_conv",
        "roi_transform",
        "grid_sample",
        "nms",
        "1",
        "2",
        "3",
        "4",
    ):
        assert any(case.startswith(name) for case in timed), name
    for form in ("one_by_one", "at_once", "separable", "gather", "greedy", "tiles"):
        assert any(case.endswith((form + ", forward", form + ", gradient")) for case in timed), form
    # Kernels, and nothing else, cannot run here.
    skipped = [row for row in rows if "ours" not in row]
    assert {row["note"] for row in skipped} == {KERNEL_NEEDS}
    assert {row["case"].split(":")[0] for row in skipped} >= {"2", "4"}
    assert len(skipped) > 8
    shares = [row["note"] for row in rows if row["case"].startswith("roi_align") and "ours" in row]
    assert all(re.fullmatch(r"\d+ GB/s, \d+ % of a copy; \d+ MB; no torch(vision)?", note) for note in shares)
    assert re.search(r"\| \d+ passed, \d+ skipped, \d+ deselected in ", text)


@pytest.mark.slow
def test_all_parts_run_with_prepared_arrays(tmp_path):
    config = ["--config", "configs/spnet_oc.py", *SCENES]
    export = [sys.executable, "-m", "input_pipeline.export_arrays", *config, "--train_batches", "2"]
    arrays = tmp_path / "arrays"
    subprocess.run(
        [*export, f"--config.data.dir={tmp_path / 'streets'}", "--out", str(arrays)], cwd=ROOT, check=True
    )
    text = run(tmp_path, "--arrays", str(arrays), *config)
    for part in gpu_check.PARTS:
        assert f"| {part} | done (" in text, part
    assert "| steps taken | 3 |" in text
    assert "| the same numbers as the training's own evaluation | yes |" in text
    assert "SPNet-S, mobilenet_v2, training step, 2 x 64 x 64" in text
    for name in ("loss_curve.png", "contact_sheet.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    assert len([path for path in (tmp_path / "out").iterdir() if path.is_file()]) <= 8


@pytest.fixture
def check(tmp_path):
    (tmp_path / "out").mkdir()
    return Check(tmp_path / "out", None, "x.py", (), False, dict(os.environ))


def test_a_part_that_goes_wrong_does_not_sink_the_others(check, monkeypatch):
    def fine(check, seconds):
        check.rows["fine"] = [{"case": "a", "ours": "1", "torch": "2", "ratio": 2.0}]

    def skipped(check, seconds):
        raise Skipped("no arrays")

    def failed(check, seconds):
        check.rows["failed"] = [{"case": "half of it", "ours": "3"}]
        raise Failed("ran out of its time")

    def broken(check, seconds):
        raise ZeroDivisionError("oh")

    parts = {"skipped": (skipped, 9), "failed": (failed, 9), "broken": (broken, 9), "fine": (fine, 9)}
    monkeypatch.setattr(gpu_check, "PARTS", parts | {"late": (fine, 1)})
    assert run_parts(check, [*parts, "late"], "command") == 2
    text = (check.out / "gpu_check.md").read_text()
    for line in (
        "| skipped | skipped: no arrays (0 s) |",
        "| failed | FAILED: ran out of its time (0 s) |",
        "| broken | FAILED: ZeroDivisionError: oh (0 s) |",
        "| fine | done (0 s) |",
        "| late | skipped: no time left (0 s) |",
        "| half of it | 3 |  |  |  |",
        "| a | 1 | 2 | 2.0 |  |",
    ):
        assert line in text, line


def test_without_a_gpu_nothing_else_is_run(check, monkeypatch):
    def none(check, seconds):
        raise Failed("jax sees no GPU")

    monkeypatch.setattr(gpu_check, "PARTS", {"machine": (none, 9), "tests": (none, 9)})
    assert run_parts(check, ["machine", "tests"], "command") == 1
    assert list(check.endings) == ["machine"]


def test_a_command_that_takes_too_long_is_ended(check):
    code, output = check.run([sys.executable, "-uc", "print('begun'); import time; time.sleep(60)"], 1.5)
    assert (code, output) == (None, "begun\n")
    assert "[None, " in (check.out / "log.txt").read_text()
