"""The SeqNet family in training: each head on a sample of boxes of its own, annotated people among them."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ps_jax.heads import choose_proposals
from ps_jax.interface import People, Scenes
from ps_jax.losses import InstanceMemory, oim_loss, update_memory
from ps_jax.systems._box_head import (
    classification_loss,
    count_on_devices,
    proposal_terms,
    refined,
    regression_loss,
    sample_with_people,
)
from ps_jax.systems._devices import gather_rows

if TYPE_CHECKING:
    from ps_jax.systems.seqnet import SeqNet


def losses(
    model: "SeqNet", scenes: Scenes, people: People, key: Key[Array, ""]
) -> dict[str, Float[Array, ""]]:
    """Losses of all heads; each is this device's share of the loss of the global batch.

    Args:
      model: the bound module.
      scenes, people: the batch.
      key: random key for sampling, the same on all devices.

    Returns:
      "proposal_classification", "proposal_regression", with a first head "first_classification" and
      "first_regression", then "classification" and "regression" as far as they are wanted, and "reid".
    """
    proposal_key, first_key, second_key = jax.random.split(key, 3)
    size = jnp.asarray(scenes.size)
    features = model.features(scenes, train=True)
    anchors = model.anchors(scenes, features)
    objectness, deltas = model.rpn(features)
    terms = proposal_terms(model, proposal_key, objectness, deltas, anchors, people)
    box, exists = choose_proposals(
        *(objectness, deltas, anchors, size), *model.train_proposals, model.proposal_nms_threshold
    )
    model.sow("intermediates", "objectness", objectness)
    model.sow("intermediates", "proposal_deltas", deltas)
    model.sow("intermediates", "proposals", box)
    model.sow("intermediates", "proposals_exist", exists)

    if model.sequential:
        sampled = sample_with_people(model, first_key, box, exists, people)
        logits, deltas = model.detect_boxes(features, sampled.box, sampled.valid, train=True)
        terms["first_classification"] = classification_loss(model, logits[..., 1] - logits[..., 0], sampled)
        terms["first_regression"] = model.first_regression_weight * regression_loss(model, deltas, sampled)
        box = jax.lax.stop_gradient(refined(deltas, sampled.box, size))
        exists = sampled.valid
        model.sow("intermediates", "first_sampled", sampled)
        model.sow("intermediates", "first_logits", logits)
        model.sow("intermediates", "first_deltas", deltas)

    sampled = sample_with_people(model, second_key, box, exists, people)
    output = model.identify_boxes(features, sampled.box, sampled.valid, train=True)
    if model.classification:
        terms["classification"] = classification_loss(model, output.logit, sampled)
    if model.regression:
        terms["regression"] = model.regression_weight * regression_loss(model, output.deltas, sampled)
    terms["reid"] = _reid(model, output.embedding, sampled)
    model.sow("intermediates", "sampled", sampled)
    model.sow("intermediates", "reid_output", output)
    return terms


def _reid(model, embedding, sampled):
    """Online instance matching of all boxes that stand for people; the mean over those of known people."""
    rows = (
        embedding.reshape(-1, embedding.shape[-1]),
        sampled.identity.reshape(-1),
        sampled.positive.reshape(-1),
    )
    memory = InstanceMemory(model.lookup_table.value, model.queue.value, model.queue_header.value)
    loss = oim_loss(*rows, memory, model.oim_scale, model.skip_unwritten)
    known = sampled.positive & (sampled.identity >= 0)
    if not model.is_initializing():
        everybody = jax.lax.stop_gradient(gather_rows(rows, model.axis_name))
        memory = update_memory(memory, *everybody, model.oim_momentum)
        model.lookup_table.value, model.queue.value, model.queue_header.value = memory
    return jnp.sum(loss) / count_on_devices(model, known)
