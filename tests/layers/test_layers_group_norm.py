import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.layers import GroupNorm


def test_each_group_of_channels_is_normalised_over_the_picture():
    x = np.random.default_rng(0).normal(3, 2, (2, 4, 5, 6)).astype(np.float32)
    norm = GroupNorm(groups=3)
    variables = norm.init(jax.random.key(0), jnp.asarray(x))
    grouped = x.reshape(2, 4, 5, 3, 2)
    mean, variance = (f(grouped, axis=(1, 2, 4), keepdims=True) for f in (np.mean, np.var))
    expected = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    np.testing.assert_allclose(norm.apply(variables, jnp.asarray(x)), expected, atol=1e-5)


def test_what_is_masked_does_not_count():
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)
    wide = np.pad(x, ((0, 0), (0, 3), (0, 2), (0, 0)), constant_values=100.0)
    mask = np.zeros((1, 7, 7), bool)
    mask[:, :4, :5] = True
    norm = GroupNorm(groups=2)
    variables = norm.init(jax.random.key(0), jnp.asarray(x))
    np.testing.assert_allclose(
        norm.apply(variables, jnp.asarray(wide), jnp.asarray(mask))[:, :4, :5],
        norm.apply(variables, jnp.asarray(x)),
        atol=1e-5,
    )


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="groups is 4, wanted a divisor of the 6 channels"):
        GroupNorm(groups=4).init(jax.random.key(0), jnp.zeros((1, 2, 2, 6)))
