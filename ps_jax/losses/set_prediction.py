"""Losses of a set of predictions, each matched with one person or none (DETR, Sparse R-CNN).

Carion et al., "End-to-End Object Detection with Transformers", 2020; Sun et al., "Sparse R-CNN", 2021. Numbers are
those of Sparse R-CNN's released code, for one class.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ps_jax.boxes import assign_one_to_one, pairwise_giou, take
from ps_jax.losses.focal import sigmoid_focal_loss
from ps_jax.losses.giou import giou_loss

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss
_EPSILON = 1e-8  # keeps the logarithms of the cost finite


class SetWeights(NamedTuple):
    """How much each part counts, in the costs of matching and in the losses alike.

    Attributes:
      classification: of the focal part.
      l1: of the distance of corners, in units of the image's size.
      giou: of the generalised intersection over union.
    """

    classification: float = 2.0
    l1: float = 5.0
    giou: float = 2.0


class SetLosses(NamedTuple):
    """Sums over all predictions, without weights; to be divided by the number of people.

    Attributes:
      classification: f32[], focal loss of every prediction.
      l1: f32[], distance of corners of the matched ones, in units of the image's size.
      giou: f32[], of the matched ones.
    """

    classification: Array
    l1: Array
    giou: Array


def match_predictions(
    logit: Float[Array, "batch prediction"],
    box: Float[Array, "batch prediction 4"],
    person_box: Float[Array, "batch person 4"],
    person_valid: Bool[Array, "batch person"],
    size: Int[Array, "batch 2"],
    weights: SetWeights,
) -> Int[Array, "batch person"]:
    """The prediction that stands for each person: no two for one, and the sum of costs is least.

    Args:
      logit: of a person.
      box: predicted, `xyxy` in pixels.
      person_box: annotated.
      person_valid: false for padding.
      size: (height, width) of the scenes in pixels.
      weights: of the parts of the cost.

    Returns:
      i32[batch, person], -1 for padding.
    """

    def match(logit, box, person_box, valid, unit):
        cost = weights.classification * focal_cost(logit)
        distance = jnp.sum(jnp.abs(person_box[:, None] / unit - box / unit), axis=-1)
        cost = cost + weights.l1 * distance - weights.giou * pairwise_giou(person_box, box)
        return assign_one_to_one(cost, valid)

    return jax.vmap(match)(logit, jax.lax.stop_gradient(box), person_box, person_valid, image_units(size))


def focal_cost(logit: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """What the focal loss would be as a person less what it would be as background."""
    probability = jax.nn.sigmoid(logit)
    person = -ALPHA * (1 - probability) ** GAMMA * jnp.log(probability + _EPSILON)
    background = -(1 - ALPHA) * probability**GAMMA * jnp.log(1 - probability + _EPSILON)
    return person - background


def set_losses(
    logit: Float[Array, "batch prediction"],
    box: Float[Array, "batch prediction 4"],
    person_box: Float[Array, "batch person 4"],
    matched: Int[Array, "batch person"],
    size: Int[Array, "batch 2"],
) -> SetLosses:
    """Losses of all predictions; a prediction that is matched with nobody is background.

    Args:
      logit: of a person.
      box: predicted, `xyxy` in pixels.
      person_box: annotated.
      matched: the prediction of each person, -1 for padding; see `match_predictions`.
      size: (height, width) of the scenes in pixels.
    """
    valid = matched >= 0
    target = jnp.any(matched[:, :, None] == jnp.arange(logit.shape[1]), axis=1).astype(jnp.float32)
    found, unit = take(box, jnp.maximum(matched, 0)), image_units(size)[:, None]
    distance = jnp.sum(jnp.abs(found / unit - person_box / unit), axis=-1)
    overlap = giou_loss(found, person_box, epsilon=0.0)
    return SetLosses(
        jnp.sum(sigmoid_focal_loss(logit, target, ALPHA, GAMMA)),
        jnp.sum(jnp.where(valid, distance, 0.0)),
        jnp.sum(jnp.where(valid, overlap, 0.0)),
    )


def image_units(size: Int[Array, "batch 2"]) -> Float[Array, "batch 4"]:
    """(width, height, width, height) of scenes of size (height, width)."""
    size = jnp.asarray(size, jnp.float32)
    return jnp.concatenate([size[:, ::-1], size[:, ::-1]], axis=-1)
