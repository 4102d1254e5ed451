import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ps_jax.heads import NormLogit, chi_moments, fixed_norm_logit, offset_norm


@pytest.mark.parametrize("dimension", [1, 2, 8, 128, 341, 2048, 100_000])
def test_chi_moments_are_those_of_the_distribution(dimension):
    mean, deviation = chi_moments(dimension)
    rows = np.random.default_rng(0).standard_normal((200, dimension))
    assert abs(np.linalg.norm(rows, axis=1).mean() - mean) < 5 * deviation / np.sqrt(200)
    np.testing.assert_allclose(mean, stats.chi(dimension).mean(), rtol=1e-9)
    np.testing.assert_allclose(mean**2 + deviation**2, dimension, rtol=1e-12)


def test_constants_of_the_paper_sizes():
    np.testing.assert_allclose(chi_moments(128), (11.29163, 0.70641), atol=5e-6)
    np.testing.assert_allclose(chi_moments(2048), (45.24931, 0.70706), atol=5e-6)
    with pytest.raises(ValueError, match="dimension is 0"):
        chi_moments(0)


def test_logit_is_zero_at_the_mean_and_falls_with_the_norm():
    mean, deviation = chi_moments(128)
    logits = fixed_norm_logit(jnp.asarray([mean, mean + deviation, 0.0]), 128)
    np.testing.assert_allclose(logits, [0.0, -1.0, mean / deviation], atol=1e-5)


def test_norm_of_a_zero_offset_has_a_finite_gradient():
    offsets = jnp.asarray([[0.0, 0.0], [3.0, 4.0]])
    norms, gradient = offset_norm(offsets), jax.grad(lambda o: offset_norm(o).sum())(offsets)
    np.testing.assert_allclose(norms, [0.0, 5.0])
    np.testing.assert_allclose(gradient, [[0.0, 0.0], [0.6, 0.8]], rtol=1e-6)


def test_norm_of_bfloat16_is_accumulated_in_float32():
    offsets = jnp.full((1, 4096), 1.0, jnp.bfloat16)
    assert offset_norm(offsets).dtype == jnp.float32
    np.testing.assert_allclose(offset_norm(offsets), [64.0])


def test_norm_logit_without_and_with_the_fixed_scale():
    norm, valid = jnp.asarray([[1.0, 5.0, 12.0]]), jnp.ones((1, 3), bool)
    for scale, falling in (("none", -norm), ("fixed", fixed_norm_logit(norm, 128))):
        for positive in (False, True):
            module = NormLogit(128, scale, positive)
            logits, variables = module.init_with_output(jax.random.key(0), norm, valid, True)
            assert not variables  # nothing to train, nothing in a checkpoint
            np.testing.assert_array_equal(logits, -falling if positive else falling)


def test_norm_logit_normalised_over_the_lengths_that_exist():
    norm = jnp.asarray([[1.0, 3.0], [7.0, 1.0], [99.0, 99.0]])
    valid = jnp.asarray([True, True, False])  # rows
    module = NormLogit(128, "batch")
    variables = module.init(jax.random.key(0), norm, valid, True)
    variables["params"]["norm"] = {"scale": jnp.asarray([2.0]), "bias": jnp.asarray([0.5])}
    logits, changed = module.apply(variables, norm, valid, True, mutable=["batch_stats"])
    mean, variance = 3.0, 6.0  # of 1, 3, 7, 1
    expected = -(2.0 * (np.asarray(norm[:2]) - mean) / np.sqrt(variance + 1e-5) + 0.5)
    np.testing.assert_allclose(logits[:2], expected, rtol=1e-6)
    np.testing.assert_allclose(changed["batch_stats"]["norm"]["mean"], [0.3], rtol=1e-6)
    np.testing.assert_allclose(changed["batch_stats"]["norm"]["var"], [0.9 + 0.8], rtol=1e-6)  # unbiased: 8
    evaluated = module.apply(variables, norm, valid, False)  # running mean 0 and variance 1
    expected = -(2.0 * norm / np.sqrt(1 + 1e-5) + 0.5)
    np.testing.assert_allclose(evaluated[:2], expected[:2], rtol=1e-6)
    one = jnp.asarray([[True, False], [False, False], [False, False]])
    single = module.apply(variables, norm, one, True, mutable=["batch_stats"])[0]
    np.testing.assert_allclose(single[0, 0], evaluated[0, 0], rtol=1e-6)
