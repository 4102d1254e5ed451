"""SPNet's object-centric path in training: every anchor is its own query (SPNet, sections 3.1 and 3.3)."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ps_jax.boxes import (
    BACKGROUND,
    clip_boxes,
    decode,
    elementwise_iou,
    match_anchors,
    pairwise_iou,
    sample_balanced,
)
from ps_jax.heads import fixed_norm_logit, offset_norm
from ps_jax.interface import People, Scenes
from ps_jax.systems._devices import numbered_keys
from ps_jax.systems._spnet_reid import EmbeddedBoxes

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

    All anchors of all scenes are classified; a sample of them goes on to box regression, and the boxes
    predicted well go on to re-identification.

    Args:
      model: the bound module.
      pyramid: feature pyramid of the scenes.
      scenes, people: the batch.
      key: random key for sampling, the same on all devices.

    Returns:
      "anchor_classification", "bbox_regression1" and "reid".
    """
    anchors = model.anchors(scenes, pyramid)
    anchor_embedding = model.anchor_embedder(pyramid)
    offsets = model.bridge[0](anchor_embedding)
    logits = fixed_norm_logit(offset_norm(offsets), model.embedding_dim)

    def match(boxes, valid):
        iou = pairwise_iou(boxes, anchors)
        return match_anchors(iou, valid, model.match_high, model.match_low, allow_low_quality=True)

    matched = jax.vmap(match)(people.box, people.valid)
    terms = {"anchor_classification": model.anchor_loss(logits, matched)}

    def sample(key, matched):
        positive, negative = sample_balanced(
            key,
            matched >= 0,
            matched == BACKGROUND,
            model.samples_per_image,
            model.positive_fraction,
            order=model.order,
        )
        chosen = positive | negative
        (index,) = jnp.nonzero(chosen, size=model.samples_per_image, fill_value=0)
        return index, jnp.arange(model.samples_per_image) < jnp.sum(chosen)

    keys = numbered_keys(key, matched.shape[0], model.axis_name)
    index, sampled = jax.vmap(sample)(keys, matched)
    sampled_anchors = anchors[index]
    sampled_matched = jnp.where(sampled, jnp.take_along_axis(matched, index, axis=1), BACKGROUND)
    # A background anchor's "target" is the first person of its scene, so that a box that moved onto that
    # person counts for re-identification.
    first = jnp.argmax(people.valid, axis=1)[:, None]
    target = jnp.where(sampled_matched >= 0, sampled_matched, first)
    target_box = jnp.take_along_axis(people.box, target[..., None], axis=1)
    target_identity, target_person = (
        jnp.take_along_axis(number, target, axis=1) for number in (people.identity, people.person)
    )

    deltas = model.regression_head[0](jnp.take_along_axis(offsets, index[..., None], axis=1))
    terms["bbox_regression1"] = model.box_loss(deltas, sampled_anchors, target_box, sampled_matched >= 0)

    predicted = jax.lax.stop_gradient(clip_boxes(decode(deltas, sampled_anchors), model.clip_size(scenes)))
    accurate = elementwise_iou(predicted, target_box) >= model.reid_iou
    accurate &= sampled & jnp.any(people.valid, axis=1)[:, None]
    annotated = model.embed_boxes(pyramid, people.box, people.valid, train=True)
    scene = jnp.arange(people.valid.shape[0])
    groups = [EmbeddedBoxes(annotated, people.box, scene, people.identity, people.person, people.valid)]
    if not model.reid_gt_only:
        embedding = model.embed_boxes(pyramid, predicted, accurate, train=True)
        groups.insert(0, EmbeddedBoxes(embedding, predicted, scene, target_identity, target_person, accurate))
        model.sow("intermediates", "reid_embedding", embedding)
        model.sow("intermediates", "reid_valid", accurate)
    terms["reid"] = model.reid_loss(scenes, groups)

    model.sow("intermediates", "anchor_logits", logits)
    model.sow("intermediates", "matched", matched)
    model.sow("intermediates", "sampled_index", index)
    model.sow("intermediates", "sampled_matched", sampled_matched)
    model.sow("intermediates", "target_box", target_box)
    model.sow("intermediates", "target_identity", target_identity)
    model.sow("intermediates", "target_person", target_person)
    model.sow("intermediates", "deltas", deltas)
    model.sow("intermediates", "people_embedding", annotated)
    return terms
