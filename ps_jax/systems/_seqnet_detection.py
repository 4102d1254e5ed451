"""The SeqNet family at test time: proposals, the first head, suppression, the re-identification head, suppression."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ps_jax.boxes import large_enough, suppress, take
from ps_jax.heads import choose_proposals
from ps_jax.interface import Detections, Scenes
from ps_jax.systems._box_head import LEAST_SIDE, detected, refined

if TYPE_CHECKING:
    from ps_jax.systems.seqnet import SeqNet


def detect(model: "SeqNet", scenes: Scenes) -> Detections:
    """Finds and embeds everybody.

    Args:
      model: the bound module.
      scenes: B scenes.

    Returns:
      Arrays [B, at most detections_per_scene, ...].
    """
    size = jnp.asarray(scenes.size)
    features = model.features(scenes, train=False)
    objectness, deltas = model.rpn(features)
    box, valid = choose_proposals(
        *(objectness, deltas, model.anchors(scenes, features), size),
        *model.test_proposals,
        model.proposal_nms_threshold,
    )
    model.sow("intermediates", "features", features)
    model.sow("intermediates", "objectness", objectness)
    model.sow("intermediates", "proposal_deltas", deltas)
    model.sow("intermediates", "proposals", box)

    first_score = None
    if model.sequential:
        box, first_score, valid = _first_detections(model, features, box, valid, size)
        model.sow("intermediates", "first_boxes", box)
        model.sow("intermediates", "first_scores", first_score)
        model.sow("intermediates", "first_valid", valid)
    output = model.identify_boxes(features, box, valid, train=False)
    model.sow("intermediates", "reid_output", output)

    score = jax.nn.sigmoid(output.logit)
    if first_score is not None and model.first_score:
        score = first_score
    if model.regression:
        box = refined(output.deltas, box, size)
    valid &= (score > model.score_threshold) & large_enough(box, LEAST_SIDE)
    threshold = model.nms_threshold if model.sequential else model.first_nms_threshold
    valid, order = suppress(box, score, valid, threshold)
    order = order[:, : model.detections_per_scene]
    box, score, valid, embedding = (take(x, order) for x in (box, score, valid, output.embedding))
    if model.embed_detections:
        embedding = model.identify_boxes(features, box, valid, train=False).embedding
    return Detections(
        box=jnp.where(valid[..., None], box, 0.0),
        score=jnp.where(valid, score, 0.0),
        embedding=jnp.where(valid[..., None], embedding, 0.0),
        valid=valid,
    )


def _first_detections(
    model: "SeqNet",
    features: Array,
    proposals: Float[Array, "batch box 4"],
    valid: Bool[Array, "batch box"],
    size: Array,
) -> tuple[Float[Array, "batch found 4"], Float[Array, "batch found"], Bool[Array, "batch found"]]:
    """What the first head finds: boxes, scores and mask, best first."""
    logits, deltas = model.detect_boxes(features, proposals, valid, train=False)
    model.sow("intermediates", "first_logits", logits)
    model.sow("intermediates", "first_deltas", deltas)
    threshold = model.first_nms_threshold if model.suppress_between else None
    return detected(model, logits, refined(deltas, proposals, size), valid, threshold)
