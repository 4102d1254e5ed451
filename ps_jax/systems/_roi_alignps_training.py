"""ROI-AlignPS in training: AlignPS's losses, those of a Faster R-CNN, and what the branches tell each other."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ps_jax.boxes import BACKGROUND, encode, match_anchors, pairwise_iou, sample_balanced, take
from ps_jax.heads import choose_proposals, proposal_losses
from ps_jax.interface import People, Scenes
from ps_jax.losses import InstanceMemory, oim_loss, smooth_l1, update_memory
from ps_jax.systems import _alignps_detection, _alignps_training
from ps_jax.systems._box_head import BOX_WEIGHTS
from ps_jax.systems._box_sampling import candidates_with_people, sample_boxes
from ps_jax.systems._devices import device_count, gather_rows, numbered_keys, sum_over_devices
from ps_jax.systems._roi_alignps_mutual import BranchTables, mutual_terms

if TYPE_CHECKING:
    from ps_jax.systems.roi_alignps import ROIAlignPS

PROPOSAL_HIGH, PROPOSAL_LOW, PROPOSAL_LEAST = 0.7, 0.3, 0.3  # overlaps of anchors with people
MATCH_HIGH, MATCH_LOW = 0.5, 0.1  # of proposals; between the two they are not trained on
REGRESSION_WEIGHT = 10.0


def losses(
    model: "ROIAlignPS", scenes: Scenes, people: People, key: Key[Array, ""]
) -> dict[str, Float[Array, ""]]:
    """Losses of both branches; each is this device's share of the loss of the global batch.

    Args:
      model: the bound module.
      scenes, people: the batch.
      key: random key, the same on all devices.

    Returns:
      AlignPS's terms; where there are proposals "proposal_classification", "proposal_regression"; "box_classification",
      "box_regression", "box_reid"; and those of `mutual_terms` that have a weight.
    """
    proposal_key, box_key, mutual_key = jax.random.split(key, 3)
    size = jnp.asarray(scenes.size)
    tables = BranchTables(model.box_table.value, model.lookup_table.value)  # before the step moves them
    trunk = model.trunk_maps(scenes, train=True)
    levels = model.neck_levels(trunk, size)
    terms, positives = _alignps_training.losses(model, *levels, people, model.location_reid)
    features = trunk["c4"]
    if model.train_boxes == "proposals":
        proposal_terms, box, exists = _proposals(model, proposal_key, features, scenes, people)
        terms |= proposal_terms
    else:
        found = _alignps_detection.detect(model, *levels, size, score_threshold=0.0)
        box, exists = jax.lax.stop_gradient(found.box), found.valid
    box, matched = candidates_with_people(box, exists, people, MATCH_HIGH, MATCH_LOW)
    # Annotated boxes first, as MMDetection has them: the memory takes the samples in this order.
    box, matched = (jnp.roll(x, people.valid.shape[1], axis=1) for x in (box, matched))
    index, valid = sample_boxes(box_key, matched, model.samples_per_image, 0.5, model.order, model.axis_name)
    matched, box = take(matched, index), take(box, index)
    person = jnp.maximum(matched, 0)
    positive, identity = valid & (matched >= 0), take(people.identity, person)
    output = model.embed_boxes(features, box, valid, train=True)
    model.sow("intermediates", "box_output", output)
    model.sow("intermediates", "box_samples", (box, positive, identity, valid))

    entropy = jax.nn.softplus(jnp.where(positive, -output.logit, output.logit))
    wanted = encode(take(people.box, person), box, BOX_WEIGHTS)
    regression = jnp.sum(smooth_l1(output.deltas, wanted, 0.0), axis=-1)
    count = _count(model, valid)
    terms["box_classification"] = jnp.sum(jnp.where(valid, entropy, 0.0)) / count
    terms["box_regression"] = REGRESSION_WEIGHT * jnp.sum(jnp.where(positive, regression, 0.0)) / count
    rows = (
        output.embedding.reshape(-1, model.width),
        identity.reshape(-1),
        positive.reshape(-1),
    )
    terms["box_reid"] = _matching(model, *rows)
    located = (
        positives.embedding.reshape(-1, model.width),
        positives.identity.reshape(-1),
        positives.valid.reshape(-1),
    )
    slots = people.valid.size * device_count(model.axis_name)
    return terms | mutual_terms(model, mutual_key, rows, located, tables, slots)


def _proposals(model, key, features, scenes, people):
    """Both losses of the proposals, and the proposals: boxes, and which of the slots are filled."""
    size = jnp.asarray(scenes.size)
    anchors = model.anchors(scenes, features)
    objectness, deltas = model.rpn(features)
    terms = _proposal_terms(model, key, objectness, deltas, anchors, people, size)
    box, exists = choose_proposals(
        *(objectness, deltas, anchors, size),
        *(*model.train_proposals, model.proposal_nms_threshold),
        least_side=0.0,
    )
    return terms, box, exists


def _proposal_terms(model, key, objectness, deltas, anchors, people, size):
    """Both losses of the proposals, over a sample of the anchors that lie within their scene."""

    def choose(key, boxes, exists, size):
        inside = jnp.all(anchors[:, :2] >= 0, axis=-1) & jnp.all(anchors[:, 2:] < size[::-1], axis=-1)
        # An anchor outside is nobody's best one either.
        iou = jnp.where(inside, pairwise_iou(boxes, anchors), -1.0)
        matched = match_anchors(iou, exists, PROPOSAL_HIGH, PROPOSAL_LOW, True, PROPOSAL_LEAST)
        return matched, *sample_balanced(
            *(key, inside & (matched >= 0), inside & (matched == BACKGROUND)),
            *(model.proposal_samples, 0.5),
            order=model.order,
        )

    keys = numbered_keys(key, objectness.shape[0], model.axis_name)
    matched, positive, negative = jax.vmap(choose)(keys, people.box, people.valid, size)
    target = take(people.box, jnp.maximum(matched, 0))
    classification, regression = proposal_losses(objectness, deltas, anchors, target, positive, negative, 0.0)
    count = _count(model, positive | negative)
    return {
        "proposal_classification": classification / count,
        "proposal_regression": regression / count,
    }


def _matching(model, embedding, identity, valid):
    """Plain online instance matching of the box branch, the mean over known people; its memory moves afterwards."""
    memory = InstanceMemory(model.box_table.value, model.box_queue.value, model.box_queue_header.value)
    loss = oim_loss(embedding, identity, valid, memory, model.box_oim_scale, skip_unwritten=False)
    if not model.is_initializing():
        rows = jax.lax.stop_gradient(gather_rows((embedding, identity, valid), model.axis_name))
        model.box_table.value, model.box_queue.value, model.box_queue_header.value = update_memory(
            memory, *rows, model.oim_momentum
        )
    return jnp.sum(loss) / _count(model, valid & (identity >= 0))


def _count(model, mask):
    """Number of true entries on all devices, at least 1."""
    return jnp.maximum(sum_over_devices(jnp.sum(mask, dtype=jnp.float32), model.axis_name), 1.0)
