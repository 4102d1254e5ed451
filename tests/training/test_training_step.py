import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_training import ToySystem, leaves, toy_batch

from input_pipeline import prefetch_to_devices
from ps_jax.training.state import TrainState
from ps_jax.training.step import AXIS_NAME, make_train_step, replicate

DEVICES = jax.local_devices()[:1]
COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: COMPILED.append(name) if "backend_compile" in name else None
)


def setup(learning_rate=0.1, micro_batches=1, **options):
    system = ToySystem("toy", {"num_identities": 5, "axis_name": AXIS_NAME} | options)
    batch = toy_batch(4, 0, 0)
    variables = ToySystem("toy", {"num_identities": 5} | options).init(
        jax.random.key(0), batch.scenes, batch.people
    )
    optimizer = optax.sgd(learning_rate)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        opt_state=optimizer.init(variables["params"]),
        rng=jax.random.key(1),
        **variables,
    )
    trainable = system.trainable(variables["params"])
    step = make_train_step(
        system, optimizer, lambda step: 0.1 * step, trainable, DEVICES, micro_batches=micro_batches
    )
    return system, step, state


def batches(count, rows=4, micro_batches=1):
    made = [toy_batch(rows, 0, step) for step in range(count)]
    return prefetch_to_devices(made, DEVICES, micro_batches=micro_batches)


def test_a_step_is_gradient_descent_on_the_sum_of_the_terms():
    _, step, state = setup()
    plain = ToySystem("toy", {"num_identities": 5})
    batch = toy_batch(4, 0, 0)

    def loss(params):
        rng = jax.random.fold_in(state.rng, 0)
        terms, _ = plain.losses(state.variables | {"params": params}, batch.scenes, batch.people, rng)
        return terms["classify"] + terms["pull"], terms

    gradients, terms = jax.grad(loss, has_aux=True)(state.params)
    with batches(1) as prefetched:
        new, metrics = step(replicate(state, DEVICES), next(prefetched))
    for name in ("backbone", "norm", "head"):
        for key, gradient in gradients[name].items():
            expected = state.params[name][key] - 0.1 * gradient
            np.testing.assert_allclose(new.params[name][key], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(new.params["frozen"], state.params["frozen"])
    gradients.pop("frozen")
    assert float(metrics["gradient_norm"]) == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-5)
    assert float(metrics["loss/classify"]) == pytest.approx(float(terms["classify"]), rel=1e-5)
    assert float(metrics["loss/total"]) == pytest.approx(float(sum(terms.values())), rel=1e-5)
    assert int(new.step) == 1
    assert int(new.memory["seen"]) == 4
    assert not np.allclose(new.batch_stats["norm"]["mean"], state.batch_stats["norm"]["mean"])


def test_micro_batches_of_mean_terms_are_the_whole_batch():
    """Without anything that ties rows together, accumulation is the same update."""
    results = []
    for micro_batches in (1, 2, 4):
        _, step, state = setup(1.0, micro_batches, norm=False, noise=0.0, pull=0.0)
        with batches(1, 8, micro_batches) as prefetched:
            new, metrics = step(replicate(state, DEVICES), next(prefetched))
        results.append((jax.device_get(new.params), {k: float(v) for k, v in metrics.items()}))
        assert int(new.step) == 1
    (params, metrics), *others = results
    assert np.abs(params["head"]["kernel"] - state.params["head"]["kernel"]).max() > 0.01
    for other_params, other_metrics in others:
        for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(other_params), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-7)
        assert other_metrics == pytest.approx(metrics, rel=1e-6)


def test_micro_batches_are_taken_in_order_at_the_same_parameters():
    """By hand: each has its own random key, and begins with the memory and statistics the one before has left."""
    _, step, state = setup(micro_batches=4)
    plain, batch = ToySystem("toy", {"num_identities": 5}), toy_batch(8, 0, 0)
    variables, gradients, losses = state.variables, [], []
    for number in range(4):
        rows = slice(2 * number, 2 * number + 2)
        share = jax.tree.map(lambda array, rows=rows: array[rows], batch)
        rng = jax.random.fold_in(jax.random.fold_in(state.rng, 0), number)

        def loss(params, variables=variables, share=share, rng=rng):
            terms, changed = plain.losses(variables | {"params": params}, share.scenes, share.people, rng)
            return terms["classify"] + terms["pull"], (terms, changed)

        gradient, (terms, changed) = jax.grad(loss, has_aux=True)(state.params)
        gradients.append(gradient)
        losses.append(float(terms["classify"]))
        variables = variables | changed
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 4, *gradients)
    mean.pop("frozen")
    with batches(1, 8, 4) as prefetched:
        new, metrics = step(replicate(state, DEVICES), next(prefetched))
    for name, tree in mean.items():
        for key, gradient in tree.items():
            expected = state.params[name][key] - 0.1 * gradient
            np.testing.assert_allclose(new.params[name][key], expected, rtol=1e-6, atol=1e-7)
    for collection in ("batch_stats", "memory"):
        wanted, got = jax.tree.leaves(variables[collection]), jax.tree.leaves(getattr(new, collection))
        for one, other in zip(wanted, got, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-7)
    assert int(new.memory["seen"]) == 8
    assert float(metrics["loss/classify"]) == pytest.approx(np.mean(losses), rel=1e-6)
    assert float(metrics["gradient_norm"]) == pytest.approx(float(optax.tree.norm(mean)), rel=1e-5)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_it_compiles_once_and_gives_the_old_state_away(micro_batches):
    _, step, state = setup(micro_batches=micro_batches)
    state = replicate(state, DEVICES)
    with batches(8, 4, micro_batches) as prefetched:
        for number, batch in enumerate(prefetched):
            if number == 1:
                COMPILED.clear()
            old, (state, metrics) = state, step(state, batch)
    assert int(state.step) == 8
    assert float(metrics["learning_rate"]) == pytest.approx(0.7)
    assert step.traces == 1
    assert COMPILED == []
    assert old.params["head"]["kernel"].is_deleted()


def test_another_shape_of_batch_is_counted():
    _, step, state = setup()
    state = replicate(state, DEVICES)
    for rows in (4, 8, 4):
        with batches(1, rows) as prefetched:
            state, _ = step(state, next(prefetched))
    assert step.traces == 2


def test_the_noise_of_a_step_depends_on_its_number_alone():
    _, step, state = setup(learning_rate=0.0)
    losses = []
    for start in (0, 0, 5):
        with batches(1) as prefetched:
            _, metrics = step(
                replicate(state.replace(step=jnp.asarray(start, jnp.int32)), DEVICES), next(prefetched)
            )
        losses.append(float(metrics["loss/total"]))
    assert losses[0] == losses[1] != losses[2]


def test_replicating_keeps_the_source_alive():
    _, step, state = setup()
    before = leaves(state)
    with batches(1) as prefetched:
        step(replicate(state, DEVICES), next(prefetched))
    for one, other in zip(before, leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_step_carries_a_signal_to_everybody():
    _, step, state = setup()
    state = replicate(state, DEVICES)
    heard = []
    with batches(3) as prefetched:
        for signal, batch in zip((0, 15, 0), prefetched, strict=True):
            state, _ = step(state, batch, signal)
            heard.append(int(step.heard))
    assert heard == [0, 15, 0] and step.traces == 1
