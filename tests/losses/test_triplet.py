import jax
import jax.numpy as jnp
import numpy as np

from ps_jax.losses import batch_hard_triplet_loss

ROWS = jnp.array([[0.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 2.5]])
IDENTITY = jnp.array([0, 0, 1, 1])


def _loss(rows, identity, valid, margin=0.3):
    return batch_hard_triplet_loss(rows, identity, rows, identity, valid, margin)


def test_the_furthest_alike_and_the_nearest_other_count():
    loss = _loss(ROWS, IDENTITY, jnp.ones(4, bool))
    expected = [0.3 + 3 - 1, 0.3 + 3 - np.sqrt(10), 0.3 + 1.5 - 1, 0.0]
    expected[3] = max(0.0, 0.3 + 1.5 - 2.5)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)


def test_without_anybody_else_there_is_no_loss_and_no_gradient_of_it():
    assert not np.any(_loss(ROWS, jnp.zeros(4, jnp.int32), jnp.ones(4, bool)))
    assert not np.any(_loss(ROWS, IDENTITY, IDENTITY == 0))
    same = jnp.ones((4, 2))
    gradient = jax.grad(lambda rows: jnp.sum(_loss(rows, IDENTITY, jnp.ones(4, bool))))(same)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(_loss(same, IDENTITY, jnp.ones(4, bool)), 0.3, rtol=1e-5)
