"""SPNet's detection losses (section 3.3); each is this device's share of the loss of the global batch."""

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ps_jax.boxes import IGNORED, decode
from ps_jax.errors import ConfigError
from ps_jax.losses import giou_loss, sigmoid_focal_loss
from ps_jax.systems._devices import sum_over_devices

if TYPE_CHECKING:
    from ps_jax.systems.spnet import SPNet


def check_anchors(model: "SPNet", rows: int, samples: int, what: str) -> None:
    """Raises ConfigError where a batch regresses another number of anchors than `anchors_per_batch`.

    Args:
      model: the bound module.
      rows: scenes or pairs of the global batch.
      samples: anchors of each.
      what: names the two and how they are set, for the message.
    """
    if model.anchors_per_batch not in (None, rows * samples):
        raise ConfigError(
            f"anchors_per_batch is {model.anchors_per_batch}, but a batch regresses {rows} x {samples} = "
            f"{rows * samples} anchors: {what}. Make them fit, or set anchors_per_batch to "
            f"{rows * samples}; query- and object-centric training compare only at one number."
        )


def anchor_loss(
    model: "SPNet",
    logits: Float[Array, "row anchor"],
    matched: Int[Array, "row anchor"],
    valid: Bool[Array, "row #anchor"] | bool = True,
) -> Float[Array, ""]:
    """Focal loss summed over all anchors that are not ignored, over the number of positive ones."""
    return _logit_loss(model, logits, matched, valid, model.focal_alpha, model.focal_gamma)


def sample_loss(
    model: "SPNet",
    logits: Float[Array, "row sample"],
    matched: Int[Array, "row sample"],
    valid: Bool[Array, "row sample"],
) -> Float[Array, ""]:
    """Loss of a stage's samples, summed and divided as `anchor_loss` (the paper would take the mean)."""
    focal = model.classification_loss == "focal"
    alpha, gamma = (model.focal_alpha, model.focal_gamma) if focal else (-1.0, 0.0)
    return _logit_loss(model, logits, matched, valid, alpha, gamma)


def _logit_loss(model, logits, matched, valid, alpha, gamma):
    positive = (matched >= 0) & valid
    loss = sigmoid_focal_loss(logits, positive.astype(jnp.float32), alpha, gamma)
    loss = jnp.sum(jnp.where((matched != IGNORED) & valid, loss, 0.0))
    return loss / count(model, positive)


def box_loss(
    model: "SPNet",
    deltas: Float[Array, "row sample 4"],
    anchors: Float[Array, "row sample 4"],
    targets: Float[Array, "row sample 4"],
    positive: Bool[Array, "row sample"],
) -> Float[Array, ""]:
    """GIoU loss of the decoded, unclipped boxes, mean over the positive samples of the batch."""
    loss = giou_loss(decode(deltas, anchors), targets)
    return jnp.sum(jnp.where(positive, loss, 0.0)) / count(model, positive)


def count(model: "SPNet", mask: Bool[Array, "..."]) -> Float[Array, ""]:
    """Number of true entries on all devices, at least 1, as the divisor of a loss."""
    total = sum_over_devices(jnp.sum(mask, dtype=jnp.float32), model.axis_name)
    return jnp.maximum(total, 1.0)
