"""LEAPS: which proposals are trained to be re-identified, and what they are charged, by hand."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.heads import ReidFeatures
from ps_jax.interface import People
from ps_jax.systems._leaps_matching import ReidSamples, match_samples
from ps_jax.systems._leaps_training import reid_losses

PERSON = jnp.array([[[0.0, 0.0, 10.0, 100.0], [50.0, 0.0, 60.0, 100.0], [0.0, 0.0, 10.0, 100.0]]])
VALID = jnp.array([[True, True, False]])
# Overlaps with the first person 1, 0.85, 0.65, 0.5; with the second 0.8 and 0.5; one with nobody.
HEIGHTS = [(0, 100), (0, 85), (0, 65), (0, 50), (50, 80), (50, 50), (80, 100)]
BOX = jnp.array([[[left, 0.0, left + 10.0, height] for left, height in HEIGHTS]], jnp.float32)


def _match(matched, matching="weighted"):
    return match_samples(BOX, PERSON, VALID, jnp.array([matched]), 0.7, matching)


def test_near_proposals_and_matched_ones_stand_for_a_person():
    samples = _match([2, 5, -1])
    # (overlap - 0.7) / 0.3 + 0.5; the matched one at 0.65 counts less, the one at 0.5 not at all.
    np.testing.assert_allclose(samples.weight[0], [1.5, 1.0, 1 / 3, 0, 2.5 / 3, 0, 0], atol=1e-5)
    np.testing.assert_array_equal(samples.person[0], [0, 0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(samples.best[0], [1, 0, 0, 0, 1, 0, 0])


def test_one_that_is_matched_with_one_person_and_near_another_stands_for_the_other():
    samples = _match([4, 0, -1])
    np.testing.assert_array_equal(samples.person[0, [0, 4]], [0, 1])
    np.testing.assert_allclose(samples.weight[0, [0, 4]], [1.5, 2.5 / 3], atol=1e-5)


def test_without_diverse_matching_the_matched_ones_count_alone_and_alike():
    samples = _match([3, 6, -1], "one_to_one")
    np.testing.assert_array_equal(samples.weight[0], [0, 0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(samples.person[0], [0, 0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(samples.best, samples.weight > 0)


def test_without_weights_near_and_matched_proposals_count_alike():
    samples = _match([2, 5, -1], "diverse")
    np.testing.assert_array_equal(samples.weight[0], [1, 1, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(samples.person[0], [0, 0, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(samples.best[0], [1, 0, 0, 0, 1, 0, 0])


def _model(**options):
    """What the losses look at of a model: two branches, tables of two known people, queues of two."""
    values = {
        "lookup_table": jnp.tile(jnp.eye(2), (2, 1, 1)),
        "queue": jnp.zeros((2, 2, 2)),
        "queue_header": jnp.zeros((), jnp.int32),
    }
    return SimpleNamespace(
        **{name: SimpleNamespace(value=value) for name, value in values.items()},
        **{
            "axis_name": None,
            "branches": ("plain", "interaction"),
            "reid_weight": 2.0,
            "diversity_weight": 1.0,
            "triplet": False,
            "triplet_margin": 0.3,
            "focal_gamma": 0.0,
            "oim_scale": 1.0,
            "queue_scale": 1.0,
            "oim_momentum": 0.5,
            "is_initializing": lambda: False,
        }
        | options,
    )


def _case(second_identity):
    """Three proposals: of known person 0, of the second person, of nobody."""
    embedding = jnp.array([[[[3.0, 0], [0, 5]], [[0.6, 0.8], [0.6, 0.8]], [[9, 9], [9, 9]]]])
    hidden = jnp.array([[[[3.0, 4], [4, 3]], [[1, 0], [0, 1]], [[1, 0], [1, 0]]]])
    samples = ReidSamples(
        jnp.array([[0, 1, 0]]), jnp.array([[1.5, 0.5, 0.0]]), jnp.array([[True, True, False]])
    )
    identity = jnp.array([[0, second_identity]])
    people = People(jnp.zeros((1, 2, 4)), identity, identity, jnp.ones((1, 2), bool))
    return ReidFeatures(embedding, hidden), samples, people


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_losses_and_memory_by_hand(gamma):
    model = _model(focal_gamma=gamma)
    features, samples, people = _case(-1)
    terms = reid_losses(model, [features], [samples], people)
    # Cosines of the known person's rows with table and queue: (1, 0, 0, 0) and (0, 1, 0, 0).
    entropy = np.log(np.e + 3) - np.array([1.0, 0.0])
    entropy = entropy * (1 - np.exp(-entropy)) ** gamma
    np.testing.assert_allclose(terms["reid"], 2 * 1.5 * entropy.sum() / 2, rtol=1e-5)
    np.testing.assert_allclose(terms["diversity"], 2 * (0.96 + 0) / 2, rtol=1e-5)
    assert set(terms) == {"reid", "diversity"}
    np.testing.assert_allclose(model.lookup_table.value[:, 0], [[1, 0], [0.5, 0.5]], atol=1e-6)
    np.testing.assert_array_equal(model.lookup_table.value[:, 1], [[0, 1], [0, 1]])
    np.testing.assert_allclose(model.queue.value[:, 0], [[0.6, 0.8]] * 2, rtol=1e-6)
    assert model.queue_header.value == 1 and not np.any(model.queue.value[:, 1])


def test_of_an_unknown_person_only_the_best_proposal_goes_into_the_queue_of_each_stage():
    model = _model()
    features, samples, people = _case(-1)
    both = samples._replace(person=jnp.array([[1, 1, 0]]), best=jnp.array([[True, False, False]]))
    reid_losses(model, [features, features], [both, samples], people)
    np.testing.assert_allclose(model.queue.value[0], [[1, 0], [0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(model.queue.value[1], [[0, 1], [0.6, 0.8]], rtol=1e-6)
    assert model.queue_header.value == 0


def test_the_triplet_part_is_weighted_too():
    """Of four anchors, the two known people and their table rows, one is charged: 0.3 + |p1 - t1| - |p1 - p0|."""
    features, samples, people = _case(1)
    same = features._replace(embedding=features.embedding[:, :, [0, 0]])
    terms = reid_losses(_model(triplet=True), [same], [samples], people)
    charged = 0.3 + np.hypot(0.6, 0.2) - np.hypot(0.4, 0.8)
    np.testing.assert_allclose(terms["triplet"], 2 * 2 * 0.5 * charged / 4, rtol=1e-4)


def test_diversity_without_weight_is_left_out():
    features, samples, people = _case(-1)
    assert set(reid_losses(_model(diversity_weight=0.0), [features], [samples], people)) == {"reid"}
