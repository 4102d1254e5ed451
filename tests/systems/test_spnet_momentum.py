"""SPNet's pre-training against a queue of momentum embeddings, on a tiny trunk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_spnet import OPTIONS, batch, tiny_trunk, two_views
from tiny_training import first_state, trainer

from ps_jax.errors import ConfigError
from ps_jax.systems import build_system, spnet
from ps_jax.training.checkpoints import Checkpoints

MOMENTUM = 0.75
QUEUE = {
    "reid_objective": "queue",
    "queue_size": 16,
    "oim_scale": 2.0,
    "encoder_momentum": MOMENTUM,
    "mode": "qc",
    "stochastic_depth": 0.5,
}
PARTS = {"backbone", "fpn", "box_embedder"}


@pytest.fixture(scope="module")
def pretraining():
    """(system, its first state, a function that trains it, batches)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spnet, "build_trunk", tiny_trunk)
        system = build_system("spnet", OPTIONS | QUEUE)
        batches = [two_views((3,), missing_in_second=number % 3) for number in range(4)]
        state = first_state(system, system.init(jax.random.key(0), *batches[0]))
        yield system, state, trainer(system), batches


def test_the_momentum_encoder_starts_as_a_copy_in_buffers_of_its_own(pretraining):
    _, state, _, _ = pretraining
    encoder = state.memory["momentum_encoder"]
    assert set(encoder["params"]) == PARTS
    for part in PARTS:
        for a, b in zip(
            jax.tree.leaves(state.params[part]), jax.tree.leaves(encoder["params"][part]), strict=True
        ):
            np.testing.assert_array_equal(a, b)
            assert a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer()
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state.memory)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), pretraining[0].template["memory"])


@pytest.mark.slow
def test_the_momentum_encoder_follows_the_parameters_of_the_step_before(pretraining):
    _, state, train, batches = pretraining
    first = train(state, batches[:1])
    second = train(first, batches[1:2])
    # The step that moved the parameters for the first time left the momentum encoder where it was.
    for part in PARTS:
        for start, trained, after_one, after_two in zip(
            *(
                jax.tree.leaves(tree[part])
                for tree in (
                    state.params,
                    first.params,
                    first.memory["momentum_encoder"]["params"],
                    second.memory["momentum_encoder"]["params"],
                )
            ),
            strict=True,
        ):
            np.testing.assert_allclose(after_one, start, rtol=1e-6)
            expected = MOMENTUM * np.asarray(start) + (1 - MOMENTUM) * np.asarray(trained)
            np.testing.assert_allclose(after_two, expected, rtol=1e-5, atol=1e-8)
    moved = first.params["box_embedder"]["projector"]["deep_linear"]["kernel"]
    assert np.abs(moved - state.params["box_embedder"]["projector"]["deep_linear"]["kernel"]).max() > 1e-3


@pytest.mark.slow
def test_the_momentum_encoder_measures_its_own_batch_statistics(pretraining):
    _, state, train, batches = pretraining
    trained = train(state, batches)
    student = trained.batch_stats["box_embedder"]["projector"]
    momentum = trained.memory["momentum_encoder"]["batch_stats"]["box_embedder"]["projector"]
    start = state.batch_stats["box_embedder"]["projector"]
    for norm in ("shallow_norm", "deep_norm"):
        for name in ("mean", "var"):
            ours, theirs, before = (np.asarray(tree[norm][name]) for tree in (momentum, student, start))
            assert np.abs(ours - before).max() > 1e-3 and np.abs(ours - theirs).max() > 1e-6


def test_everybody_gets_one_entry_unknown_people_too(pretraining):
    system, state, _, batches = pretraining
    scenes, people = batches[0]
    _, changed = jax.jit(system.losses)(state.variables, scenes, people, jax.random.key(1))
    memory = changed["memory"]
    written = np.asarray(memory["queue_age"]) > 0
    expected = np.unique(np.asarray(people.person)[np.asarray(people.valid)])
    np.testing.assert_array_equal(memory["queue_person"][written], expected)
    assert (np.asarray(people.identity)[np.asarray(people.valid)] < 0).any()
    assert memory["queue_header"] == len(expected) and "lookup_table" not in memory
    np.testing.assert_allclose(np.linalg.norm(memory["queue"][written], axis=1), 1.0, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["oc", "qc"])
def test_entries_are_the_means_of_what_an_equal_encoder_makes_of_the_same_boxes(tiny, mode):
    """Before the first step both encoders are equal, so without stochastic depth they embed alike."""
    system = tiny(**(QUEUE | {"mode": mode, "stochastic_depth": 0.0}))
    scenes, people = two_views((3,))
    variables = system.init(jax.random.key(0), scenes, people)

    @jax.jit
    def run(variables):
        return system.module.apply(
            variables,
            system.normalise(scenes),
            people,
            method="losses",
            rngs={"sampling": jax.random.key(1)},
            mutable=["batch_stats", "memory", "intermediates"],
        )[1]

    changed = run(variables)
    seen = {name: value[0] for name, value in changed["intermediates"].items()}
    predicted, annotated = seen["momentum_embeddings"]
    valid = np.asarray(people.valid)
    np.testing.assert_allclose(annotated[valid], seen["people_embedding"][valid], rtol=1e-4, atol=1e-5)
    kept = np.asarray(seen["reid_valid"])
    np.testing.assert_allclose(predicted[kept], seen["reid_embedding"][kept], rtol=1e-4, atol=1e-5)
    person_of_predicted = np.asarray(seen["reid_person"])[kept]
    embedding = np.concatenate([predicted[kept], annotated[valid]])
    person = np.concatenate([person_of_predicted, np.asarray(people.person)[valid]])
    for slot, someone in enumerate(np.unique(person)):
        mean = embedding[person == someone].mean(axis=0)
        np.testing.assert_allclose(
            changed["memory"]["queue"][slot], mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(pretraining, tmp_path):
    _, state, train, batches = pretraining
    whole = train(state, batches)
    half = train(state, batches[:2])
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(half, {})
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        restored, _ = checkpoints.restore(jax.eval_shape(lambda: state))
    resumed = train(jax.tree.map(jnp.asarray, restored), batches[2:])
    assert int(resumed.step) == 4
    jax.tree.map(np.testing.assert_array_equal, resumed.variables, whole.variables)


def test_new_trunk_weights_reach_the_momentum_encoder(pretraining):
    system, state, _, _ = pretraining
    trunk = {"params": jax.tree.map(lambda x: x + 1.0, state.params["backbone"]), "batch_stats": {}}
    changed = system.with_trunk(state.variables, trunk)
    momentum = changed["memory"]["momentum_encoder"]["params"]
    jax.tree.map(np.testing.assert_array_equal, momentum["backbone"], trunk["params"])
    jax.tree.map(
        np.testing.assert_array_equal, momentum["box_embedder"]["last_stage"], trunk["params"]["stage4"]
    )


@pytest.mark.slow
def test_fine_tuning_starts_from_the_trained_encoder_or_by_option_from_the_momentum_encoder(
    pretraining, tiny
):
    system, state, train, batches = pretraining
    pretrained = jax.device_get(train(state, batches).variables)
    momentum = pretrained["memory"]["momentum_encoder"]
    for by_option in (False, True):
        after = tiny(start_from_momentum_encoder=by_option)
        fresh = after.init(jax.random.key(1), *batches[0])
        result = after.transfer(pretrained, fresh, pretrained_by=system)
        assert jax.tree.structure(result) == jax.tree.structure(fresh)
        source = momentum if by_option else pretrained
        for part in PARTS:
            jax.tree.map(np.testing.assert_array_equal, result["params"][part], source["params"][part])
        jax.tree.map(np.testing.assert_array_equal, result["batch_stats"], source["batch_stats"])
        for part in ("anchor_embedder", "regression_head_0"):
            jax.tree.map(np.testing.assert_array_equal, result["params"][part], pretrained["params"][part])
        jax.tree.map(np.testing.assert_array_equal, result["memory"], fresh["memory"])


def test_a_second_phase_with_a_queue_starts_its_momentum_encoder_as_the_student(pretraining):
    system, state, train, batches = pretraining
    pretrained = jax.device_get(train(state, batches[:2]).variables)
    fresh = system.init(jax.random.key(1), *batches[0])
    result = system.transfer(pretrained, fresh, pretrained_by=system)
    momentum = result["memory"].pop("momentum_encoder")["params"]
    for part in PARTS:
        jax.tree.map(np.testing.assert_array_equal, momentum[part], pretrained["params"][part])
    assert not any(np.any(x) for x in result["memory"].values())


def test_contradictions_are_refused(tiny, pretraining):
    with pytest.raises(ConfigError, match="reid_objective is 'ntx'"):
        tiny(reid_objective="ntx").template  # noqa: B018
    small = tiny(**(QUEUE | {"queue_size": 15}))
    scenes, people = batch((2, 0, 3, 1))
    with pytest.raises(ConfigError, match="queue_size is 15, but a batch has slots for 16 people"):
        jax.eval_shape(small.losses, small.template, scenes, people, jax.random.key(0))
    after = tiny(start_from_momentum_encoder=True)
    variables = after.init(jax.random.key(0), *batch())
    with pytest.raises(ConfigError, match="the phase before has no momentum encoder"):
        after.transfer(variables, variables)
