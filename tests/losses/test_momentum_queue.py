import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.losses import MomentumQueue, empty_queue, queue_loss, update_queue


class PlainQueue:
    """The queue in words: a list of slots, and one person after the other."""

    def __init__(self, size):
        self.slots, self.header = [None] * size, 0  # a slot: (person, embedding, age)

    def update(self, embedding, person):
        self.slots = [slot and (slot[0], slot[1], slot[2] + 1) for slot in self.slots]
        for someone in sorted(set(person)):
            mean = np.mean([x for x, p in zip(embedding, person, strict=True) if p == someone], axis=0)
            self.slots = [None if slot and slot[0] == someone else slot for slot in self.slots]
            self.slots[self.header] = (someone, mean / np.linalg.norm(mean), 1)
            self.header = (self.header + 1) % len(self.slots)

    def loss(self, embedding, person, scale):
        filled = [slot for slot in self.slots if slot]
        losses = []
        for x, someone in zip(embedding, person, strict=True):
            logits = [scale * (x @ entry) / np.linalg.norm(x) for _, entry, _ in filled]
            (own,) = [
                logit for logit, slot in zip(logits, filled, strict=True) if slot and slot[0] == someone
            ]
            losses.append(np.log(np.sum(np.exp(logits))) - own)
        return losses


def _same(queue: MomentumQueue, plain: PlainQueue) -> None:
    np.testing.assert_array_equal(queue.age, [slot[2] if slot else 0 for slot in plain.slots])
    assert queue.header == plain.header
    for person, embedding, slot in zip(queue.person, queue.embedding, plain.slots, strict=True):
        if slot:
            assert person == slot[0]
            np.testing.assert_allclose(embedding, slot[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "rows", "people"), [(7, 6, 4), (30, 12, 40), (5, 12, 5), (16, 9, 1000)])
def test_many_random_steps_are_those_of_a_plain_list(size, rows, people):
    """Repeated people, padding between them, empty batches, and many turns around the queue."""
    rng = np.random.default_rng(size)
    queue, plain = empty_queue(size, 8), PlainQueue(size)
    step, loss_of = jax.jit(update_queue), jax.jit(queue_loss, static_argnums=4)
    turns = 0
    for number in range(60):
        person = rng.integers(0, people, rows).astype(np.int32)
        valid = rng.random(rows) < (0.0 if number % 13 == 5 else 0.7)
        while len(set(person[valid])) > size:
            valid[np.flatnonzero(valid)[0]] = False
        momentum, student = rng.normal(size=(2, rows, 8)).astype(np.float32) * 3.0
        before = plain.header
        rows_ = jnp.asarray(person), jnp.asarray(valid)
        queue = step(queue, jnp.asarray(momentum), *rows_)
        plain.update(momentum[valid], person[valid])
        turns += plain.header < before
        _same(queue, plain)
        loss = np.asarray(loss_of(jnp.asarray(student), *rows_, queue, 10.0))
        np.testing.assert_allclose(loss[valid], plain.loss(student[valid], person[valid], 10.0), atol=1e-5)
        assert not loss[~valid].any()
    assert turns > 3


def test_what_stands_in_padding_is_not_seen():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3)).astype(np.float32)
    valid = jnp.asarray([True, False, True, False])
    clean = update_queue(empty_queue(4, 3), jnp.asarray(x), jnp.asarray([5, 0, 2, 0]), valid)
    dirty = x.copy()
    dirty[[1, 3]] = np.nan
    person = jnp.asarray([5, 2, 2, -1])
    jax.tree.map(
        np.testing.assert_array_equal,
        clean,
        update_queue(empty_queue(4, 3), jnp.asarray(dirty), person, valid),
    )
    np.testing.assert_array_equal(clean.person[:2], [2, 5])

    def total(x):
        return jnp.sum(queue_loss(x, person, valid, clean, 10.0))

    gradient = jax.grad(total)(jnp.asarray(x))
    assert np.all(np.isfinite(gradient)) and not gradient[1].any() and gradient[0].any()


def test_an_empty_queue_gives_an_empty_batch_no_loss_and_no_gradient():
    queue, nobody = empty_queue(4, 3), jnp.zeros(2, bool)
    x, person = jnp.ones((2, 3)), jnp.zeros(2, jnp.int32)
    after = update_queue(queue, x, person, nobody)
    jax.tree.map(np.testing.assert_array_equal, after, queue)
    value, gradient = jax.value_and_grad(lambda x: queue_loss(x, person, nobody, after, 10.0).sum())(x)
    assert value == 0 and not gradient.any()


def test_the_only_person_of_a_queue_has_no_loss_and_one_of_two_equal_ones_log_two():
    one = update_queue(empty_queue(9, 3), jnp.ones((1, 3)), jnp.asarray([4]), jnp.ones(1, bool))
    both = update_queue(one, jnp.ones((1, 3)), jnp.asarray([7]), jnp.ones(1, bool))
    x, person, valid = jnp.asarray([[1.0, 2.0, 3.0]]), jnp.asarray([4]), jnp.ones(1, bool)
    np.testing.assert_allclose(queue_loss(x, person, valid, one, 10.0), [0.0], atol=1e-6)
    np.testing.assert_allclose(queue_loss(x, person, valid, both, 10.0), [np.log(2.0)], rtol=1e-6)


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match="size is 0"):
        empty_queue(0, 8)
