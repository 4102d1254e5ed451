"""Proxy triplet loss: first in, first out also within a batch, empty slots, hardest mining against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.losses import ProxyTable, empty_proxies, proxy_triplet_loss, write_proxies

MARGIN = 0.5


def _unit(rng, *shape):
    rows = rng.normal(size=shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def _written_one_by_one(table, feature, identity, valid):
    rows, count = np.array(table.feature), np.array(table.written)
    for x, who, exists in zip(feature, identity, valid, strict=True):
        if exists:
            rows[who, count[who] % rows.shape[1]] = x
            count[who] += 1
    return rows, count


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_batch_is_written_as_if_row_after_row(slots):
    rng = np.random.default_rng(slots)
    table = empty_proxies(5, slots, 4)
    write = jax.jit(write_proxies)
    for _ in range(4):
        feature = _unit(rng, 9, 4)
        identity, valid = rng.integers(0, 3, 9), rng.random(9) < 0.8  # up to nine rows of one person
        expected = _written_one_by_one(table, feature, identity, valid)
        table = write(table, *map(jnp.asarray, (feature, identity, valid)))
        np.testing.assert_array_equal(table.feature, expected[0])
        np.testing.assert_array_equal(table.written, expected[1])
    assert table.written[3] == table.written[4] == 0 and not np.any(table.feature[3:])


def test_the_oldest_of_two_goes():
    table = empty_proxies(1, 2, 2)
    first, second, third = np.eye(3, 2, dtype=np.float32) + np.float32(0.25)
    for row in (first, second, third):
        table = write_proxies(table, jnp.asarray(row[None]), jnp.zeros(1, jnp.int32), jnp.ones(1, bool))
    np.testing.assert_array_equal(table.feature[0], [third, second])


def _brute_force(feature, identity, table, mask_empty):
    losses, complete = [], []
    for x, who in zip(feature, identity, strict=True):
        own, other = [], []
        for person, rows in enumerate(np.asarray(table.feature, np.float64)):
            for slot, row in enumerate(rows):
                if slot < table.written[person] or not mask_empty:
                    (own if person == who else other).append(np.sum((x.astype(np.float64) - row) ** 2))
        complete.append(bool(own and other))
        losses.append(max(0.0, MARGIN + max(own) - min(other)) if complete[-1] else 0.0)
    return losses, complete


@pytest.mark.parametrize("mask_empty", [True, False])
def test_hardest_proxies_are_those_of_a_plain_loop(mask_empty):
    rng = np.random.default_rng(0)
    table = empty_proxies(6, 2, 8)
    rows = (
        _unit(rng, 7, 8),
        np.array([0, 0, 0, 1, 2, 2, 4]),
        np.ones(7, bool),
    )  # 3 and 5 never seen, 1 and 4 once
    table = write_proxies(table, *map(jnp.asarray, rows))
    feature, identity = _unit(rng, 12, 8), np.arange(12) % 6
    loss, complete = proxy_triplet_loss(
        jnp.asarray(feature), jnp.asarray(identity), table, MARGIN, mask_empty
    )
    expected, exists = _brute_force(feature, identity, table, mask_empty)
    np.testing.assert_allclose(loss, expected, atol=2e-6)
    np.testing.assert_array_equal(complete, exists)
    assert np.any(np.asarray(loss) > 0) and (mask_empty or np.all(complete))


def test_unmasked_zeros_are_at_distance_one_of_every_unit_feature():
    rng = np.random.default_rng(1)
    feature = jnp.asarray(_unit(rng, 3, 8))
    loss, complete = proxy_triplet_loss(
        feature, jnp.arange(3), empty_proxies(3, 2, 8), MARGIN, mask_empty=False
    )
    np.testing.assert_allclose(loss, MARGIN, atol=1e-6)
    assert np.all(complete)
    loss, complete = proxy_triplet_loss(feature, jnp.arange(3), empty_proxies(3, 2, 8), MARGIN)
    assert not np.any(loss) and not np.any(complete)


def test_gradient_is_that_of_differences_in_float64():
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        stored = jnp.asarray(_unit(rng, 4, 2, 6), jnp.float64)
        table = ProxyTable(stored, jnp.array([2, 1, 2, 0], jnp.int32))
        feature, identity = jnp.asarray(_unit(rng, 3, 6), jnp.float64), jnp.array([0, 1, 3])

        def total(feature):
            return jnp.sum(proxy_triplet_loss(feature, identity, table, MARGIN)[0])

        gradient = np.asarray(jax.grad(total)(feature))
        for place in np.ndindex(feature.shape):
            step = np.zeros(feature.shape)
            step[place] = 1e-6
            difference = (total(feature + step) - total(feature - step)) / 2e-6
            np.testing.assert_allclose(gradient[place], difference, atol=1e-7)
        assert np.all(np.isfinite(gradient)) and not np.any(gradient[2])  # whoever was never seen
