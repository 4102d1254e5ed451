"""Samplers: counts, fixed shapes, chance, and another order put in their place."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_recipe import golden_order, golden_perm

from ps_jax.boxes import random_order, sample_balanced, sample_indices

KEY = jax.random.key(0)


def mask_of(size, indices):
    mask = np.zeros(size, bool)
    mask[list(indices)] = True
    return jnp.asarray(mask)


def test_random_order_leaves_out_what_is_masked():
    mask = mask_of(100, range(0, 100, 3))
    order = np.asarray(random_order(KEY, mask))
    np.testing.assert_array_equal(np.isfinite(order), mask)
    assert len(np.unique(order[np.isfinite(order)])) == 34
    assert not np.array_equal(order, random_order(jax.random.key(1), mask))


@pytest.mark.parametrize("candidates", [0, 1, 3, 4, 9])
def test_sample_indices(candidates):
    allowed = [2, 3, 5, 7, 11, 13, 17, 18, 19][:candidates]
    index, valid = sample_indices(KEY, mask_of(20, allowed), 4)
    assert index.shape == valid.shape == (4,)
    chosen = np.asarray(index)[np.asarray(valid)]
    assert len(chosen) == min(4, candidates)
    assert set(chosen.tolist()) <= set(allowed)
    np.testing.assert_array_equal(chosen, np.unique(chosen))
    np.testing.assert_array_equal(np.asarray(index)[~np.asarray(valid)], 0)


def test_more_samples_than_entries():
    index, valid = sample_indices(KEY, mask_of(3, [0, 2]), 5)
    np.testing.assert_array_equal(index, [0, 2, 0, 0, 0])
    np.testing.assert_array_equal(valid, [True, True, False, False, False])


def test_every_candidate_is_chosen_equally_often():
    mask = mask_of(10, [1, 4, 6, 8])
    keys = jax.random.split(KEY, 4000)
    index, valid = jax.vmap(lambda key: sample_indices(key, mask, 2))(keys)
    assert bool(valid.all())
    counts = np.bincount(np.asarray(index).ravel(), minlength=10)
    np.testing.assert_allclose(counts[[1, 4, 6, 8]], 2000, atol=150)  # deviation of one count: 32
    assert counts.sum() == 8000


def test_fixed_permutation_in_place_of_chance():
    candidates = np.arange(3, 40, 2)
    index, _ = sample_indices(KEY, mask_of(50, candidates), 6, golden_order)
    np.testing.assert_array_equal(index, np.sort(candidates[golden_perm(len(candidates))[:6]]))


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [
        (10, 30, (4, 4)),  # enough of both
        (2, 30, (2, 6)),  # negatives fill up
        (10, 3, (4, 3)),  # positives do not
        (0, 30, (0, 8)),
        (0, 0, (0, 0)),
    ],
)
def test_balance(positives, negatives, expected):
    positive, negative = mask_of(60, range(positives)), mask_of(60, range(20, 20 + negatives))
    chosen_positive, chosen_negative = sample_balanced(KEY, positive, negative, 8, 0.5)
    assert (int(chosen_positive.sum()), int(chosen_negative.sum())) == expected
    assert not bool(jnp.any(chosen_positive & ~positive))
    assert not bool(jnp.any(chosen_negative & ~negative))


def test_share_of_positives_is_rounded_down():
    everything = jnp.ones(20, bool)
    positive, negative = sample_balanced(KEY, everything, everything, 7, 0.5)
    assert (int(positive.sum()), int(negative.sum())) == (3, 4)


def test_no_recompilation_when_counts_change():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def sample(key, positive, negative):
        return sample_balanced(key, positive, negative, 8, 0.25)

    for count in (0, 1, 5):
        positive, _ = sample(KEY, mask_of(30, range(count)), mask_of(30, range(10, 30)))
        assert int(positive.sum()) == min(count, 2)
