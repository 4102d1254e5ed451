"""AlignPS at test time: the best locations, their boxes, suppression."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ps_jax.boxes import best_first, boxes_around, clip_boxes, level_locations, suppress, take
from ps_jax.interface import ArrayLike, Detections

if TYPE_CHECKING:
    from ps_jax.systems.alignps import AlignPS


def detect(
    model: "AlignPS",
    maps: dict[int, Float[Array, "batch _ _ _"]],
    masks: dict[int, Bool[Array, "batch _ _"]],
    size: ArrayLike,
    score_threshold: float,
) -> Detections:
    """Finds and embeds everybody.

    A detection's score is the probability of a person times the centerness.

    Args:
      model: the bound module.
      maps, masks: the neck's levels, and which of their positions belong to each scene.
      size: (height, width) of the scenes in pixels.
      score_threshold: least probability of a person, before it is multiplied by the centerness.

    Returns:
      Arrays [B, at most detections_per_scene, ...].
    """
    outputs = model.head_outputs(maps, masks)
    parts = []
    for level, output in outputs.items():
        model.sow("intermediates", f"output{level}", output)
        _, height, width = output.logit.shape
        location = level_locations((height, width), 2**level)
        probability = jax.nn.sigmoid(_rows(output.logit))
        box = boxes_around(location, _rows(output.distances) * 2**level)
        score = probability * jax.nn.sigmoid(_rows(output.centerness))
        own = _rows(masks[level])
        parts.append((box, probability, score, own, _rows(output.embedding)))
    box, probability, score, valid, embedding = (
        jnp.concatenate(part, axis=1) for part in zip(*parts, strict=True)
    )
    order = best_first(score, valid)[:, : model.top_locations]
    box, probability, score, valid = (take(x, order) for x in (box, probability, score, valid))
    box = clip_boxes(box, jnp.asarray(size))
    valid, kept = suppress(box, score, valid & (probability > score_threshold), model.nms_threshold)
    kept = kept[:, : model.detections_per_scene]
    box, score, valid = (take(x, kept) for x in (box, score, valid))
    embedding = take(embedding, take(order, kept))
    return Detections(
        box=jnp.where(valid[..., None], box, 0.0),
        score=jnp.where(valid, score, 0.0),
        embedding=jnp.where(valid[..., None], embedding, 0.0),
        valid=valid,
    )


def embed(
    model: "AlignPS",
    maps: dict[int, Float[Array, "batch _ _ _"]],
    masks: dict[int, Bool[Array, "batch _ _"]],
    boxes: Float[Array, "batch box 4"],
) -> Float[Array, "batch box dimension"]:
    """Embeds boxes: the location nearest to each centre, on the level that is for boxes of that size."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    furthest = jnp.max(boxes[..., 2:] - boxes[..., :2], axis=-1, keepdims=True) / 2
    result = jnp.zeros((*boxes.shape[:2], model.width), jnp.float32)
    for (level, output), (low, high) in zip(
        model.head_outputs(maps, masks).items(), model.size_ranges, strict=True
    ):
        height, width = output.logit.shape[1:]
        cell = jnp.clip(jnp.floor(centre / 2**level).astype(jnp.int32), 0, jnp.array([width - 1, height - 1]))
        found = take(_rows(output.embedding), cell[..., 1] * width + cell[..., 0])
        result = jnp.where((furthest >= low) & (furthest <= high), found, result)
    return result


def _rows(x):
    """[batch, height, width, ...] -> [batch, location, ...]."""
    return x.reshape(x.shape[0], -1, *x.shape[3:])
