"""Region proposals: which anchors of feature maps are worth a closer look (Ren et al., Faster R-CNN, 2015).

With torchvision's rules. Anchors are in the order of `ps_jax.boxes.pyramid_anchors`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from kernels.nms import batched_nms
from ps_jax.boxes import best_first, clip_boxes, decode, encode, large_enough, take
from ps_jax.layers import Conv, normal
from ps_jax.losses import smooth_l1

LEAST_SIDE = 1e-3  # pixels of a proposal in torchvision
_INIT: dict[str, Any] = {"kernel_init": normal(0.01), "bias_init": nn.initializers.zeros}


class RegionProposalHead(nn.Module):
    """Objectness and box deltas of the anchors of every cell: a 3x3 convolution, ReLU, and two 1x1 ones.

    Attributes:
      anchors_per_cell: anchors of a cell.
      dtype: type of the computation; None takes the input's.
    """

    anchors_per_cell: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch height width channel"]
    ) -> tuple[Float[Array, "batch anchor"], Float[Array, "batch anchor 4"]]:
        """Looks at a map.

        Returns:
          f32 logits [batch, anchor] and deltas [batch, anchor, 4] for the box coder with weights (1, 1, 1, 1).
        """
        common = {"dtype": self.dtype, **_INIT}
        hidden = Conv(features.shape[-1], 3, padding=1, name="convolution", **common)(features)
        hidden = jax.nn.relu(hidden)
        objectness = Conv(self.anchors_per_cell, 1, name="objectness", **common)(hidden)
        deltas = Conv(4 * self.anchors_per_cell, 1, name="deltas", **common)(hidden)
        batch = features.shape[0]
        return (
            objectness.astype(jnp.float32).reshape(batch, -1),
            deltas.astype(jnp.float32).reshape(batch, -1, 4),
        )


def choose_proposals(
    objectness: Float[Array, "batch anchor"],
    deltas: Float[Array, "batch anchor 4"],
    anchors: Float[Array, "anchor 4"],
    size: Int[Array, "batch 2"],
    before_nms: int,
    after_nms: int,
    nms_threshold: float,
    least_side: float = LEAST_SIDE,
    levels: Sequence[int] = (),
) -> tuple[Float[Array, "batch proposal 4"], Bool[Array, "batch proposal"]]:
    """The most promising boxes of every scene, without duplicates, best first; no gradient passes.

    Only boxes of the same level suppress each other.

    Args:
      objectness, deltas: as the head makes them.
      anchors: xyxy in pixels.
      size: (height, width) that the boxes of each scene are clipped to.
      before_nms: how many anchors of a scene, or of each of its levels, are looked at.
      after_nms: how many proposals of a scene to keep.
      nms_threshold: overlap above which the lower objectness is suppressed.
      least_side: pixels that a proposal's sides must have; 0 keeps those without area, as MMDetection.
      levels: how many anchors each level of a pyramid has; () is one map.

    Returns:
      f32 boxes [batch, at most after_nms, 4], zeros where not valid, and which are.
    """
    objectness, deltas = jax.lax.stop_gradient((objectness, deltas))
    lengths = tuple(levels) or (objectness.shape[1],)
    starts = np.cumsum((0, *lengths[:-1]))
    best = jnp.concatenate(
        [
            start + jax.lax.top_k(objectness[:, start : start + length], min(before_nms, length))[1]
            for start, length in zip(starts.tolist(), lengths, strict=True)
        ],
        axis=1,
    )
    level = np.repeat(np.arange(len(lengths)), np.minimum(lengths, before_nms))
    score = take(objectness, best)
    box = decode(take(deltas, best), anchors[best])
    box = clip_boxes(box, size)
    # One scene after the other: the overlaps of all pairs are the largest array of the whole system.
    rows = (box, score, large_enough(box, least_side))
    kept = jax.lax.map(
        lambda row: batched_nms(
            *(row[0], row[1], jnp.asarray(level), row[2], nms_threshold), max_kept=after_nms
        ),
        rows,
    )
    order = best_first(score, kept)[:, :after_nms]
    valid = take(kept, order)
    box = take(box, order)
    return jnp.where(valid[..., None], box, 0.0), valid


def proposal_losses(
    objectness: Float[Array, "batch anchor"],
    deltas: Float[Array, "batch anchor 4"],
    anchors: Float[Array, "anchor 4"],
    target_box: Float[Array, "batch anchor 4"],
    positive: Bool[Array, "batch anchor"],
    negative: Bool[Array, "batch anchor"],
    beta: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sums of both losses over the sampled anchors; both are to be divided by their number.

    Args:
      objectness, deltas: as the head makes them.
      anchors: xyxy in pixels.
      target_box: the box that each anchor stands for.
      positive, negative: sampled anchors.
      beta: of the smooth absolute loss: 1/9 in torchvision since 0.7; 0, the absolute loss, before.

    Returns:
      Binary cross-entropy of the objectness, smooth absolute loss of the deltas of positive anchors.
    """
    # log(1 + exp(-x)) for positive anchors, log(1 + exp(x)) for negative ones
    entropy = jax.nn.softplus(jnp.where(positive, -objectness, objectness))
    classification = jnp.sum(jnp.where(positive | negative, entropy, 0.0))
    regression = jnp.sum(smooth_l1(deltas, encode(target_box, anchors), beta), axis=-1)
    return classification, jnp.sum(jnp.where(positive, regression, 0.0))
