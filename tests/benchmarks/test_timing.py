"""Timing in turns, and the work that is timed."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import workloads
from benchmarks.timing import Timing, compare, in_turns, median_ratio, summarise
from configs import spnet_qc


def test_clocks_run_in_turns_after_one_round_that_does_not_count():
    calls = []

    def clock(name, seconds):
        def run():
            calls.append(name)
            return next(seconds)

        return run

    seconds = in_turns({"a": clock("a", iter([9, 1, 2, 3])), "b": clock("b", iter([9, 2, 8, 3]))}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert seconds == {"a": [1, 2, 3], "b": [2, 8, 3]}
    assert summarise(seconds["b"]) == (3, 2, 8)
    assert median_ratio(seconds["b"], seconds["a"]) == 2.0  # of 2, 4, 1
    assert Timing(0.0123456, 0.01, 2.0).milliseconds == "12.3 (10 - 2e+03)"


def test_compare_calls_both_functions():
    first, second, ratio = compare(lambda x: x + 1, lambda x: x * 2, jnp.ones(3), rounds=2)
    assert first > 0 and second > 0 and ratio > 0


def test_filled_variables_keep_a_trunk_finite():
    maps = workloads.trunk_forward("mobilenet_v2", 64, 96, 1, "float32")()
    assert maps["c5"].shape[1:3] == (2, 3)
    for value in maps.values():
        assert 1e-3 < float(jnp.std(value)) < 1e3


@pytest.mark.slow
def test_detection_keeps_every_candidate():
    system = workloads.spnet("float32", trunk="mobilenet_v2", embedding_dim=16, reid_dim=16)
    found = workloads.detection(system, 64, 96)()
    assert found.valid.shape == (1, 300) and bool(found.valid.all())


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_training_step_trains_on_noise_with_people(phase):
    config = spnet_qc.get_config().unlock()
    config[phase].update(crop=96, batch_size=4)
    call = workloads.training_step(config, phase)
    first, second = call(), call()
    assert float(first["loss/bbox_regression1"]) > 0
    assert np.isfinite(float(second["loss/total"])) and float(second["gradient_norm"]) > 0


def test_views_of_a_scene_show_the_same_people():
    config = spnet_qc.get_config()
    batch = next(workloads.RandomSource(16).train_batches(config.pretrain, 0))
    assert batch.scenes.image.shape == (8, 160, 160, 3)
    np.testing.assert_array_equal(batch.people.person[0::2], batch.people.person[1::2])
    assert batch.people.valid.sum() == 8 * workloads.PEOPLE
    assert len(np.unique(batch.people.identity[batch.people.valid])) == 4 * workloads.PEOPLE
    assert (batch.people.box[batch.people.valid] <= 160).all()
