"""The SeqNet family in training: each head on a sample of boxes of its own, annotated people among them."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from ps_jax.boxes import (
    BACKGROUND,
    clip_boxes,
    decode,
    encode,
    match_anchors,
    pairwise_iou,
    sample_balanced,
    take,
)
from ps_jax.heads import choose_proposals, proposal_losses
from ps_jax.interface import People, Scenes
from ps_jax.losses import InstanceMemory, oim_loss, smooth_l1, update_memory
from ps_jax.systems._box_sampling import candidates_with_people, sample_boxes
from ps_jax.systems._devices import gather_rows, numbered_keys, sum_over_devices
from ps_jax.systems._seqnet_reid_head import BOX_WEIGHTS

if TYPE_CHECKING:
    from ps_jax.systems.seqnet import SeqNet


class Sampled(NamedTuple):
    """Boxes that a head is trained on.

    Attributes:
      box: f32[scene, sample, 4].
      positive: bool[scene, sample], stands for a person.
      target_box: f32[scene, sample, 4], that person's box.
      identity: i32[scene, sample], that person's identity.
      valid: bool[scene, sample], slots that are filled.
    """

    box: Array
    positive: Array
    target_box: Array
    identity: Array
    valid: Array


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
    terms = _train_proposals(model, proposal_key, objectness, deltas, anchors, people)
    box, exists = choose_proposals(
        *(objectness, deltas, anchors, size), *model.train_proposals, model.proposal_nms_threshold
    )
    model.sow("intermediates", "objectness", objectness)
    model.sow("intermediates", "proposal_deltas", deltas)
    model.sow("intermediates", "proposals", box)
    model.sow("intermediates", "proposals_exist", exists)

    if model.sequential:
        sampled = _sample(model, first_key, box, exists, people)
        logits, deltas = model.detect_boxes(features, sampled.box, sampled.valid, train=True)
        terms["first_classification"] = _mean(
            model, jax.nn.softplus(_signed(logits[..., 1] - logits[..., 0], sampled)), sampled.valid
        )
        terms["first_regression"] = model.first_regression_weight * _regression(model, deltas, sampled)
        box = jax.lax.stop_gradient(clip_boxes(decode(deltas, sampled.box, BOX_WEIGHTS), size))
        exists = sampled.valid
        model.sow("intermediates", "first_sampled", sampled)
        model.sow("intermediates", "first_logits", logits)
        model.sow("intermediates", "first_deltas", deltas)

    sampled = _sample(model, second_key, box, exists, people)
    output = model.identify_boxes(features, sampled.box, sampled.valid, train=True)
    if model.classification:
        terms["classification"] = _mean(model, jax.nn.softplus(_signed(output.logit, sampled)), sampled.valid)
    if model.regression:
        terms["regression"] = model.regression_weight * _regression(model, output.deltas, sampled)
    terms["reid"] = _reid(model, output.embedding, sampled)
    model.sow("intermediates", "sampled", sampled)
    model.sow("intermediates", "reid_output", output)
    return terms


def _train_proposals(model, key, objectness, deltas, anchors, people):
    """Both losses of the proposals, over a sample of anchors."""

    def choose(key, boxes, exists):
        iou = pairwise_iou(boxes, anchors)
        matched = match_anchors(iou, exists, model.proposal_high, model.proposal_low, allow_low_quality=True)
        positive, negative = sample_balanced(
            key, matched >= 0, matched == BACKGROUND, model.proposal_samples, 0.5, order=model.order
        )
        return matched, positive, negative

    keys = numbered_keys(key, people.valid.shape[0], model.axis_name)
    matched, positive, negative = jax.vmap(choose)(keys, people.box, people.valid)
    model.sow("intermediates", "anchor_matched", matched)
    model.sow("intermediates", "anchor_positive", positive)
    model.sow("intermediates", "anchor_negative", negative)
    target = take(people.box, jnp.maximum(matched, 0))
    classification, regression = proposal_losses(
        objectness, deltas, anchors, target, positive, negative, model.proposal_beta
    )
    count = _count(model, positive | negative)
    return {
        "proposal_classification": classification / count,
        "proposal_regression": regression / count,
    }


def _sample(
    model: "SeqNet",
    key: Key[Array, ""],
    box: Float[Array, "scene box 4"],
    exists: Bool[Array, "scene box"],
    people: People,
) -> Sampled:
    """Chooses what a head is trained on among boxes and the annotated people."""
    box, matched = candidates_with_people(box, exists, people, model.match_high, model.match_low)
    index, valid = sample_boxes(
        *(key, matched, model.samples_per_image, model.positive_fraction, model.order, model.axis_name)
    )
    matched = take(matched, index)
    target = jnp.maximum(matched, 0)
    return Sampled(
        box=take(box, index),
        positive=valid & (matched >= 0),
        target_box=take(people.box, target),
        identity=take(people.identity, target),
        valid=valid,
    )


def _signed(logit, sampled):
    """The logit whose softplus is the cross-entropy of each sample."""
    return jnp.where(sampled.positive, -logit, logit)


def _regression(model, deltas, sampled):
    """Smooth absolute loss of the positive boxes, over the number of all sampled boxes (the paper: the positive)."""
    loss = jnp.sum(smooth_l1(deltas, encode(sampled.target_box, sampled.box, BOX_WEIGHTS)), axis=-1)
    return jnp.sum(jnp.where(sampled.positive, loss, 0.0)) / _count(model, sampled.valid)


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
    return jnp.sum(loss) / _count(model, known)


def _mean(model, loss, valid):
    return jnp.sum(jnp.where(valid, loss, 0.0)) / _count(model, valid)


def _count(model, mask):
    """Number of true entries on all devices, at least 1: a batch without known people has no loss, not none at all."""
    total = sum_over_devices(jnp.sum(mask, dtype=jnp.float32), model.axis_name)
    return jnp.maximum(total, 1.0)
