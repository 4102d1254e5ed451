"""Training in several processes, each a program of its own on this machine with one CPU device."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import one_step
import pytest
import toy_training
from flax import traverse_util
from toy_training import FINETUNE_STEPS, PRETRAIN_STEPS, toy_config

from ps_jax.training import load_variables
from ps_jax.training.metric_writers import read_records
from ps_jax.training.workdir import plain_config

ROOT = Path(__file__).resolve().parents[2]
PATHS = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "training", ROOT / "tests" / "systems")))
SHORT = {"pretrain.epochs": 0.5, "finetune.epochs": 0.6}


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(program, *arguments, devices=1):
    environment = {
        "PYTHONPATH": PATHS,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    return subprocess.Popen(
        [sys.executable, str(program), *map(str, arguments)],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@contextlib.contextmanager
def started(program, *arguments, own=((), ()), devices=1):
    """One process for each tuple of arguments of its `own`; none is left at the end."""
    place = f"localhost:{free_port()}"
    running = [
        start(
            *(program, *arguments, "--coordinator", place, "--processes", len(own), "--process", number),
            *extra,
            devices=devices,
        )
        for number, extra in enumerate(own)
    ]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def ended(running, timeout=300):
    """Exit codes and error outputs."""
    errors = [process.communicate(timeout=timeout)[1] for process in running]
    return [process.returncode for process in running], errors


def train(workdir, *arguments, change=None, own=((), ())):
    """Trains the toy in two processes to the end of both; exit codes and error outputs."""
    workdir.mkdir(exist_ok=True)
    change = json.dumps(change or {})
    with started(toy_training.__file__, workdir, "--change", change, *arguments, own=own) as running:
        return ended(running)


def final(workdir, process=0):
    with np.load(workdir / f"final{process}.npz") as arrays:
        return list(arrays.values())


def assert_bits_equal(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def numbers(workdir):
    return [
        {key: value for key, value in record.items() if key != "steps_per_second"}
        for record in read_records(workdir / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The work directory of two processes that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("pair")
    codes, errors = train(workdir)
    assert codes == [0, 0], errors
    return workdir


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The work directory of one process."""
    workdir = tmp_path_factory.mktemp("alone")
    codes, errors = ended([start(toy_training.__file__, workdir)])
    assert codes == [0], errors
    return workdir


def layouts(directory, system):
    """What single steps make of one batch: on one device, on two devices, and in each of two processes."""
    program = one_step.__file__
    for name, devices in (("one", 1), ("devices", 2)):
        codes, errors = ended([start(program, system, "--out", directory / f"{name}.npz", devices=devices)])
        assert codes == [0], errors
    own = [("--out", directory / f"process{number}.npz") for number in range(2)]
    with started(program, system, own=own) as running:
        codes, errors = ended(running)
        assert codes == [0, 0], errors
    results = {}
    for name in ("one", "devices", "process0", "process1"):
        with np.load(directory / f"{name}.npz") as arrays:
            results[name] = dict(arrays)
    return results


def part(result, case, name):
    """The arrays of one part of a case, by their names in it."""
    prefix = f"{case}/{name}/"
    found = {key.removeprefix(prefix): array for key, array in result.items() if key.startswith(prefix)}
    assert found
    return found


def assert_one_step_everywhere(results, case, tolerance):
    """A case is the same on one device, on two devices and in two processes, to a fraction of the largest value."""
    one = results["one"]
    gradient = part(one, case, "gradient")
    largest = max(np.abs(array).max() for array in gradient.values())
    for other in ("devices", "process0"):
        for name in ("gradient", "memory", "batch_stats", "metrics"):
            wanted, got = part(one, case, name), part(results[other], case, name)
            scale = max(np.abs(array).max(initial=0) for array in wanted.values())
            for key, array in wanted.items():
                np.testing.assert_allclose(got[key], array, rtol=0, atol=tolerance * scale, err_msg=key)
        # AdamW's first step is the learning rate with the sign of the gradient, also where that is rounding alone.
        for key, array in part(one, case, "params").items():
            counts = np.abs(gradient[key]) > 1e-4 * largest
            np.testing.assert_allclose(
                part(results[other], case, "params")[key][counts],
                array[counts],
                rtol=0,
                atol=1e-7,
                err_msg=key,
            )
    assert_bits_equal(results["process0"].values(), results["process1"].values())


@pytest.fixture(scope="module")
def toy_steps(tmp_path_factory):
    return layouts(tmp_path_factory.mktemp("steps"), "toy")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["whole", "accumulated"])
def test_one_step_does_not_depend_on_devices_and_processes(toy_steps, case):
    assert_one_step_everywhere(toy_steps, case, 1e-6)
    assert np.abs(part(toy_steps["one"], case, "gradient")["head/kernel"]).max() > 0.1


@pytest.mark.slow  # compiles SPNet four times
@pytest.mark.parametrize("mode", ["oc", "qc"])
def test_one_step_of_spnet_does_not_depend_on_devices_and_processes(tmp_path, mode):
    results = layouts(tmp_path, mode)
    assert_one_step_everywhere(results, "whole", 1e-5)
    assert part(results["one"], "whole", "metrics")["loss_reid"] > 0.1


@pytest.mark.slow
def test_statistics_of_each_device_are_averaged(toy_steps):
    options, *_ = one_step.TOY_CASES["per_device"]
    system, _, batch = one_step.toy(options)
    variables = one_step.start(system, batch)

    def loss(params, rows):
        share = jax.tree.map(lambda array: array[rows], batch)
        terms, changed = system.losses(
            variables | {"params": params}, share.scenes, share.people, jax.random.key(0)
        )
        return terms["classify"] + terms["pull"], changed["batch_stats"]

    halves = [jax.grad(loss, has_aux=True)(variables["params"], rows) for rows in (slice(0, 4), slice(4, 8))]
    gradient, statistics = jax.tree.map(lambda one, other: (one + other) / 2, *halves)
    for layout in ("devices", "process0"):
        for name, wanted in (("gradient", gradient), ("batch_stats", statistics)):
            wanted = traverse_util.flatten_dict(wanted, sep="/")
            for key, array in part(toy_steps[layout], "per_device", name).items():
                if key != "frozen":
                    np.testing.assert_allclose(array, wanted[key], rtol=1e-5, atol=1e-7, err_msg=key)
    # and this is not what synchronised statistics give
    whole = part(toy_steps["one"], "per_device", "gradient")["head/kernel"]
    assert np.abs(whole - gradient["head"]["kernel"]).max() > 1e-3


def test_a_run_in_two_processes_is_the_run_in_one(pair, alone):
    assert_bits_equal(final(pair, 0), final(pair, 1))
    # Sums over the batch are rounded in another order; Adam divides small gradients by their own size.
    for one, other in zip(final(alone), final(pair), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert len(numbers(pair)) == PRETRAIN_STEPS + FINETUNE_STEPS + 1  # each step once, and the evaluation
    for record, wanted in zip(numbers(pair), numbers(alone), strict=True):
        assert record.keys() == wanted.keys()
        assert (record["phase"], record["step"]) == (wanted["phase"], wanted["step"])
    assert sorted(path.name for path in (pair / "finetune" / "checkpoints").iterdir()) == ["3", "6", "9"]


@pytest.mark.slow  # starts two processes four times
def test_killed_and_stopped_two_processes_end_bit_for_bit_the_same(pair, tmp_path):
    workdir = tmp_path / "run"
    codes, errors = train(workdir, "--signal", "SIGKILL", "--at", 8)
    assert -signal.SIGKILL in codes and 0 not in codes, errors
    # The other one does not wait for ever.
    codes, errors = train(workdir, "--signal", "SIGKILL", own=((), ("--at", 12)))
    assert codes[1] == -signal.SIGKILL and codes[0] != 0, errors
    # Only the second one receives the signal; both save and leave after the same step.
    codes, errors = train(workdir, "--signal", "SIGTERM", own=((), ("--at", 15)))
    assert codes == [143, 143], errors
    steps = [error.split("stopped by SIGTERM after step ")[1].split(";")[0] for error in errors]
    assert steps[0] == steps[1]
    assert not any("Traceback" in error for error in errors)
    meta = load_variables(workdir)[1]
    assert steps[0] == f"{meta['step']} of finetune"
    codes, errors = train(workdir)
    assert codes == [0, 0], errors
    assert_bits_equal(final(workdir), final(pair))
    assert numbers(workdir) == numbers(pair)


@pytest.mark.slow  # compiles SPNet
@pytest.mark.parametrize("count", [1, 2])
def test_spnet_with_micro_batches_goes_on_bit_for_bit_after_a_kill(tmp_path, count):
    options = ("--tiny_spnet", "--change", json.dumps({"pretrain.accumulate_steps": 2}))

    def run(workdir, *arguments):
        workdir.mkdir(exist_ok=True)
        program = (toy_training.__file__, workdir, *options, *arguments)
        if count == 1:
            return ended([start(*program)])
        with started(*program) as running:
            return ended(running)

    codes, errors = run(tmp_path / "whole")
    assert codes == [0] * count, errors
    # By then the third checkpoint may be on its way; the second one waited until the first was on disk.
    codes, errors = run(tmp_path / "killed", "--signal", "SIGKILL", "--at", 11)
    assert -signal.SIGKILL in codes and 0 not in codes, errors
    assert load_variables(tmp_path / "killed")[1]["step"] in (3, 6, 9)
    codes, errors = run(tmp_path / "killed")
    assert codes == [0] * count, errors
    assert_bits_equal(final(tmp_path / "killed"), final(tmp_path / "whole"))
    assert [record.get("loss/reid", 1.0) > 0 for record in numbers(tmp_path / "whole")] == [True] * 13


def test_a_run_of_two_processes_goes_on_in_one(pair, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(pair, workdir)
    shutil.rmtree(workdir / "finetune")
    codes, errors = ended([start(toy_training.__file__, workdir)])
    assert codes == [0], errors
    for one, other in zip(final(workdir), final(pair), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_an_error_in_one_process_ends_both_with_its_message(tmp_path):
    began = time.monotonic()
    codes, errors = train(tmp_path, "--signal", "error", change=SHORT, own=((), ("--at", 3)))
    assert codes == [2, 2], errors
    for error in errors:
        assert "toy_training.py: process 1: s7.jpg: broken" in error
        assert "Traceback" not in error
    assert time.monotonic() - began < 100


def test_an_error_in_the_first_process_is_raised_in_both(tmp_path):
    (tmp_path / "pretrain" / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "config.json").write_text(json.dumps(plain_config(toy_config(seed=3))))
    codes, errors = train(tmp_path)
    assert codes == [2, 2], errors
    for error in errors:  # both raise it, and either may be the first to tell
        assert re.search("toy_training.py: process [01]: ", error) and "seed: 3 there, 0 here" in error
        assert "Traceback" not in error


@pytest.mark.slow  # has to wait
def test_a_signal_to_a_waiting_process_ends_the_evaluation(tmp_path):
    arguments = (tmp_path, "--change", json.dumps(SHORT), "--evaluation_seconds", 100)
    with started(toy_training.__file__, *arguments, own=((), ())) as running:
        marker = tmp_path / "evaluation" / "finetune-6" / "started"
        deadline = time.monotonic() + 100
        while not marker.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(3)  # the other one has waited for longer than it looks between two times
        assert [process.poll() for process in running] == [None, None]
        running[1].send_signal(signal.SIGTERM)
        codes, errors = ended(running, timeout=60)
    assert codes == [143, 143], errors
    assert load_variables(tmp_path)[1]["step"] == 6


def test_the_batch_is_shared_by_the_devices_of_all_processes(tmp_path):
    with started(toy_training.__file__, tmp_path, own=((), ()), devices=3) as running:
        codes, errors = ended(running)
    assert codes == [2, 2], errors
    for error in errors:
        assert "config.pretrain.batch_size is 4, which 6 device(s) cannot share evenly" in error
    assert not (tmp_path / "config.json").exists()


def test_processes_that_do_not_find_each_other_say_so(tmp_path):
    place = f"localhost:{free_port()}"
    arguments = ("--coordinator", place, "--processes", 2, "--process", 1, "--timeout", 3)
    codes, errors = ended([start(toy_training.__file__, tmp_path, *arguments)])
    assert codes == [2]
    assert errors[0].endswith(
        f"toy_training.py: process 1 of 2, coordinator {place}: the other processes were not found within 3 s. "
        "Start all 2 with the same coordinator_address, which process 0 opens and all can reach, and each with its "
        "own process_id.\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_processes=2"], "num_processes needs coordinator_address and process_id beside it"),
        (
            ["--num_processes=2", "--process_id=2", "--coordinator_address=localhost:9"],
            "process_id is 2; it must be one of 0 .. 1",
        ),
        (
            ["--num_processes=2", "--process_id=0", "--coordinator_address=localhost"],
            "coordinator_address is 'localhost'; it must be host:port of the first process",
        ),
    ],
)
def test_the_main_checks_its_options(tmp_path, options, message):
    config = ROOT / "configs" / "spnet_oc.py"
    codes, errors = ended(
        [start("train.py", f"--config={config}", f"--workdir={tmp_path / 'run'}", *options)]
    )
    assert codes == [2]
    assert errors[0].startswith(f"train.py: {message}")
    assert not (tmp_path / "run").exists()
