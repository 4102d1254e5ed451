"""Stochastic depth: whole rows, the right share of them, and nothing in evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.layers import StochasticDepth


def drop(rate, x, train=True, seed=0):
    return StochasticDepth(rate).apply({}, x, train, rngs={"stochastic_depth": jax.random.key(seed)})


def test_rows_are_dropped_whole_and_the_rest_scaled():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4000, 2, 3)), jnp.float32)
    result = np.asarray(drop(0.2, x))
    kept = np.any(result != 0.0, axis=(1, 2))
    np.testing.assert_allclose(result[kept], np.asarray(x)[kept] / 0.8, rtol=1e-6)
    np.testing.assert_array_equal(result[~kept], 0.0)
    # 4000 rows: standard deviation 0.0063 of the share.
    assert abs(kept.mean() - 0.8) < 0.02


def test_the_expectation_is_the_input():
    result = drop(0.5, jnp.ones((20000, 1)))
    assert abs(float(result.mean()) - 1.0) < 0.03


def test_rows_change_with_the_key():
    x = jnp.ones((64, 1))
    assert (np.asarray(drop(0.5, x, seed=1)) != np.asarray(drop(0.5, x, seed=2))).any()


@pytest.mark.parametrize("rate, train", [(0.0, True), (0.5, False)])
def test_without_rate_or_training_the_input_is_returned_without_a_key(rate, train):
    x = jnp.ones((8, 2))
    np.testing.assert_array_equal(StochasticDepth(rate).apply({}, x, train), x)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_that_is_no_chance_is_refused(rate):
    with pytest.raises(ValueError, match="rate is"):
        drop(rate, jnp.ones((2, 1)))
