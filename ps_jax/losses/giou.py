"""Loss of box regression by generalised intersection over union."""

from jaxtyping import Array, Float

from ps_jax.boxes import elementwise_giou


def giou_loss(
    predicted: Float[Array, "*batch 4"], target: Float[Array, "*batch 4"], epsilon: float = 1e-7
) -> Float[Array, "*batch"]:
    """One less the generalised intersection over union (Rezatofighi et al., 2019, algorithm 2).

    As torchvision's `generalized_box_iou_loss`.

    Args:
      predicted: f32[..., 4], `xyxy`.
      target: f32[..., 4], `xyxy`.
      epsilon: added to the areas of union and hull before they divide.

    Returns:
      f32[...] in 0 .. 2, the loss of each pair.
    """
    return 1.0 - elementwise_giou(predicted, target, epsilon)
