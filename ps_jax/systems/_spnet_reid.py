"""SPNet's two re-identification losses, the memories they keep, and the momentum encoder (section 3.3).

Fine-tuning matches embeddings with a table of known people (online instance matching). Pre-training contrasts
them with a queue of momentum embeddings: a second encoder, trunk, neck and box embedder, follows the trained one
slowly (He et al., "Momentum Contrast", CVPR 2020), embeds the same boxes, and the queue holds one such entry a
person, known or not.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ps_jax.errors import ConfigError
from ps_jax.interface import Scenes
from ps_jax.losses import InstanceMemory, MomentumQueue, oim_loss, queue_loss, update_memory, update_queue
from ps_jax.systems._devices import device_count, gather_rows, mean_over_devices
from ps_jax.systems._spnet_losses import count

if TYPE_CHECKING:
    from ps_jax.systems.spnet import SPNet

MOMENTUM_ENCODER = "momentum_encoder"  # its variables in the collection `memory`
ENCODER_PARTS = ("backbone", "fpn", "box_embedder")  # what the momentum encoder is a copy of


class EmbeddedBoxes(NamedTuple):
    """Boxes that count for re-identification, in rows of one scene each.

    Attributes:
      embedding: f32[row, box, D].
      box: f32[row, box, 4].
      scene: i32[row], the scene of the batch that a row lies in; None: row r lies in scene r.
      identity: i32[row, box], 0 .. L-1 for known people, -1 for unknown ones.
      person: i32[row, box], see `ps_jax.interface.People`.
      valid: bool[row, box].
    """

    embedding: Array
    box: Array
    scene: Array | None
    identity: Array
    person: Array
    valid: Array


def reid_loss(model: "SPNet", scenes: Scenes, groups: list[EmbeddedBoxes]) -> Float[Array, ""]:
    """The re-identification loss, mean over all boxes; updates the memory.

    Args:
      model: the bound module.
      scenes: the batch.
      groups: sets of boxes, the last one all annotated people. With online instance matching the memory is
        updated set by set, row by row, in the order of the global batch.

    Returns:
      The loss.
    """
    if model.reid_objective == "oim":
        loss, valid = instance_matching_loss(model, groups)
    else:
        loss, valid = momentum_queue_loss(model, scenes, groups)
    return jnp.sum(loss) / count(model, valid)


def instance_matching_loss(
    model: "SPNet", groups: list[EmbeddedBoxes]
) -> tuple[Float[Array, " box"], Bool[Array, " box"]]:
    """Online instance matching; updates table and queue group by group, row by row.

    Args:
      model: the bound module.
      groups: the boxes, in the order in which they move the memory.

    Returns:
      Loss of every box, and which of them exist.
    """
    memory = InstanceMemory(model.lookup_table.value, model.queue.value, model.queue_header.value)
    boxes = [(g.embedding, g.identity, g.valid) for g in groups]
    embedding, identity, valid = _rows(boxes)
    loss = oim_loss(embedding, identity, valid, memory, model.oim_scale)

    everybody, identity, exists = _rows(boxes, model.axis_name)
    memory = update_memory(memory, everybody, identity, exists, model.oim_momentum)
    model.lookup_table.value, model.queue.value, model.queue_header.value = memory
    return loss, valid


def momentum_queue_loss(
    model: "SPNet", scenes: Scenes, groups: list[EmbeddedBoxes]
) -> tuple[Float[Array, " box"], Bool[Array, " box"]]:
    """Contrast with the queue, which first takes in the people of the batch.

    Args:
      model: the bound module.
      scenes: the batch.
      groups: the boxes; the last group is all annotated people, so nobody else is in the others.

    Returns:
      Loss of every box, and which of them exist.

    Raises:
      ConfigError: if a batch may show more people than the queue has slots.
    """
    most = groups[-1].valid.size * device_count(model.axis_name)
    if most > model.queue_size:
        raise ConfigError(
            f"queue_size is {model.queue_size}, but a batch has slots for {most} people. "
            f"Make queue_size at least {most}, or the batch (batch_size, data.max_people) smaller."
        )
    queue = MomentumQueue(
        model.queue.value, model.queue_person.value, model.queue_age.value, model.queue_header.value
    )
    embeddings = _momentum_embeddings(model, scenes, groups)
    entries = [(m, g.person, g.valid) for m, g in zip(embeddings, groups, strict=True)]
    queue = update_queue(queue, *_rows(entries, model.axis_name))
    model.queue.value, model.queue_person.value = queue.embedding, queue.person
    model.queue_age.value, model.queue_header.value = queue.age, queue.header

    embedding, person, valid = _rows([(g.embedding, g.person, g.valid) for g in groups])
    loss = queue_loss(embedding, person, valid, queue, model.oim_scale)
    return loss, valid


def _rows(groups: Sequence[tuple[Array, ...]], axis_name: str | None = None) -> tuple[Array, ...]:
    """Joins groups of [row, box, ...] arrays to [all boxes, ...] ones, with an axis name those of all devices."""
    flat = [tuple(x.reshape(-1, *x.shape[2:]) for x in group) for group in groups]
    if axis_name is not None:
        flat = [gather_rows(jax.lax.stop_gradient(group), axis_name) for group in flat]
    return tuple(map(jnp.concatenate, zip(*flat, strict=True)))


def _momentum_embeddings(model: "SPNet", scenes: Scenes, groups: list[EmbeddedBoxes]) -> list[Array]:
    """Embeds the boxes of all groups by the momentum encoder, which moves its own batch statistics.

    It is the same module with other variables. Like the trained one it is in training mode and embeds
    annotated boxes, the last group, before predicted ones.
    """

    def embed(encoder: "SPNet") -> list[Array]:
        pyramid = encoder.features(scenes, train=True)
        return [
            encoder.embed_boxes(pyramid, group.box, group.valid, train=True, scene=group.scene)
            for group in reversed(groups)
        ][::-1]

    variables: Mapping[str, PyTree] = jax.lax.stop_gradient(model.get_variable("memory", MOMENTUM_ENCODER))
    streams = ("stochastic_depth",) if model.has_rng("stochastic_depth") else ()
    embeddings, changed = model.clone(parent=None).apply(
        {**variables, "memory": model.variables["memory"]},
        method=embed,
        rngs={name: model.make_rng(name) for name in streams},
        mutable=["batch_stats"],
    )
    # Equal on all devices also where each normalises with its own statistics
    changed = mean_over_devices(changed, model.axis_name)
    model.put_variable("memory", MOMENTUM_ENCODER, {**variables, **changed})
    model.sow("intermediates", "momentum_embeddings", embeddings)
    return embeddings


def copy_encoder(variables: Mapping[str, Any]) -> dict[str, PyTree]:
    """Copies of the encoder's params and batch_stats: a momentum encoder as it starts."""
    return {
        name: {
            part: jax.tree.map(jnp.copy, variables[name][part])
            for part in ENCODER_PARTS
            if part in variables[name]
        }
        for name in ("params", "batch_stats")
    }


def follow_encoder(
    encoder: Mapping[str, PyTree], params: Mapping[str, PyTree], momentum: float
) -> dict[str, PyTree]:
    """Moves a momentum encoder towards the trained one: m <- momentum m + (1 - momentum) trained.

    Args:
      encoder: its params and batch_stats; the statistics stay what it measured itself.
      params: the trained parameters.
      momentum: weight of the old value.
    """
    moved = jax.tree.map(
        lambda old, trained: momentum * old + (1.0 - momentum) * trained,
        encoder["params"],
        {part: params[part] for part in encoder["params"]},
    )
    return {**encoder, "params": moved}
