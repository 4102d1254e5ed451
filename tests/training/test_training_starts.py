"""What a run or a phase starts from: trunk weights, other runs, what it builds on, and gates."""

import dataclasses
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from toy_runs import assert_bits_equal, changed, numbers, train
from toy_training import (
    PRETRAIN_STEPS,
    ToySource,
    ToySystem,
    leaves,
    toy_config,
    toy_phase,
)

from ps_jax.errors import CheckpointError, ConfigError, TrainingError
from ps_jax.training import load_variables, provenance
from ps_jax.training.metric_writers import read_records


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
