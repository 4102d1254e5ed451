"""SPNet's object-centric path in training: every anchor is its own query (SPNet, sections 3.1 and 3.3)."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ps_jax.boxes import BACKGROUND, elementwise_iou, match_anchors, pairwise_iou, take
from ps_jax.heads import offset_norm
from ps_jax.interface import People, Scenes
from ps_jax.systems._box_sampling import candidates_with_people, sample_boxes
from ps_jax.systems._devices import device_count
from ps_jax.systems._spnet_cascade import Samples, Stage, predicted_boxes, run_step, stage_losses
from ps_jax.systems._spnet_losses import anchor_loss, check_anchors
from ps_jax.systems._spnet_reid import EmbeddedBoxes, reid_loss

if TYPE_CHECKING:
    from ps_jax.systems.spnet import SPNet


def object_centric_losses(
    model: "SPNet",
    pyramid: dict[str, Array],
    scenes: Scenes,
    people: People,
    key: Key[Array, ""],
) -> dict[str, Float[Array, ""]]:
    """Losses of the object-centric path.

    All anchors of all scenes are classified; a sample of them goes on to box regression and the cascade, and
    the boxes predicted well at the end go on to re-identification.

    Args:
      model: the bound module.
      pyramid: feature pyramid of the scenes.
      scenes, people: the batch.
      key: random key for sampling, the same on all devices.

    Returns:
      "anchor_classification", "bbox_regression1", those of `stage_losses` for each step of the cascade, "reid".
    """
    scene_count = people.valid.shape[0] * device_count(model.axis_name)
    check_anchors(model, scene_count, model.samples_per_image, "scenes (batch_size) x samples_per_image")
    anchors = model.anchors(scenes, pyramid)
    anchor_embedding = model.anchor_embedder(pyramid)
    offsets = model.offsets(0, anchor_embedding)
    logits = model.logits(0, offset_norm(offsets), jnp.ones(offsets.shape[0], bool), train=True)

    def match(boxes, valid):
        iou = pairwise_iou(boxes, anchors)
        return match_anchors(iou, valid, model.match_high, model.match_low, allow_low_quality=True)

    matched = jax.vmap(match)(people.box, people.valid)
    terms = {"anchor_classification": anchor_loss(model, logits, matched)}

    key, *step_keys = jax.random.split(key, 1 + model.num_cascade_steps) if model.num_cascade_steps else [key]
    sampling = (model.samples_per_image, model.positive_fraction, model.order, model.axis_name)
    index, sampled = sample_boxes(key, matched, *sampling)
    samples = _targets(people, anchors[index], take(matched, index), sampled)
    deltas = model.regression_head[0](take(offsets, index))
    stage = Stage(samples, deltas, take(logits, index))
    terms |= stage_losses(model, 0, stage)
    model.sow("intermediates", "stage0", stage)

    annotated = model.embed_boxes(pyramid, people.box, people.valid, train=True)
    if model.separate_location_heads:
        # Trains nothing, but moves the batch statistics of the first location head towards annotated boxes, as
        # the released code does: it embeds them here, too.
        located = model.embed_locations(1, pyramid, people.box, people.valid, train=True)
        model.sow("intermediates", "people_location", located)
    size = model.clip_size(scenes)
    for step, step_key in enumerate(step_keys, 1):
        box, candidate_matched = candidates_with_people(
            predicted_boxes(stage, size), stage.samples.valid, people, model.match_high, model.match_high
        )
        chosen, exists = sample_boxes(step_key, candidate_matched, *sampling)
        samples = _targets(people, take(box, chosen), take(candidate_matched, chosen), exists)
        stage = run_step(model, step, pyramid, samples)
        terms |= stage_losses(model, step, stage)
        model.sow("intermediates", f"candidates{step}", candidate_matched)
        model.sow("intermediates", f"chosen{step}", chosen)
        model.sow("intermediates", f"stage{step}", stage)

    groups = [EmbeddedBoxes(annotated, people.box, None, people.identity, people.person, people.valid)]
    if not model.reid_gt_only:
        predicted = predicted_boxes(stage, size)
        target_identity, target_person = (
            take(number, stage.samples.target) for number in (people.identity, people.person)
        )
        accurate = elementwise_iou(predicted, stage.samples.target_box) >= model.reid_iou
        accurate &= stage.samples.valid & jnp.any(people.valid, axis=1)[:, None]
        embedding = model.embed_boxes(pyramid, predicted, accurate, train=True)
        groups.insert(0, EmbeddedBoxes(embedding, predicted, None, target_identity, target_person, accurate))
        model.sow("intermediates", "reid_identity", target_identity)
        model.sow("intermediates", "reid_person", target_person)
        model.sow("intermediates", "reid_embedding", embedding)
        model.sow("intermediates", "reid_valid", accurate)
    terms["reid"] = reid_loss(model, scenes, groups)

    model.sow("intermediates", "anchor_logits", logits)
    model.sow("intermediates", "matched", matched)
    model.sow("intermediates", "sampled_index", index)
    model.sow("intermediates", "people_embedding", annotated)
    return terms


def _targets(
    people: People,
    box: Float[Array, "scene sample 4"],
    matched: Int[Array, "scene sample"],
    sampled: Bool[Array, "scene sample"],
) -> Samples:
    """Samples with the person that each stands for.

    A background box's "target" is the first person of its scene, so that a box that moved onto that person
    counts for re-identification.
    """
    matched = jnp.where(sampled, matched, BACKGROUND)
    target = jnp.where(matched >= 0, matched, jnp.argmax(people.valid, axis=1)[:, None])
    return Samples(box, matched, target, take(people.box, target), sampled)
