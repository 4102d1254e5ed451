"""Contrast with a queue of momentum embeddings: every person against everybody seen lately.

The re-identification loss of SPNet's pre-training (Jaffe and Zakhor, WACV 2025, section 3.3), after He et al.,
"Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, in the form of SPNet's released
code: a person has at most one entry, the mean of its momentum embeddings in the latest batch it was in; the
queue is updated first, and each embedding of the batch is then classified against all entries.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ps_jax.losses.oim import normalise_rows

_NO_PERSON = jnp.iinfo(jnp.int32).max  # sorts behind everybody
_NO_LOGIT = -1e30  # of an empty slot; not infinite, so that a queue without any entry gives no NaN


class MomentumQueue(NamedTuple):
    """The latest entry of each of the latest people; all zeros at the start.

    Attributes:
      embedding: f32[Q, D], unit rows; meaningless in empty slots.
      person: i32[Q], whose entry it is; meaningless in empty slots.
      age: i32[Q], steps since the entry was written, 1 in the step itself; 0 marks an empty slot.
      header: i32[], the slot to be written next.
    """

    embedding: Array
    person: Array
    age: Array
    header: Array


def empty_queue(size: int, dimension: int) -> MomentumQueue:
    """The queue before the first step.

    Args:
      size: Q, slots.
      dimension: D, length of an embedding.

    Raises:
      ValueError: if one of them is below 1.
    """
    for name, value in (("size", size), ("dimension", dimension)):
        if value < 1:
            raise ValueError(f"{name} is {value}, wanted at least 1")
    return MomentumQueue(
        embedding=jnp.zeros((size, dimension), jnp.float32),
        person=jnp.zeros(size, jnp.int32),
        age=jnp.zeros(size, jnp.int32),
        header=jnp.zeros((), jnp.int32),
    )


def update_queue(
    queue: MomentumQueue,
    embedding: Float[Array, "row dimension"],
    person: Int[Array, " row"],
    valid: Bool[Array, " row"],
) -> MomentumQueue:
    """Writes one entry for every person among the rows, in ascending order of `person`.

    An entry is the mean of the person's rows, brought to unit length. The person's former entry is removed;
    the new ones go into the slots from the header on, over what stands there.

    Args:
      queue: before the step.
      embedding: momentum embeddings of the whole batch, of any length; no gradient passes.
      person: whom each row shows, 0 or more; no more different people than the queue has slots.
      valid: rows that exist; others are not looked at.

    Returns:
      The queue after the step.
    """
    rows, slots = embedding.shape[0], queue.person.shape[0]
    wanted = jnp.where(valid, person, _NO_PERSON)
    order = jnp.argsort(wanted, stable=True)
    people, exists = wanted[order], valid[order]
    first = exists & (people != jnp.concatenate([jnp.full(1, _NO_PERSON), people[:-1]]))
    entry = jnp.where(exists, jnp.cumsum(first) - 1, rows)  # beyond the end: dropped
    count = jnp.sum(first, dtype=jnp.int32)

    x = lax.stop_gradient(embedding).astype(jnp.float32)[order]
    total = jax.ops.segment_sum(x, entry, rows, indices_are_sorted=True)
    share = jax.ops.segment_sum(jnp.ones(rows), entry, rows, indices_are_sorted=True)
    mean = normalise_rows(total / jnp.maximum(share, 1.0)[:, None])
    whose = jnp.zeros(rows, jnp.int32).at[jnp.where(first, entry, rows)].set(people, mode="drop")

    # The people are sorted, so the first that is not smaller is the owner of a slot if anybody is.
    place = jnp.minimum(jnp.searchsorted(people, queue.person), rows - 1)
    former = people[place] == queue.person
    age = jnp.where((queue.age > 0) & ~former, queue.age + 1, 0)

    turn = jnp.arange(rows, dtype=jnp.int32)
    slot = jnp.where(turn < count, (queue.header + turn) % slots, slots)
    return MomentumQueue(
        embedding=queue.embedding.at[slot].set(mean, mode="drop"),
        person=queue.person.at[slot].set(whose, mode="drop"),
        age=age.at[slot].set(1, mode="drop"),
        header=(queue.header + count) % slots,
    )


def queue_loss(
    embedding: Float[Array, "row dimension"],
    person: Int[Array, " row"],
    valid: Bool[Array, " row"],
    queue: MomentumQueue,
    scale: float,
) -> Float[Array, " row"]:
    """Cross-entropy of every row against all entries of the queue, its person's own entry being the answer.

    Args:
      embedding: embeddings of the trained encoder, normalised here.
      person: whom each row shows; each has an entry, as `update_queue` sees to.
      valid: rows that exist.
      queue: after the update with the whole batch, a constant for the gradient.
      scale: inverse temperature that multiplies the cosines.

    Returns:
      Loss of each row; 0 for rows that do not exist. The mean over all existing rows is the loss.
    """
    cosine = normalise_rows(embedding) @ lax.stop_gradient(queue.embedding).T
    filled = queue.age > 0
    logits = jnp.where(filled, scale * cosine, _NO_LOGIT)
    own = filled & (queue.person == person[:, None])
    loss = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(own, logits, 0.0), axis=-1)
    return jnp.where(valid, loss, 0.0)
