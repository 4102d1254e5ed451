"""What systems with proposals and a box head share: which anchors and boxes are trained on, losses, detections.

The rules are torchvision's. The options are attributes of the system's module of the same names in all of them
(`proposal_high`, `proposal_low`, `proposal_samples`, `proposal_beta`, `match_high`, `match_low`, `samples_per_image`,
`positive_fraction`, `score_threshold`, `order`, `axis_name`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from ps_jax.boxes import (
    BACKGROUND,
    best_first,
    clip_boxes,
    decode,
    encode,
    large_enough,
    match_anchors,
    pairwise_iou,
    sample_balanced,
    suppress,
    take,
)
from ps_jax.heads import proposal_losses
from ps_jax.interface import People
from ps_jax.losses import smooth_l1
from ps_jax.systems._box_sampling import candidates_with_people, sample_boxes
from ps_jax.systems._devices import numbered_keys, sum_over_devices

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the box coder behind proposals
LEAST_SIDE = 1e-2  # pixels of a detection


class Sampled(NamedTuple):
    """Boxes that a head is trained on.

    Attributes:
      box: f32[scene, sample, 4].
      positive: bool[scene, sample], stands for a person.
      person: i32[scene, sample], number of that person in the scene; 0 where it stands for nobody.
      target_box: f32[scene, sample, 4], that person's box.
      identity: i32[scene, sample], that person's identity.
      valid: bool[scene, sample], slots that are filled.
    """

    box: Array
    positive: Array
    person: Array
    target_box: Array
    identity: Array
    valid: Array


def proposal_terms(
    model: Any,
    key: Key[Array, ""],
    objectness: Float[Array, "scene anchor"],
    deltas: Float[Array, "scene anchor 4"],
    anchors: Float[Array, "anchor 4"],
    people: People,
) -> dict[str, Float[Array, ""]]:
    """Both losses of the proposals, over a sample of anchors: "proposal_classification", "proposal_regression"."""

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
    count = count_on_devices(model, positive | negative)
    return {
        "proposal_classification": classification / count,
        "proposal_regression": regression / count,
    }


def sample_with_people(
    model: Any,
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
    person = jnp.maximum(matched, 0)
    return Sampled(
        box=take(box, index),
        positive=valid & (matched >= 0),
        person=person,
        target_box=take(people.box, person),
        identity=take(people.identity, person),
        valid=valid,
    )


def classification_loss(
    model: Any, logit: Float[Array, "scene sample"], sampled: Sampled
) -> Float[Array, ""]:
    """Cross-entropy of the logit of a person, the mean over all sampled boxes."""
    loss = jax.nn.softplus(jnp.where(sampled.positive, -logit, logit))
    return jnp.sum(jnp.where(sampled.valid, loss, 0.0)) / count_on_devices(model, sampled.valid)


def regression_loss(
    model: Any, deltas: Float[Array, "scene sample 4"], sampled: Sampled, beta: float = 1.0
) -> Float[Array, ""]:
    """Smooth absolute loss of the positive boxes, over the number of all sampled boxes."""
    loss = jnp.sum(smooth_l1(deltas, encode(sampled.target_box, sampled.box, BOX_WEIGHTS), beta), axis=-1)
    return jnp.sum(jnp.where(sampled.positive, loss, 0.0)) / count_on_devices(model, sampled.valid)


def count_on_devices(model: Any, mask: Bool[Array, "..."]) -> Float[Array, ""]:
    """Number of true entries on all devices, at least 1: where there are none there is no loss, not none at all."""
    total = sum_over_devices(jnp.sum(mask, dtype=jnp.float32), model.axis_name)
    return jnp.maximum(total, 1.0)


def refined(
    deltas: Float[Array, "scene box 4"], box: Float[Array, "scene box 4"], size: Array
) -> Float[Array, "scene box 4"]:
    """Where a head moves boxes, within their scenes of `size` (height, width)."""
    return clip_boxes(decode(deltas, box, BOX_WEIGHTS), size)


def detected(
    model: Any,
    logits: Float[Array, "scene box 2"],
    box: Float[Array, "scene box 4"],
    valid: Bool[Array, "scene box"],
    nms_threshold: float | None,
) -> tuple[Float[Array, "scene found 4"], Float[Array, "scene found"], Bool[Array, "scene found"]]:
    """The people that a head finds among boxes: those that score enough, without duplicates, best first.

    Args:
      model: the bound module, with `score_threshold` and `detections_per_scene`.
      logits: of background and person.
      box: the refined boxes.
      valid: boxes that exist.
      nms_threshold: overlap above which the lower score is suppressed; None suppresses nothing.

    Returns:
      Boxes, scores, and which of them are detections.
    """
    score = jax.nn.softmax(logits)[..., 1]
    valid &= (score > model.score_threshold) & large_enough(box, LEAST_SIDE)
    if nms_threshold is None:
        order = best_first(score, valid)
    else:
        valid, order = suppress(box, score, valid, nms_threshold)
    order = order[:, : model.detections_per_scene]
    return take(box, order), take(score, order), take(valid, order)
