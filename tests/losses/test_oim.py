import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.losses import InstanceMemory, empty_memory, oim_loss, update_memory

UNIT = np.eye(3, dtype=np.float32)


def _memory(table, queue, header=0):
    return InstanceMemory(jnp.asarray(table), jnp.asarray(queue), jnp.asarray(header, jnp.int32))


def test_loss_is_the_cross_entropy_over_table_and_queue():
    memory = _memory(UNIT[:2], UNIT[2:])
    x = jnp.asarray([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    loss = oim_loss(x, jnp.asarray([0, 0]), jnp.ones(2, bool), memory, scale=2.0)
    half = np.sqrt(0.5)
    expected = [
        -np.log(np.exp(2) / (np.exp(2) + 2)),
        -np.log(np.exp(2 * half) / (2 * np.exp(2 * half) + 1)),
    ]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_unwritten_columns_count_as_cosine_minus_one():
    memory = _memory(np.stack([UNIT[0], np.zeros(3, np.float32)]), np.zeros((1, 3), np.float32))
    loss = oim_loss(jnp.asarray([[1.0, 0, 0]]), jnp.asarray([0]), jnp.ones(1, bool), memory, scale=1.0)
    np.testing.assert_allclose(loss, [-np.log(np.e / (np.e + 2 / np.e))], rtol=1e-6)


def test_first_sight_of_an_identity_gives_no_loss_and_no_gradient():
    memory = empty_memory(5, 4, 3)
    x = jax.random.normal(jax.random.key(0), (4, 3))
    identity, valid = jnp.asarray([0, 1, 4, -1]), jnp.ones(4, bool)
    value, gradient = jax.value_and_grad(lambda x: oim_loss(x, identity, valid, memory, 30.0).sum())(x)
    assert value < 1e-6
    np.testing.assert_array_equal(gradient, 0.0)


def test_unknown_people_and_padding_have_no_loss():
    memory = _memory(UNIT[:2], UNIT[2:])
    x = jnp.asarray([[1.0, 1, 0], [1.0, 1, 0], [0.0, 0, 0]])
    valid = jnp.asarray([True, False, False])

    def total(x):
        return oim_loss(x, jnp.asarray([-1, 0, 1]), valid, memory, 30.0)

    np.testing.assert_array_equal(total(x), 0.0)
    np.testing.assert_array_equal(jax.grad(lambda x: total(x).sum())(x), 0.0)


def test_repeated_identities_are_written_in_order_and_the_queue_turns_around():
    memory = _memory(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), header=1)
    x = jnp.asarray([UNIT[0], UNIT[1] * 5, UNIT[2], UNIT[0], UNIT[1], UNIT[2]])
    identity = jnp.asarray([1, 1, -1, -1, -1, 0])
    valid = jnp.asarray([True, True, True, True, True, False])
    after = jax.jit(update_memory, static_argnums=4)(memory, x, identity, valid, 0.5)
    # First write: normalise(0.5 * 0 + 0.5 * e0) = e0; second: normalise(e0 + e1).
    np.testing.assert_allclose(after.lookup_table, [[0, 0, 0], [np.sqrt(0.5), np.sqrt(0.5), 0]], rtol=1e-6)
    # Slots 1, 0, 1 were written: e2, e0, e1.
    np.testing.assert_allclose(after.queue, UNIT[[0, 1]], rtol=1e-6)
    assert after.queue_header == 0


def test_memory_without_any_row_stays_as_it_is():
    memory = _memory(UNIT[:2], UNIT[1:], header=1)
    after = update_memory(memory, jnp.zeros((4, 3)), jnp.zeros(4, jnp.int32), jnp.zeros(4, bool), 0.5)
    jax.tree.map(np.testing.assert_array_equal, after, memory)


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match="queue_size is 0"):
        empty_memory(3, 0, 8)


def test_numbers_beyond_the_table_are_sought_and_written_in_the_queue():
    """As the released code of SeqNet treats two of PRW's identities, whose numbers its table has no row for."""
    memory = _memory(UNIT[:2], np.stack([UNIT[2], -UNIT[0]]), header=1)
    x = jnp.asarray([[0.0, 0.0, 3.0], [0.0, 0.0, 3.0]])
    identity, valid = jnp.asarray([2, 3]), jnp.ones(2, bool)  # queue slots 0 and 1
    loss = oim_loss(x, identity, valid, memory, scale=1.0, skip_unwritten=False)
    np.testing.assert_allclose(loss, [-np.log(np.e / (np.e + 3)), -np.log(1 / (np.e + 3))], rtol=1e-6)
    after = update_memory(memory, x, identity, valid, 0.5)
    np.testing.assert_array_equal(after.lookup_table, UNIT[:2])
    np.testing.assert_allclose(after.queue, np.stack([UNIT[2], UNIT[2]]), rtol=1e-6)
    assert after.queue_header == 1  # written to slots 1 and 0


def test_without_skipping_unwritten_columns_count_as_they_come():
    loss = oim_loss(
        jnp.asarray([[1.0, 0, 0]]), jnp.asarray([0]), jnp.ones(1, bool), empty_memory(5, 4, 3), 30.0, False
    )
    np.testing.assert_allclose(loss, [np.log(9)], rtol=1e-6)
