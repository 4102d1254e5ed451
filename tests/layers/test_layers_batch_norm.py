"""BatchNorm against a float64 computation, with masks and over two devices."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.layers import BatchNorm, LayerNorm

EPSILON, MOMENTUM = 1e-5, 0.1


def random_case(shape, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(3.0, 2.0, shape)
    channels = shape[-1]
    params = {"scale": rng.normal(1.0, 0.3, channels), "bias": rng.normal(0.0, 0.3, channels)}
    stats = {"mean": rng.normal(0.0, 1.0, channels), "var": rng.uniform(0.5, 2.0, channels)}
    return x, params, stats


def as_variables(params, stats):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), {"params": params, "batch_stats": stats})


def expected(x, params, stats, mask=None):
    """PyTorch's definition in float64: the result, the new running mean and variance."""
    rows = x.reshape(-1, x.shape[-1]) if mask is None else x[mask].reshape(-1, x.shape[-1])
    mean, var = rows.mean(0), rows.var(0)
    result = (x - mean) / np.sqrt(var + EPSILON) * params["scale"] + params["bias"]
    running_mean = (1 - MOMENTUM) * stats["mean"] + MOMENTUM * mean
    running_var = (1 - MOMENTUM) * stats["var"] + MOMENTUM * rows.var(0, ddof=1)
    return result, running_mean, running_var


def train(layer, x, params, stats, mask=None):
    mask = None if mask is None else jnp.asarray(mask)
    result, changed = layer.apply(
        as_variables(params, stats), jnp.asarray(x, jnp.float32), False, mask, mutable=["batch_stats"]
    )
    return np.asarray(result), changed["batch_stats"]


@pytest.mark.parametrize("shape", [(7, 3), (2, 5, 4, 3)])
def test_training_normalises_with_the_biased_and_stores_the_unbiased_variance(shape):
    x, params, stats = random_case(shape)
    result, changed = train(BatchNorm(), x, params, stats)
    want, running_mean, running_var = expected(x, params, stats)
    np.testing.assert_allclose(result, want, atol=2e-6)
    np.testing.assert_allclose(changed["mean"], running_mean, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(changed["var"], running_var, rtol=1e-6)


def test_evaluation_uses_the_running_statistics():
    x, params, stats = random_case((2, 5, 4, 3))
    result = BatchNorm(epsilon=1e-3).apply(as_variables(params, stats), jnp.asarray(x, jnp.float32), True)
    want = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-3) * params["scale"] + params["bias"]
    np.testing.assert_allclose(result, want, atol=2e-6)


def test_variance_survives_a_large_mean():
    x = np.random.default_rng(0).normal(1000.0, 1.0, (500, 2))
    _, changed = train(BatchNorm(affine=False, momentum=1.0), x, {}, {"mean": np.zeros(2), "var": np.ones(2)})
    np.testing.assert_allclose(changed["var"], np.float32(x).astype(float).var(0, ddof=1), rtol=1e-4)


@pytest.mark.parametrize("mask_axes", [1, 3])
def test_masked_rows_do_not_count(mask_axes):
    x, params, stats = random_case((6, 5, 4, 3))
    mask = np.random.default_rng(1).random(x.shape[:mask_axes]) < 0.6
    want, running_mean, running_var = expected(x, params, stats, mask)
    dirty = np.where(mask.reshape(mask.shape + (1,) * (4 - mask_axes)), x, np.nan)
    result, changed = train(BatchNorm(), dirty, params, stats, mask)
    np.testing.assert_allclose(result[mask], want[mask], atol=2e-6)
    assert np.isfinite(result).all()
    np.testing.assert_allclose(changed["mean"], running_mean, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(changed["var"], running_var, rtol=1e-6)


def test_masked_rows_pass_no_gradient_and_change_none():
    x, params, stats = random_case((6, 3))
    mask = jnp.asarray([True, False, True, True, False, True])
    weight = jnp.asarray(np.random.default_rng(2).normal(size=x.shape), jnp.float32)

    def objective(x, rows, weight, mask=None):
        result, _ = BatchNorm().apply(as_variables(params, stats), x, False, mask, mutable=["batch_stats"])
        return jnp.sum(result[rows] * weight[rows])

    x = jnp.asarray(x, jnp.float32)
    rows = np.flatnonzero(mask)
    masked = jax.grad(objective)(x, rows, weight, mask)
    alone = jax.grad(objective)(x[rows], np.arange(4), weight[rows])
    np.testing.assert_allclose(masked[rows], alone, atol=1e-6)
    assert np.abs(alone).max() > 1e-2
    np.testing.assert_array_equal(masked[np.asarray([1, 4])], 0.0)


@pytest.mark.parametrize("rows, valid", [(1, None), (4, 1), (4, 0)])
def test_fewer_than_two_rows_use_and_keep_the_running_statistics(rows, valid):
    x, params, stats = random_case((rows, 3))
    mask = None if valid is None else np.arange(rows) < valid
    result, changed = train(BatchNorm(single_row_uses_running=True), x, params, stats, mask)
    want = (x - stats["mean"]) / np.sqrt(stats["var"] + EPSILON) * params["scale"] + params["bias"]
    kept = slice(None) if mask is None else mask
    np.testing.assert_allclose(result[kept], want[kept], atol=2e-6)
    np.testing.assert_array_equal(changed["mean"], np.float32(stats["mean"]))
    np.testing.assert_array_equal(changed["var"], np.float32(stats["var"]))


def test_two_rows_are_normalised_as_a_batch():
    x, params, stats = random_case((2, 3))
    result, _ = train(BatchNorm(single_row_uses_running=True), x, params, stats)
    np.testing.assert_allclose(result, expected(x, params, stats)[0], atol=2e-6)


def test_an_empty_batch_leaves_the_statistics_alone():
    x, params, stats = random_case((4, 3))
    result, changed = train(BatchNorm(), x, params, stats, np.zeros(4, bool))
    assert np.isfinite(result).all()
    np.testing.assert_array_equal(changed["mean"], np.float32(stats["mean"]))
    np.testing.assert_array_equal(changed["var"], np.float32(stats["var"]))


def test_without_affine_there_are_no_parameters():
    variables = BatchNorm(affine=False).init(jax.random.key(0), jnp.zeros((2, 3)), True)
    assert set(variables) == {"batch_stats"}


def test_bfloat16_input_is_normalised_in_float32():
    x, params, stats = random_case((64, 3))
    rounded = jnp.asarray(x, jnp.bfloat16)
    result, changed = BatchNorm().apply(as_variables(params, stats), rounded, False, mutable=["batch_stats"])
    want, running_mean, _ = expected(np.asarray(rounded, np.float64), params, stats)
    assert result.dtype == jnp.bfloat16 and changed["batch_stats"]["mean"].dtype == jnp.float32
    np.testing.assert_array_equal(result, jnp.asarray(want, jnp.float32).astype(jnp.bfloat16))
    np.testing.assert_allclose(changed["batch_stats"]["mean"], running_mean, rtol=1e-6)


def test_a_mask_of_another_shape_is_refused():
    variables = BatchNorm().init(jax.random.key(0), jnp.zeros((4, 3)), True)
    with pytest.raises(ValueError, match=r"mask has shape \(3,\), wanted leading axes of \(4,\)"):
        BatchNorm().apply(variables, jnp.zeros((4, 3)), True, jnp.ones(3, bool))


_TWO_DEVICES = """
import json, jax, jax.numpy as jnp, numpy as np
from ps_jax.layers import BatchNorm, StochasticDepth

rng = np.random.default_rng(0)
x = jnp.asarray(rng.normal(3.0, 2.0, (2, 4, 5, 3)), jnp.float32)     # two devices, four images each
x = x.at[1].add(2.0)
weight = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
mask = jnp.asarray(rng.random((2, 4)) < [[0.9], [0.5]])
variables = {"params": {"scale": jnp.asarray([1.0, 2.0, 0.5]), "bias": jnp.asarray([0.0, 1.0, -1.0])},
             "batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}

def objective(params, x, weight, mask, axis_name):
    layer = BatchNorm(axis_name=axis_name)
    result, changed = layer.apply({**variables, "params": params}, x, False, mask, mutable=["batch_stats"])
    return jnp.sum(result * weight), (result, changed["batch_stats"])

def step(axis_name):
    def run(x, weight, mask):
        grads, aux = jax.grad(objective, argnums=(0, 1), has_aux=True)(
            variables["params"], x, weight, mask, axis_name)
        grad_params = jax.lax.psum(grads[0], axis_name) if axis_name else grads[0]
        return grad_params, grads[1], *aux
    return run

assert jax.device_count() == 2
worst = {}
for name, used in (("whole", jnp.ones_like(mask)), ("masked", mask)):
    many = jax.pmap(step("batch"), axis_name="batch")(x, weight, used)
    one = step(None)(*(a.reshape(-1, *a.shape[2:]) for a in (x, weight, used)))
    both = [jax.tree.map(lambda a: a[0], many[0]), many[1].reshape(-1, 5, 3), many[2].reshape(-1, 5, 3),
            jax.tree.map(lambda a: a[1], many[3])]
    for part, a, b in zip(("grad_params", "grad_x", "result", "stats"), both, one):
        worst[f"{name} {part}"] = max(
            float(jnp.abs(p - q).max() / jnp.abs(q).max())
            for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b)))

rows = jnp.ones((2, 64, 2))
key = jax.random.key(3)
drop = lambda rows, axis_name: StochasticDepth(0.5, axis_name).apply(
    {}, rows, True, rngs={"stochastic_depth": key})
many = jax.pmap(lambda rows: drop(rows, "batch"), axis_name="batch")(rows)
worst["stochastic depth"] = float(jnp.abs(many.reshape(128, 2) - drop(rows.reshape(128, 2), None)).max())
print(json.dumps(worst))
"""


def test_two_devices_equal_one():
    """Result, running statistics and gradients of a batch over two devices are those of one device."""
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    run = subprocess.run(
        [sys.executable, "-c", _TWO_DEVICES], env=env, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    worst = json.loads(run.stdout)
    assert len(worst) == 9
    for part, difference in worst.items():
        assert difference < 5e-6, (part, difference)
    assert worst["stochastic depth"] == 0.0


def test_layer_norm_is_the_float64_computation():
    rng = np.random.default_rng(0)
    x = rng.normal(5.0, 2.0, (2, 3, 16))
    params = {"scale": rng.normal(1.0, 0.3, 16), "bias": rng.normal(0.0, 0.3, 16)}
    want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    want = want * params["scale"] + params["bias"]
    variables = {"params": jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)}
    np.testing.assert_allclose(LayerNorm().apply(variables, jnp.asarray(x, jnp.float32)), want, atol=3e-6)
    # A variance of the order of epsilon, where its value matters.
    small = 1e-3 * np.resize([1.0, -1.0], (1, 16))
    want = small / np.sqrt(1e-6 + 1e-6) * params["scale"] + params["bias"]
    np.testing.assert_allclose(LayerNorm().apply(variables, jnp.asarray(small, jnp.float32)), want, atol=3e-6)
