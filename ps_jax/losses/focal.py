"""Focal loss (Lin et al., Focal Loss for Dense Object Detection, 2017)."""

import jax
from jaxtyping import Array, Float


def sigmoid_focal_loss(
    logits: Float[Array, "*shape"], targets: Float[Array, "*shape"], alpha: float, gamma: float
) -> Float[Array, "*shape"]:
    """Binary cross entropy that counts well-classified examples less, as torchvision's `sigmoid_focal_loss`.

    Args:
      logits: f32[...], before the sigmoid.
      targets: f32[...], 1 for positive, 0 for negative examples.
      alpha: weight of positives, 1 - alpha that of negatives; a negative number: no such weights.
      gamma: exponent of the factor (1 - p)^gamma, p the probability given to the right answer.

    Returns:
      f32[...], the loss of each element (equation 5).
    """
    probability = jax.nn.sigmoid(logits)
    cross_entropy = jax.nn.softplus(logits) - logits * targets
    of_target = probability * targets + (1 - probability) * (1 - targets)
    # Without the exponent there is no factor: the derivative of 0 ** 0 would not be a number.
    loss = cross_entropy * (1 - of_target) ** gamma if gamma else cross_entropy
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return loss
