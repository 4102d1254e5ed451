import jax
import jax.numpy as jnp
import numpy as np

from ps_jax.losses import identity_directions, kl_divergence, mutual_information_bound

EMBEDDING = jnp.array([[2.0, 0.0], [0.0, 5.0], [-3.0, 0.0], [1.0, 1.0], [7.0, 7.0]])
IDENTITY = jnp.array([1, 1, 2, -1, 0])
VALID = jnp.array([True, True, True, True, False])


def test_a_person_is_the_direction_of_the_mean_of_unit_embeddings():
    rows, present = identity_directions(EMBEDDING, IDENTITY, VALID, 4)
    np.testing.assert_array_equal(present, [False, True, True, False])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(rows[1:3], [[half, half], [-1, 0]], atol=1e-6)


def test_embeddings_of_nobody_known_get_no_gradient():
    def total(embedding):
        rows, _ = identity_directions(embedding, IDENTITY, VALID, 4)
        return jnp.sum(rows * jnp.arange(8.0).reshape(4, 2))

    gradient = np.asarray(jax.grad(total)(EMBEDDING.at[4].set(0.0)))
    assert np.isfinite(gradient).all() and gradient[:2].any()
    np.testing.assert_array_equal(gradient[3:], 0)


def test_the_bound_of_two_pairs():
    joint, marginal = jnp.array([1.0, 3.0, 50.0]), jnp.array([0.0, np.log(3.0), 90.0])
    bound, slope = jax.value_and_grad(mutual_information_bound, argnums=(0, 1))(
        joint, marginal, jnp.array([True, True, False])
    )
    np.testing.assert_allclose(bound, 2 - np.log(2), rtol=1e-6)  # the mean of 1 and 3 is 2 here and there
    np.testing.assert_allclose(slope[0], [0.5, 0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(slope[1], [-0.25, -0.75, 0], rtol=1e-6)


def test_the_bound_of_one_pair_or_none_is_nothing():
    joint, marginal = jnp.array([1.0, 3.0]), jnp.array([0.0, 2.0])
    for valid in ([False, False], [True, False]):
        bound, slope = jax.value_and_grad(mutual_information_bound, argnums=(0, 1))(
            joint, marginal, jnp.array(valid)
        )
        assert bound == 0
        np.testing.assert_array_equal(np.stack(slope), 0)


def test_the_divergence_of_two_coins():
    first, second = jnp.log(jnp.array([[3.0, 1.0], [5.0, 5.0]])), jnp.array([[2.0, 2.0], [0.0, 0.0]])
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    np.testing.assert_allclose(kl_divergence(first, second), [expected, 0], rtol=1e-6, atol=1e-7)
    slope = jax.grad(lambda q: jnp.sum(kl_divergence(first, q)))(second)
    np.testing.assert_allclose(slope, [[0.5 - 0.75, 0.5 - 0.25], [0, 0]], atol=1e-6)  # q - p
    far = kl_divergence(jnp.array([[200.0, -200.0]]), jnp.array([[-200.0, 200.0]]))
    np.testing.assert_allclose(far, 400, rtol=1e-6)
