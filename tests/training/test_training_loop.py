import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_training
from toy_training import (
    FINETUNE_STEPS,
    PRETRAIN_STEPS,
    ToySource,
    ToySystem,
    leaves,
    toy_config,
    toy_evaluate,
    toy_phase,
)

from ps_jax.errors import CheckpointError, ConfigError, DataError, TrainingError
from ps_jax.training import load_variables, phases, provenance, train_and_evaluate
from ps_jax.training.checkpoints import Checkpoints
from ps_jax.training.metric_writers import read_records

ROOT = Path(__file__).resolve().parents[2]
STEPS = PRETRAIN_STEPS + FINETUNE_STEPS


def train(workdir, config=None, **changes):
    arguments = {"source": ToySource(), "build": ToySystem, "evaluate": toy_evaluate} | changes
    return train_and_evaluate(config or toy_config(), workdir, **arguments)


def changed(**changes):
    """The toy configuration with dotted keys changed: changed(**{"pretrain.batch_size": 8})."""
    config = toy_config()
    config.update_from_flattened_dict(changes)
    return config


def run(workdir, *arguments, **environment):
    return subprocess.run(
        [sys.executable, toy_training.__file__, str(workdir), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def numbers(workdir):
    """The metrics on record without the timing, by phase and step."""
    found = {}
    for record in read_records(workdir / "metrics.jsonl"):
        if "evaluation" not in record:
            key = (record.pop("phase"), record.pop("step"))
            assert key not in found, f"{key} is on record twice"
            record.pop("steps_per_second")
            found[key] = record
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run nobody disturbed: its work directory, and the leaves of its last state."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, leaves(train(workdir))


def assert_bits_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == b.tobytes()


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


def test_another_configuration_is_refused_by_its_keys(tmp_path):
    config = changed(**{"pretrain.epochs": 0.3, "finetune.epochs": 0.3})
    train(tmp_path, config)
    other = changed(
        **{
            "pretrain.epochs": 0.3,
            "finetune.epochs": 0.5,
            "seed": 3,
            "data.dir": "there",
            "pretrain.log_every": 2,
        }
    )
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(ConfigError) as error:
        train(tmp_path, other)
    message = str(error.value)
    assert "seed: 0 there, 3 here" in message and "finetune.epochs: 0.3 there, 0.5 here" in message
    assert "data.dir" not in message and "log_every" not in message
    assert "Choose another --workdir, or delete" in message
    assert (tmp_path / "config.json").read_text() == before


def test_a_directory_without_checkpoints_takes_another_configuration(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 9}')
    train(tmp_path, changed(**{"pretrain.epochs": 0.1, "finetune.epochs": 0.1}))
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    class Narrower(ToySource):
        def split(self, partition):
            split = super().split(partition)
            scene = split.scenes[0]
            return type(split)("toy", partition, (type(scene)("a", "a", 4, 4, scene.people[:3]),))

    short = changed(**{"pretrain.epochs": 0.3, "finetune.epochs": 0.3})
    train(tmp_path, short)
    with pytest.raises(CheckpointError, match=r"params/head/kernel: float32\[8, 5\] in the checkpoint"):
        train(tmp_path, short, source=Narrower())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrain.batch_size": 0}, "config.pretrain.batch_size is 0"),
        (
            {"pretrain.batch_size": 6, "pretrain.accumulate_steps": 4},
            r"config.pretrain.batch_size is 6.*in 4 micro-batches.*--config.pretrain.batch_size=8",
        ),
        ({"finetune.accumulate_steps": -1}, "config.finetune.accumulate_steps is -1; it must be at least 1"),
        (
            {"finetune.batch_size": 5, "finetune.views": 2},
            r"config.finetune.batch_size is 5.*groups of 2 views.*--config.finetune.batch_size=6",
        ),
        ({"phases": ("pretrain", "third")}, "names 'third', but there is no config.third"),
        ({"precision": "half"}, "config.precision is 'half'"),
    ],
)
def test_configurations_that_cannot_run(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, changed(**changes))


def test_a_batch_the_devices_cannot_share(tmp_path):
    result = run(tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=3")
    assert result.returncode == 1
    assert "config.pretrain.batch_size is 4, which 3 device(s) cannot share evenly" in result.stderr
    assert "--config.pretrain.batch_size=6" in result.stderr
    assert not (tmp_path / "config.json").exists()


def test_trunk_weights_start_the_first_phase_only(tmp_path, monkeypatch):
    import ps_jax.porting

    asked = []

    def load(path, trunk, template):
        asked.append((path, trunk))
        return jax.tree.map(lambda leaf: 0 * leaf + 0.25, template)

    monkeypatch.setattr(ps_jax.porting, "load_trunk_weights", load, raising=False)
    config = changed(**{"weights": "trunk.npz", "pretrain.epochs": 0.0, "finetune.epochs": 0.0})
    with config.unlocked():
        config.model.trunk = "toy"
    state = train(tmp_path, config, evaluate=lambda *_, provenance: {})
    assert asked == [("trunk.npz", "toy")]
    np.testing.assert_array_equal(state.params["backbone"]["kernel"], 0.25)


class _Frozen(ToySystem):
    """A toy whose trunk is not trained."""

    def trainable(self, params):
        return super().trainable(params) | {"backbone": {"kernel": False}}


def test_a_trunk_that_stays_random_is_told_of(tmp_path, caplog):
    config = changed(**{"phases": ("pretrain",), "pretrain.epochs": 0.0})
    options = {"evaluate": lambda *_, provenance: {}}
    train(tmp_path / "trained", config, **options)
    assert "stay random" not in caplog.text
    train(tmp_path / "frozen", config, build=_Frozen, **options)
    assert "pretrain: the trunk starts at random, and 1 of its 1 parameters are frozen" in caplog.text


def test_the_main_tells_the_user_in_one_message(tmp_path):
    config = tmp_path / "broken.py"
    config.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        "    return ConfigDict({'phases': ('pretrain',), 'seed': 0})\n"
    )
    command = [sys.executable, "train.py", "--config", str(config), "--workdir", str(tmp_path / "run")]

    def main(*arguments):
        return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)

    result = main()
    assert result.returncode == 2
    assert result.stderr == "train.py: config.phases names 'pretrain', but there is no config.pretrain\n"
    assert not (tmp_path / "run").exists()
    result = main("--config.sed=1")
    assert result.returncode == 2
    assert result.stderr.startswith("train.py: the configuration has no such option (--config.sed=1): 'sed'")
    assert 'Did you mean "seed"' in result.stderr


def test_missing_data_leave_no_work_directory(tmp_path):
    class Missing(ToySource):
        def split(self, partition):
            raise DataError("there is no such directory")

    with pytest.raises(DataError):
        train(tmp_path / "run", source=Missing())
    assert not (tmp_path / "run").exists()


def start_from(workdir, **changes):
    """The second phase alone, begun with what another work directory holds."""
    return changed(**{"phases": ("finetune",), "pretrained": str(workdir)} | changes)


def test_a_run_starts_from_what_another_one_trained(whole, tmp_path):
    train(tmp_path / "first", changed(phases=("pretrain",)))
    second = start_from(tmp_path / "first", **{"finetune.epochs": 0.0})
    state = train(tmp_path / "second", second, evaluate=lambda *_, provenance: {})
    pretrained, _ = load_variables(whole[0], "pretrain")  # both have trained the same phase
    for name, tree in pretrained["params"].items():
        jax.tree.map(np.testing.assert_array_equal, state.params[name], tree)
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, pretrained["batch_stats"])
    assert state.memory["seen"] == 0 and state.step == 0
    assert "extra" in state.params and "extra" not in pretrained["params"]


def test_where_a_run_started_from_is_kept_with_its_results(tmp_path):
    train(tmp_path / "first", changed(**{"phases": ("pretrain",), "pretrain.epochs": 0.4}))
    seen = []

    def evaluate(*arguments, provenance):
        seen.append(provenance)
        return {}

    config = changed(
        **{"pretrained": str(tmp_path / "first"), "pretrain.epochs": 0.3, "finetune.epochs": 0.3}
    )
    train(tmp_path / "second", config, evaluate=evaluate)
    origin = load_variables(tmp_path / "second", "finetune")[1]["pretrained"]  # handed on by the first phase
    made_by = load_variables(tmp_path / "first")[1]
    assert origin == load_variables(tmp_path / "second", "pretrain")[1]["pretrained"]
    assert origin == {
        "workdir": str(tmp_path / "first"),
        "phase": "pretrain",
        "checkpoint_step": 4,
        "config": provenance(made_by)["config"],
    }
    assert [entry["pretrained"] for entry in seen] == [
        f"{tmp_path / 'first'} pretrain 4 {origin['config']}",
    ]
    assert made_by["pretrained"] is None and "pretrained" not in provenance(made_by)


def test_a_started_run_goes_on_without_the_one_it_started_from(tmp_path):
    train(tmp_path / "first", changed(**{"phases": ("pretrain",), "pretrain.epochs": 0.3}))
    config = start_from(tmp_path / "first")
    expected = leaves(train(tmp_path / "expected", config))
    source = ToySource(lambda: os.kill(os.getpid(), signal.SIGTERM), PRETRAIN_STEPS + 5)
    with pytest.raises(SystemExit):
        train(tmp_path / "second", config, source=source)
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    assert_bits_equal(leaves(train(tmp_path / "second", config)), expected)
    meta = load_variables(tmp_path / "second")[1]
    assert meta["pretrained"]["workdir"] == str(tmp_path / "first")


def test_starts_that_are_not_possible(tmp_path):
    train(tmp_path / "first", changed(**{"phases": ("pretrain",), "pretrain.epochs": 0.1}))

    def fails(error, message, config):
        with pytest.raises(error, match=message):
            train(tmp_path / "second", config)

    fails(CheckpointError, "nowhere: there is no checkpoint of any phase", start_from(tmp_path / "nowhere"))
    both = start_from(tmp_path / "first", weights="trunk.npz")
    fails(ConfigError, r"config.pretrained \(.*first\) and config.weights \(trunk.npz\) both say", both)
    other = start_from(tmp_path / "first", system="other")
    fails(ConfigError, "first is the work directory of a toy, but config.system is other", other)
    assert not (tmp_path / "second").exists()
    wider = start_from(tmp_path / "first", **{"model.width": 9})
    fails(
        CheckpointError,
        r"(?s)config.pretrained \(.*first\): this is another model than that of phase finetune:.*"
        r"params/backbone/kernel: float32\[12, 8\] in the checkpoint, float32\[12, 9\] in the model",
        wider,
    )


def test_data_without_queries_are_trained_on_and_not_evaluated(tmp_path, caplog):
    config = changed(**{"phases": ("pretrain",), "pretrain.evaluate_every": 4})
    with caplog.at_level("INFO"):
        train(tmp_path, config, evaluate=None)
    assert load_variables(tmp_path)[1]["step"] == PRETRAIN_STEPS
    assert "toy test: no queries, so nothing is evaluated" in caplog.text
    assert not (tmp_path / "evaluation").exists() and not (tmp_path / "pretrain" / "best").exists()
    assert len(numbers(tmp_path)) == PRETRAIN_STEPS == len(read_records(tmp_path / "metrics.jsonl"))


class _Building(ToySystem):
    """A toy whose second phase builds on the `head` that the first one trains."""

    @property
    def trains(self):
        return () if self.module.extra else ("head",)

    def check_start(self, trained, people):
        if self.module.extra and trained.get("head") != people:
            raise ConfigError("nobody has trained the head")


def test_what_a_phase_builds_on_must_be_trained_and_on_the_same_people(tmp_path):
    train(tmp_path / "both", build=_Building)
    people = load_variables(tmp_path / "both")[1]["trained"]["head"]
    train(tmp_path / "first", changed(**{"phases": ("pretrain",), "pretrain.epochs": 0.1}), build=_Building)
    assert load_variables(tmp_path / "first")[1]["trained"] == {"head": people}
    with pytest.raises(ConfigError, match="nobody has trained the head"):
        train(tmp_path / "alone", changed(phases=("finetune",)), build=_Building)
    backwards = changed(phases=("pretrain", "finetune"), **{"pretrain.model": {"extra": True}})
    with pytest.raises(ConfigError, match="nobody has trained the head"):  # before the first phase trains
        train(tmp_path / "alone", backwards, build=_Building)
    assert not (tmp_path / "alone").exists()
    config = changed(phases=("finetune",), pretrained=str(tmp_path / "first"))
    train(tmp_path / "second", config, build=_Building)
    assert load_variables(tmp_path / "second")[1]["trained"] == {"head": people}

    class Others(ToySource):
        def split(self, partition):
            split = super().split(partition)
            return dataclasses.replace(split, scenes=(dataclasses.replace(split.scenes[0], name="b.jpg"),))

    with pytest.raises(ConfigError, match="nobody has trained the head"):
        train(tmp_path / "others", config, build=_Building, source=Others())


def gated(least):
    phase = toy_phase(model={"extra": True}, epochs=0.3, gates={"detection_ap": least})
    return toy_config(phases=("finetune",), finetune=phase)


def test_a_phase_that_begins_anew_is_judged_by_what_it_starts_from_now(tmp_path):
    def evaluate_as(ap):
        return lambda *arguments, provenance: {"detection": {"AP": ap}}

    config = gated(0.5)
    for ap in (0.4, 0.6, 0.3):
        shutil.rmtree(tmp_path / "finetune" / "checkpoints", ignore_errors=True)
        if ap > 0.5:
            train(tmp_path, config, evaluate=evaluate_as(ap))
            continue
        with pytest.raises(TrainingError, match=f"detection_ap is {ap:.3f}"):
            train(tmp_path, config, evaluate=evaluate_as(ap))


def test_gates_that_nothing_can_be_compared_with_are_told(tmp_path):
    with pytest.raises(ConfigError, match=r"finetune\.gates: toy test has no queries"):
        train(tmp_path / "run", gated(0.5), evaluate=None)
    assert not (tmp_path / "run").exists()
    train(tmp_path / "run", gated(0.0), evaluate=None)
