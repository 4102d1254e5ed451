"""Matching and losses of sets, by hand; the golden file of Sparse R-CNN's head has the release's numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from ps_jax.losses import SetWeights, match_predictions, set_losses

SIZE = jnp.array([[100, 200]])  # height, width
PERSON = jnp.array([[[0.0, 0.0, 20.0, 40.0], [100.0, 50.0, 140.0, 100.0]]])
BOX = jnp.array([[[0.0, 0.0, 20.0, 20.0], [100.0, 50.0, 140.0, 100.0], [0.0, 0.0, 20.0, 40.0]]])
LOGIT = jnp.array([[2.0, 0.0, -2.0]])


def _match(person, valid, weights=None, logit=LOGIT):
    return match_predictions(logit, BOX, person, valid, SIZE, weights or SetWeights())


def test_place_and_probability_decide_who_stands_for_a_person():
    both = jnp.ones((1, 2), bool)
    # The first costs the first person -2.47 + 1 - 1, the third 0.82 + 0 - 2.
    np.testing.assert_array_equal(_match(PERSON, both), [[0, 1]])
    np.testing.assert_array_equal(_match(PERSON, both, logit=0.1 * LOGIT), [[2, 1]])
    # Only by probability each wants the first; the second person is as well off with the next likely.
    likely = _match(PERSON, both, SetWeights(l1=0.0, giou=0.0))
    np.testing.assert_array_equal(np.sort(likely), [[0, 1]])
    np.testing.assert_array_equal(_match(PERSON, jnp.array([[False, True]])), [[-1, 1]])


def test_losses_by_hand():
    losses = set_losses(LOGIT, BOX, PERSON, jnp.array([[0, 1]]), SIZE)
    # The first box is half as high as the person: 20 of 100 pixels; its overlap is 1 / 2, the hull the person's box.
    np.testing.assert_allclose([losses.l1, losses.giou], [0.2, 0.5], rtol=1e-5)
    probability = 1 / (1 + np.exp(-np.array([2.0, 0.0, -2.0])))
    expected = -0.25 * (1 - probability[:2]) ** 2 * np.log(probability[:2])
    background = -0.75 * probability[2] ** 2 * np.log(1 - probability[2])
    np.testing.assert_allclose(losses.classification, expected.sum() + background, rtol=1e-5)


def test_padding_changes_nothing_and_has_finite_gradients():
    matched = jnp.array([[-1, 1]])

    def total(box, person):
        return sum(set_losses(LOGIT, box, person, matched, SIZE))

    padded = PERSON.at[0, 0].set(0.0)
    for person in (PERSON, padded):
        np.testing.assert_allclose(total(BOX, person), total(BOX, PERSON))
    gradient = jax.grad(total)(BOX, padded)
    assert np.isfinite(gradient).all() and not np.any(gradient[0, [0, 2]])
    nobody = set_losses(LOGIT, BOX, PERSON, jnp.array([[-1, -1]]), SIZE)
    assert nobody.l1 == nobody.giou == 0 and nobody.classification > 0
