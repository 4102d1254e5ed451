"""AlignPS in training: locations near the centres of people are positive, for detection and re-identification alike."""

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ps_jax.boxes import assign_locations, boxes_around, centerness, distances_to_sides, level_locations, take
from ps_jax.interface import People
from ps_jax.losses import (
    InstanceMemory,
    batch_hard_triplet_loss,
    giou_loss,
    oim_loss,
    sigmoid_focal_loss,
    update_memory,
)
from ps_jax.losses.oim import normalise_rows
from ps_jax.systems._devices import device_count, gather_rows, sum_over_devices

if TYPE_CHECKING:
    from ps_jax.systems.alignps import AlignPS

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # of the classification
RELEASED_QUEUE_CHANNELS = 64


class Positives(NamedTuple):
    """The locations that stand for people, K slots a scene.

    Attributes:
      distances: f32[scene, K, 4], predicted, in strides.
      target: f32[scene, K, 4], those of the person's box, in strides.
      centerness: f32[scene, K], predicted logit.
      embedding: f32[scene, K, D].
      identity: i32[scene, K], the person's.
      valid: bool[scene, K], slots that are filled.
    """

    distances: Array
    target: Array
    centerness: Array
    embedding: Array
    identity: Array
    valid: Array


def losses(
    model: "AlignPS",
    maps: dict[int, Float[Array, "batch _ _ _"]],
    masks: dict[int, Bool[Array, "batch _ _"]],
    people: People,
    reid: bool = True,
) -> tuple[dict[str, Float[Array, ""]], Positives]:
    """Losses of the head and the embeddings; each is this device's share of the loss of the global batch.

    Args:
      model: the bound module.
      maps, masks: the neck's levels, and which of their positions belong to each scene.
      people: of the batch.
      reid: the embeddings are trained, too.

    Returns:
      "classification", "regression", "centerness", and where they are wanted "reid" and "triplet"; and the locations
      that stand for people.
    """
    total = jnp.zeros(())
    parts = []
    for (level, output), size_range in zip(
        model.head_outputs(maps, masks).items(), model.size_ranges, strict=True
    ):
        matched = _matched(model, level, output.logit.shape[1:], size_range, people)
        matched = jnp.where(_rows(masks[level]), matched, -1)
        total += _focal(_rows(output.logit), matched >= 0, _rows(masks[level]))
        parts.append(_positives(model, level, output, matched, people))
        model.sow("intermediates", f"matched{level}", matched)
    for level in model.background_levels:
        logit = _rows(model.head.classify(maps[level], masks[level]))
        total += _focal(logit, jnp.zeros_like(logit, bool), _rows(masks[level]))
    positives = Positives(*(jnp.concatenate(part, axis=1) for part in zip(*parts, strict=True)))
    model.sow("intermediates", "positives", positives)
    count = sum_over_devices(jnp.sum(positives.valid, dtype=jnp.float32), model.axis_name)
    batch = positives.valid.shape[0] * device_count(model.axis_name)
    terms = {
        "classification": total / (count + batch),
        **_box_losses(model, positives, jnp.maximum(count, 1.0)),
    }
    if reid:
        terms |= _reid_losses(model, positives, jnp.maximum(count, 1.0))
    return terms, positives


def _matched(model, level, feature_size, size_range, people):
    """i32[scene, location], the person that each location of a level stands for."""
    assign = functools.partial(
        assign_locations, level_locations(feature_size, 2**level), model.centre_radius * 2**level, size_range
    )
    return jax.vmap(assign)(people.box, people.valid)


def _positives(model, level, output, matched, people):
    """The positive locations of one level, in slots that suffice for all people of a scene."""
    of_a_person = math.ceil(2 * model.centre_radius) ** 2  # at most: the square around the centre is open
    slots = min(of_a_person * people.valid.shape[1], matched.shape[1])

    def choose(matched):
        (index,) = jnp.nonzero(matched >= 0, size=slots, fill_value=0)
        return index, jnp.arange(slots) < jnp.sum(matched >= 0)

    index, valid = jax.vmap(choose)(matched)
    person = jnp.maximum(take(matched, index), 0)
    location = level_locations(output.logit.shape[1:], 2**level)[index]
    return Positives(
        distances=take(_rows(output.distances), index),
        target=distances_to_sides(location, take(people.box, person)) / 2**level,
        centerness=take(_rows(output.centerness), index),
        embedding=take(_rows(output.embedding), index),
        identity=take(people.identity, person),
        valid=valid,
    )


def _focal(logit, positive, own):
    loss = sigmoid_focal_loss(logit, positive.astype(jnp.float32), FOCAL_ALPHA, FOCAL_GAMMA)
    return jnp.sum(jnp.where(own, loss, 0.0))


def _box_losses(model, positives, count):
    """Generalised overlap, weighted by how central a location is, and cross-entropy of that centerness."""
    valid = positives.valid
    # Spare slots look at boxes of their own choice, so that nothing in them divides by zero.
    target = jnp.where(valid[..., None], positives.target, 1.0)
    predicted = jnp.where(valid[..., None], positives.distances, 1.0)
    origin = jnp.zeros(2)
    weight = jnp.where(valid, centerness(target), 0.0)
    overlap = giou_loss(boxes_around(origin, predicted), boxes_around(origin, target))
    all_weights = sum_over_devices(jnp.sum(weight), model.axis_name)
    logit = positives.centerness
    cross_entropy = jnp.where(valid, jax.nn.softplus(logit) - weight * logit, 0.0)
    return {
        "regression": jnp.sum(weight * overlap) / jnp.where(all_weights > 0, all_weights, 1.0),
        "centerness": jnp.sum(cross_entropy) / count,
    }


def _reid_losses(model, positives, count):
    """Triplet-aided online instance matching (section III-C); the memory moves afterwards."""
    width = positives.embedding.shape[-1]
    # A row of zeros has no direction, and its normalisation no slope that is finite everywhere.
    embedding = jnp.where(positives.valid[..., None], positives.embedding, 1.0).reshape(-1, width)
    identity, valid = positives.identity.reshape(-1), positives.valid.reshape(-1)
    memory = InstanceMemory(model.lookup_table.value, model.queue.value, model.queue_header.value)
    known = valid & (identity >= 0)
    loss = oim_loss(
        *(embedding, identity, valid, memory, model.oim_scale),
        skip_unwritten=False,
        queue_scale=model.queue_scale,
        focal_gamma=model.focal_gamma,
    )
    if model.mean_over_known:
        divisor = sum_over_devices(jnp.sum(known, dtype=jnp.float32), model.axis_name)
        count = jnp.maximum(divisor, 1.0)
    terms = {"reid": jnp.sum(loss) / count}
    if model.triplet != "none":
        terms["triplet"] = _triplet(model, normalise_rows(embedding), identity, known, memory)
    if not model.is_initializing():
        rows = jax.lax.stop_gradient(gather_rows((embedding, identity, valid), model.axis_name))
        model.lookup_table.value, model.queue.value, model.queue_header.value = update_memory(
            *(memory, *rows, model.oim_momentum, model.normalise_table),
            RELEASED_QUEUE_CHANNELS if model.released_memory else None,
        )
    return terms


def _triplet(model, embedding, identity, known, memory):
    """Triplet loss of known people, and of a copy of the table row of each."""
    if model.triplet == "table":
        rows = memory.lookup_table.shape[0]
        table = jax.lax.stop_gradient(memory.lookup_table)[jnp.clip(identity, 0, rows - 1)]
        in_table = known & (identity < rows)  # PRW's released labels count beyond the table
        if model.released_memory:
            in_table &= identity > 0
        embedding = jnp.concatenate([embedding, table])
        identity = jnp.concatenate([identity, identity])
        known = jnp.concatenate([known, in_table])
    everybody = gather_rows((embedding, identity, known), model.axis_name)
    loss = batch_hard_triplet_loss(embedding, identity, *everybody, model.triplet_margin)
    count = sum_over_devices(jnp.sum(known, dtype=jnp.float32), model.axis_name)
    return jnp.sum(jnp.where(known, loss, 0.0)) / jnp.maximum(count, 1.0)


def _rows(x):
    """[batch, height, width, ...] -> [batch, location, ...]."""
    return x.reshape(x.shape[0], -1, *x.shape[3:])
