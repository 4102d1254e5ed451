"""Whole runs: what they leave, how they are stopped and go on."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import toy_training
from toy_runs import ROOT, assert_bits_equal, changed, numbers, run, train
from toy_training import (
    FINETUNE_STEPS,
    PRETRAIN_STEPS,
    leaves,
    toy_config,
    toy_evaluate,
)

from ps_jax.errors import CheckpointError, TrainingError
from ps_jax.training import load_variables, phases
from ps_jax.training.checkpoints import Checkpoints
from ps_jax.training.metric_writers import read_records


def test_a_run_leaves_what_it_promises(whole):
    workdir, state = whole
    assert json.loads((workdir / "config.json").read_text())["phases"] == ["pretrain", "finetune"]
    recorded = list(numbers(workdir))
    assert recorded == [("pretrain", s + 1) for s in range(PRETRAIN_STEPS)] + [
        ("finetune", s + 1) for s in range(FINETUNE_STEPS)
    ]
    first = numbers(workdir)[("pretrain", 1)]
    assert first["learning_rate"] == pytest.approx(1e-5)
    assert first["loss/total"] == pytest.approx(first["loss/classify"] + first["loss/pull"])
    assert numbers(workdir)[("pretrain", 4)]["learning_rate"] == pytest.approx(1e-2)
    last = read_records(workdir / "metrics.jsonl")[-1]
    assert last["evaluation"] == {"search/default/mAP": 1 / (4 * FINETUNE_STEPS)}
    variables, meta = load_variables(workdir)
    assert (meta["phase"], meta["step"], meta["total_steps"]) == ("finetune", FINETUNE_STEPS, FINETUNE_STEPS)
    assert meta["model"] == {"width": 8, "extra": True, "num_identities": 5}
    params = jax.tree.leaves(variables["params"])
    assert_bits_equal(params, state[1 : 1 + len(params)])  # after the step, in the order of TrainState
    assert load_variables(workdir, "pretrain")[1]["step"] == PRETRAIN_STEPS


def test_a_finished_run_has_nothing_left_to_do(whole):
    workdir, state = whole
    before = (workdir / "metrics.jsonl").read_text()

    def no_batches(*arguments, provenance):
        raise AssertionError("it evaluates again")

    assert_bits_equal(leaves(train(workdir, evaluate=no_batches)), state)
    assert (workdir / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_killed_at_random_steps_it_ends_bit_for_bit_the_same(whole, tmp_path):
    rng = np.random.default_rng(2)
    # One kill falls on the boundary of the phases: the first is finished, the second has not begun.
    kills = sorted({PRETRAIN_STEPS, *(int(k) for k in rng.choice(np.arange(4, 20), 5, replace=False))})
    assert len(kills) >= 5
    for kill in kills:
        result = run(tmp_path, "--signal", "SIGKILL", "--at", str(kill))
        assert result.returncode == -signal.SIGKILL, result.stderr
    assert_bits_equal(leaves(train(tmp_path)), whole[1])
    assert numbers(tmp_path) == numbers(whole[0])


@pytest.mark.slow  # starts the program twenty times
def test_killed_twenty_times_in_and_between_saves_it_ends_bit_for_bit_the_same(tmp_path):
    change = {f"{phase}.checkpoint_every": 1 for phase in ("pretrain", "finetune")}
    change |= {"pretrain.epochs": 1.6, "finetune.epochs": 5.0}
    state = train(tmp_path / "whole", changed(**change))
    killed = tmp_path / "killed"
    killed.mkdir()

    def unfinished():
        return [*killed.glob("*/checkpoints/*.orbax-checkpoint-tmp")]

    rng = np.random.default_rng(5)
    inside = 0
    for kill in range(20):
        command = [sys.executable, toy_training.__file__, str(killed), "--change", json.dumps(change)]
        before = set(unfinished())
        with subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
        ) as process:
            # Wait until it saves, then for a part of a save, or for a part of several.
            while not set(unfinished()) - before and process.poll() is None:
                time.sleep(0.0005)
            time.sleep(rng.uniform(0, 0.01 if kill % 2 else 0.3))
            process.kill()
            assert process.wait() == -signal.SIGKILL, process.stderr.read()
        inside += bool(unfinished())
    assert inside >= 5  # these kills fell into a save
    assert load_variables(killed)[1]["phase"] == "finetune"
    assert_bits_equal(leaves(train(killed, changed(**change))), leaves(state))
    assert numbers(killed) == numbers(tmp_path / "whole")


@pytest.mark.parametrize(("name", "code", "at"), [("SIGTERM", 143, 7), ("SIGINT", 130, 16)])
def test_a_signal_saves_and_leaves(whole, tmp_path, name, code, at):
    result = run(tmp_path, "--signal", name, "--at", str(at))
    assert result.returncode == code, result.stderr
    assert f"{tmp_path}: stopped by {name} after step" in result.stderr
    assert "the same command goes on from there" in result.stderr
    assert "Traceback" not in result.stderr
    meta = load_variables(tmp_path)[1]
    before = PRETRAIN_STEPS if meta["phase"] == "finetune" else 0
    assert at - 4 <= before + meta["step"] <= at  # batches are made up to three steps ahead
    assert_bits_equal(leaves(train(tmp_path)), whole[1])
    assert numbers(tmp_path) == numbers(whole[0])


def test_two_devices_train_as_one_does(whole, tmp_path):
    result = run(tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "final0.npz") as final:
        two = list(final.values())
    # Sums over the batch are rounded in another order; Adam divides small gradients by their own size.
    for one, other in zip(whole[1], two, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    for key, record in numbers(whole[0]).items():
        assert numbers(tmp_path)[key] == pytest.approx(record, rel=1e-4), key


@pytest.mark.slow
def test_a_run_with_micro_batches_goes_on_bit_for_bit(tmp_path):
    change = {"pretrain.accumulate_steps": 2, "finetune.accumulate_steps": 4}
    state = train(tmp_path / "whole", changed(**change))
    assert int(state.step) == FINETUNE_STEPS  # optimiser steps
    (tmp_path / "killed").mkdir()
    for kill in (8, 17):
        result = run(
            *(tmp_path / "killed", "--signal", "SIGKILL", "--at", str(kill)),
            *("--change", json.dumps(change)),
        )
        assert result.returncode == -signal.SIGKILL, result.stderr
    assert_bits_equal(leaves(train(tmp_path / "killed", changed(**change))), leaves(state))
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_each_phase_compiles_its_step_once(tmp_path, monkeypatch):
    steps = []
    make = phases.make_train_step
    monkeypatch.setattr(phases, "make_train_step", lambda *a, **k: steps.append(make(*a, **k)) or steps[-1])
    train(tmp_path)
    train(tmp_path, changed(**{"eval.batch_size": 2}))
    assert [step.traces for step in steps] == [1, 1, 0]


def test_evaluations_pick_the_best(tmp_path):
    seen = []

    def evaluate(system, variables, source, config, out_dir, provenance):
        seen.append((out_dir.name, config["batch_size"]))
        assert system.module.axis_name is None
        assert provenance["checkpoint_step"] == int(out_dir.name.split("-")[1])
        return toy_evaluate(system, variables, source, config, out_dir, provenance)

    train(tmp_path, changed(**{"finetune.evaluate_every": 4}), evaluate=evaluate)
    assert seen == [("finetune-4", 1), ("finetune-8", 1), ("finetune-9", 1)]
    variables, meta = load_variables(tmp_path, which="best")
    assert meta["step"] == 4 and meta["mAP"] == 1 / 16
    assert variables["memory"]["seen"] == 16
    with pytest.raises(CheckpointError, match="no best checkpoint of phase 'pretrain'"):
        load_variables(tmp_path, "pretrain", "best")


def test_an_evaluation_that_was_cut_short_is_made_up_for(tmp_path):
    def interrupted(system, variables, source, config, out_dir, provenance):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the evaluation went on")

    with pytest.raises(SystemExit) as stop:
        train(tmp_path, evaluate=interrupted)
    assert stop.value.code == 143
    assert load_variables(tmp_path)[1]["step"] == FINETUNE_STEPS
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train(tmp_path)
    assert "evaluation" in read_records(tmp_path / "metrics.jsonl")[-1]


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(tmp_path):
    config = toy_config()
    with config.unlocked():
        config.finetune.model.fail_at = 4 * 8  # from the eighth step on
        config.finetune.log_every = 5
        config.finetune.checkpoint_every = 3
    with pytest.raises(TrainingError) as error:
        train(tmp_path, config)
    message = str(error.value)
    assert "finetune, step 8:" in message and "loss/pull is nan" in message
    assert "classify" not in message  # it is the first bad step, from which on everything is
    assert f"the last good checkpoint is {tmp_path / 'finetune' / 'checkpoints' / '6'}" in message
    with Checkpoints(tmp_path / "finetune" / "checkpoints") as checkpoints:
        assert checkpoints.steps == [3, 6]
