import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.losses import distillation_loss, released_distillation_loss


def _softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.fixture
def logits():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 3, 7)) * 3.0


def test_divergence_is_that_of_the_softened_distributions_times_the_squared_temperature(logits):
    student, teacher = logits
    p, q = _softmax(teacher / 2), _softmax(student / 2)
    expected = 4 * np.sum(p * np.log(p / q), axis=1)
    found = distillation_loss(jnp.asarray(student), jnp.asarray(teacher), 2.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_divergence_of_equal_logits_is_zero_and_flat(logits):
    student = jnp.asarray(logits[0])
    value, gradient = jax.value_and_grad(lambda x: distillation_loss(x, student, 2.0).sum())(student)
    assert abs(value) < 1e-6 and np.abs(gradient).max() < 1e-6


def test_released_form_is_the_cross_entropy_of_log_probabilities_as_logits(logits):
    student, teacher = logits
    target, logit = _softmax(teacher / 2), np.log(_softmax(student / 2))
    given = 1 / (1 + np.exp(-logit))
    expected = -np.mean(target * np.log(given) + (1 - target) * np.log(1 - given), axis=1)
    found = released_distillation_loss(jnp.asarray(student), jnp.asarray(teacher), 2.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [distillation_loss, released_distillation_loss])
def test_the_teacher_gets_no_gradient(logits, loss):
    student, teacher = map(jnp.asarray, logits)
    gradient = jax.grad(lambda teacher: loss(student, teacher, 2.0).sum())(teacher)
    assert not np.any(gradient)
