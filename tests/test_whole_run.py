"""The commands of the README on a handful of tiny scenes: train, evaluate, evaluate without TensorFlow, resume."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ps_jax.training import load_variables

ROOT = Path(__file__).parents[1]
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
]
PHASES = [
    f"--config.{phase}.{field}"
    for phase in ("pretrain", "finetune")
    for field in ("crop=96", "batch_size=4", "log_every=1", "checkpoint_every=2")
]
# 12 batches of 2 scenes, and 6 of 4, are an epoch
LENGTH = ["--config.pretrain.epochs=0.25", "--config.finetune.epochs=0.5"]

WITHOUT_TENSORFLOW = """
import runpy, sys
from importlib.machinery import PathFinder
class WithoutTensorFlow(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] == "tensorflow"
        return None if hidden else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTensorFlow
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def command(program, *arguments, without_tensorflow=False):
    """The command line of a program of the top level, where wanted with TensorFlow hidden from it."""
    if not without_tensorflow:
        return [sys.executable, *program.split(), *map(str, arguments)]
    return [sys.executable, "-c", WITHOUT_TENSORFLOW, program, *arguments]


def run(*arguments, **options):
    finished = subprocess.run(
        command(*arguments, **options), cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished


def training(directory, length=LENGTH, config="configs/spnet_qc.py", phases=PHASES):
    data = directory / "streets"
    options = [f"--config.data.dir={data}", *SCENES, *phases, *length, "--config.eval.pictures=2"]
    return ["train.py", "--config", config, "--workdir", str(directory / "run"), *options]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory with streets/, and run/ of a finished two-phase training."""
    directory = tmp_path_factory.mktemp("whole_run")
    run(*training(directory))
    return directory


def numbers(results):
    """The parts of a results.json that must not depend on where the scenes were read from."""
    return {name: results[name] for name in ("search", "search_true_boxes", "detection")}


def check_training(workdir, steps):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "loss/total" in line]
    assert [(line["phase"], line["step"]) for line in trained] == steps
    assert all(np.isfinite(line["loss/total"]) for line in trained)
    (results,) = (workdir / "evaluation").glob("*/results.json")
    measured = json.loads(results.read_text())
    assert measured["versions"]["jax"] == jax.__version__
    assert 0.0 <= measured["detection"]["recall"] <= 1.0
    assert (results.parent / "index.html").stat().st_size > 1000


def test_one_phase_is_trained_and_evaluated(tmp_path):
    own = [option for option in PHASES if "finetune" in option]
    run(*training(tmp_path, ["--config.finetune.epochs=0.5"], "configs/spnet_oc.py", own))
    check_training(tmp_path / "run", [("finetune", step) for step in (1, 2, 3)])


@pytest.mark.slow
def test_both_phases_are_trained_and_the_last_one_evaluated(trained):
    check_training(
        trained / "run", [(phase, step) for phase in ("pretrain", "finetune") for step in (1, 2, 3)]
    )


@pytest.mark.slow
def test_arrays_without_tensorflow_give_the_same_numbers(trained):
    config = [argument for argument in training(trained)[1:] if "eval" not in argument]
    config = config[: config.index("--workdir")] + config[config.index("--workdir") + 2 :]
    run("-m input_pipeline.export_arrays", *config, "--out", trained / "arrays")
    with_tensorflow, without = trained / "with", trained / "without"
    work = ["--workdir", str(trained / "run"), "--galleries", "all"]
    run("eval.py", *work, "--out", str(with_tensorflow))
    arrays = ["--config.data.source=arrays", f"--config.data.dir={trained / 'arrays'}"]
    run("eval.py", *work, *arrays, "--out", str(without), without_tensorflow=True)
    first, second = (json.loads((out / "results.json").read_text()) for out in (with_tensorflow, without))
    assert numbers(first) == numbers(second)
    assert len(first["search"]) >= 2  # several gallery sizes, so the comparison is of something
    assert len(list((without / "pictures").glob("*.png"))) > 0


@pytest.mark.slow
def test_query_centric_evaluation_runs(trained):
    run("eval.py", "--workdir", str(trained / "run"), "--mode", "qc", "--out", str(trained / "qc"))
    measured = json.loads((trained / "qc" / "results.json").read_text())
    assert measured["settings"]["mode"] == "query-centric"
    assert 0.0 <= measured["detection"]["recall"] <= 1.0


@pytest.mark.slow
@pytest.mark.timeout(1800)  # five trainings
def test_a_killed_training_ends_as_if_it_had_not_been(tmp_path):
    """kill -9 at five random moments, the first one around the change of phase; bit for bit on CPU."""
    length = ["--config.pretrain.epochs=0.5", "--config.finetune.epochs=1.0"]  # 6 steps each
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    run(*training(whole, length))
    arguments = training(broken, length)
    metrics = broken / "run" / "metrics.jsonl"
    draw = random.Random(0)
    kills = [("pretrain", draw.randint(1, 5)), ("finetune", 0), *(("finetune", step) for step in (1, 3, 5))]
    for phase, step in kills:
        process = subprocess.Popen(
            command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not _reached(metrics, broken / "run", phase, step):
            time.sleep(0.02)
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(draw.random() * 0.3)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    run(*arguments)
    for phase in ("pretrain", "finetune"):
        expected, _ = load_variables(whole / "run", phase)
        found, meta = load_variables(broken / "run", phase)
        assert meta["step"] == 6
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def _reached(metrics, workdir, phase, step):
    if step == 0:
        return (workdir / phase).exists()
    if not metrics.exists():
        return False
    lines = [json.loads(line) for line in metrics.read_text().splitlines() if line.endswith("}")]
    return any((line["phase"], line["step"]) == (phase, step) for line in lines)
