"""Focal, overlap and smooth absolute losses: values worked by hand and clean gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.losses import giou_loss, sigmoid_focal_loss, smooth_l1


def test_focal_loss_by_hand():
    logits, targets = jnp.asarray([0.0, 0.0, math.log(3)]), jnp.asarray([1.0, 0.0, 1.0])
    loss = sigmoid_focal_loss(logits, targets, 0.25, 2.0)
    expected = [0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2), 0.25 * 0.0625 * math.log(4 / 3)]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    unweighted = sigmoid_focal_loss(logits, targets, -1, 2.0)
    np.testing.assert_allclose(unweighted[:2], [0.25 * math.log(2)] * 2, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_loss_of_extreme_logits(gamma):
    logits = jnp.asarray([-200.0, 200.0, -200.0, 200.0])
    targets = jnp.asarray([1.0, 0.0, 0.0, 1.0])
    loss = sigmoid_focal_loss(logits, targets, -1, gamma)
    np.testing.assert_allclose(loss, [200.0, 200.0, 0.0, 0.0], rtol=1e-6)
    gradient = jax.grad(lambda logits: sigmoid_focal_loss(logits, targets, -1, gamma).sum())(logits)
    np.testing.assert_allclose(gradient, [-1.0, 1.0, 0.0, 0.0], atol=1e-6)


def test_giou_loss_by_hand():
    box = jnp.asarray([[0.0, 0.0, 10.0, 10.0]] * 3)
    other = jnp.asarray([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    np.testing.assert_allclose(giou_loss(box, other), [0.0, 2 / 3, 4 / 3], atol=1e-6)
    # Boxes that do not touch are drawn together all the same.
    gradient = jax.grad(lambda box: giou_loss(box, other).sum())(box)
    assert float(gradient[2, 2]) < 0


def test_giou_loss_of_padding_is_finite():
    zeros = jnp.zeros((1, 4))
    assert np.isfinite(giou_loss(zeros, zeros)).all()
    assert np.isfinite(jax.grad(lambda box: giou_loss(box, zeros).sum())(zeros)).all()


def test_smooth_l1_by_hand():
    x = jnp.asarray([0.0, 0.5, 1.0, -3.0])
    np.testing.assert_allclose(smooth_l1(x, jnp.zeros(4), 1.0), [0.0, 0.125, 0.5, 2.5])
    np.testing.assert_allclose(smooth_l1(x, jnp.zeros(4), 2.0), [0.0, 0.0625, 0.25, 2.0])
    np.testing.assert_allclose(smooth_l1(x, jnp.zeros(4), 0.0), [0.0, 0.5, 1.0, 3.0])
    gradient = jax.grad(lambda x: smooth_l1(x, jnp.zeros(4), 2.0).sum())(x)
    np.testing.assert_allclose(gradient, [0.0, 0.25, 0.5, -1.0])
    with pytest.raises(ValueError, match="beta is -1"):
        smooth_l1(x, x, -1)
