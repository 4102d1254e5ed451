"""Online instance matching: classification of embeddings against a table of everybody seen so far.

Xiao et al., "Joint Detection and Identification Feature Learning for Person Search", CVPR 2017. In the form of
SPNet's released code a table row or queue slot that has never been written takes no part, an identity seen
for the first time gives no loss, and the loss is divided by the number of all rows, unknown people included. In those
of SeqNet and NAE a slot that has never been written counts as zeros, and the loss is divided by the number of rows of
known people. In that of AlignPS the loss is focal, table and queue may have temperatures of their own, and the table's
rows are not always normalised again.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class InstanceMemory(NamedTuple):
    """What online instance matching remembers; all zeros at the start.

    Attributes:
      lookup_table: f32[L, D], one unit row for each known identity, zeros for one not seen yet.
      queue: f32[Q, D], the latest embeddings of unknown people, zeros in slots not used yet.
      queue_header: i32[], the slot to be written next.
    """

    lookup_table: Array
    queue: Array
    queue_header: Array


def empty_memory(num_identities: int, queue_size: int, dimension: int) -> InstanceMemory:
    """The memory before the first step.

    Args:
      num_identities: L, known identities of the training set.
      queue_size: Q, slots for unknown people.
      dimension: D, length of an embedding.

    Raises:
      ValueError: if one of the sizes is below 1.
    """
    for name, value in (
        ("num_identities", num_identities),
        ("queue_size", queue_size),
        ("dimension", dimension),
    ):
        if value < 1:
            raise ValueError(f"{name} is {value}, wanted at least 1")
    return InstanceMemory(
        lookup_table=jnp.zeros((num_identities, dimension), jnp.float32),
        queue=jnp.zeros((queue_size, dimension), jnp.float32),
        queue_header=jnp.zeros((), jnp.int32),
    )


def normalise_rows(x: Float[Array, "*rows dimension"]) -> Float[Array, "*rows dimension"]:
    """x / max(|x|, 1e-12) over the last axis in float32, as `torch.nn.functional.normalize`."""
    x = x.astype(jnp.float32)
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * lax.rsqrt(jnp.maximum(squared, 1e-24))


def oim_loss(
    embedding: Float[Array, "row dimension"],
    identity: Int[Array, " row"],
    valid: Bool[Array, " row"],
    memory: InstanceMemory,
    scale: float,
    skip_unwritten: bool = True,
    queue_scale: float | None = None,
    focal_gamma: float = 0.0,
) -> Float[Array, " row"]:
    """Cross-entropy of every row against the table and the queue.

    With `skip_unwritten`, columns of the table or queue that are still zero count as cosine -1, and for an identity
    that has no table row yet, its own column is set to cosine 1: next to no loss, no gradient. Without it they have
    cosine 0, as they come.

    Args:
      embedding: embeddings, normalised here.
      identity: 0 .. L-1 for known people, -1 for unknown ones; numbers from L on are to be recognised in the queue,
        as in the released code of SeqNet on PRW.
      valid: rows that exist.
      memory: table and queue, constants for the gradient.
      scale: inverse temperature that multiplies the cosines.
      skip_unwritten: see above.
      queue_scale: that of the cosines with the queue, where it is another one.
      focal_gamma: exponent of the factor (1 - p)^gamma of a row whose own identity has probability p (AlignPS: 2).

    Returns:
      Loss of each row; 0 for rows of unknown people and rows that do not exist. The mean over all existing
      rows, or over those of known people, is the OIM loss.
    """
    columns = lax.stop_gradient(jnp.concatenate([memory.lookup_table, memory.queue]))
    cosine = normalise_rows(embedding) @ columns.T
    is_target = jnp.arange(columns.shape[0]) == jnp.maximum(identity, 0)[:, None]
    if skip_unwritten:
        written = jnp.any(columns != 0.0, axis=-1)
        cosine = jnp.where(written, cosine, -1.0)
        cosine = jnp.where(is_target & ~written, 1.0, cosine)
    if queue_scale is None:
        logits = scale * cosine
    else:
        in_table = jnp.arange(columns.shape[0]) < memory.lookup_table.shape[0]
        logits = jnp.where(in_table, scale, queue_scale) * cosine
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    loss = -jnp.sum(jnp.where(is_target, log_probability, 0.0), axis=-1)
    if focal_gamma:
        loss = loss * jnp.maximum(-jnp.expm1(-loss), 0.0) ** focal_gamma
    return jnp.where(valid & (identity >= 0), loss, 0.0)


def update_memory(
    memory: InstanceMemory,
    embedding: Float[Array, "row dimension"],
    identity: Int[Array, " row"],
    valid: Bool[Array, " row"],
    momentum: float,
    normalise_table: bool = True,
    queue_channels: int | None = None,
) -> InstanceMemory:
    """Writes the rows into the memory one after the other, so that repeated identities count in order.

    A known person moves the table: t <- normalise(momentum t + (1 - momentum) x). An unknown one, or one beyond the
    table, goes into the queue slot at the header, which then moves on.

    Args:
      memory: before the step.
      embedding: embeddings, normalised here; no gradient passes.
      identity: 0 .. L-1 for known people, -1 for unknown ones.
      valid: rows that exist; others are skipped.
      momentum: weight of the old table row.
      normalise_table: see the rule above; False leaves out its normalisation (AlignPS).
      queue_channels: how many leading channels of a slot are written, the others stay (64 in the released code of
        AlignPS); None: all.

    Returns:
      The memory after the step.
    """
    x = lax.stop_gradient(normalise_rows(embedding))
    order = jnp.argsort(~valid, stable=True)  # existing rows first: the loop below ends after them
    slots, channels = memory.queue.shape
    channels = channels if queue_channels is None else min(queue_channels, channels)

    def write(turn, memory):
        table, queue, header = memory
        row = order[turn]
        unknown = (identity[row] < 0) | (identity[row] >= table.shape[0])
        # Indices beyond the end drop the write.
        person = jnp.where(unknown, table.shape[0], identity[row])
        old = table[jnp.clip(identity[row], 0, table.shape[0] - 1)]
        moved = momentum * old + (1.0 - momentum) * x[row]
        table = table.at[person].set(normalise_rows(moved) if normalise_table else moved, mode="drop")
        slot = jnp.where(unknown, header, slots)
        queue = queue.at[slot, :channels].set(x[row, :channels], mode="drop")
        return InstanceMemory(table, queue, jnp.where(unknown, (header + 1) % slots, header))

    return lax.fori_loop(0, jnp.sum(valid), write, memory)
