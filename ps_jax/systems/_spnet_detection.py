"""SPNet at test time, on both paths: the best anchors, regressed, cleaned of duplicates, refined and embedded."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ps_jax.boxes import clip_boxes, decode, suppress, take
from ps_jax.heads import offset_norm, query_distances
from ps_jax.interface import Detections, Scenes

if TYPE_CHECKING:
    from ps_jax.systems.spnet import SPNet


def detect(model: "SPNet", scenes: Scenes) -> Detections:
    """Object-centric detection: every anchor predicts its own query.

    Args:
      model: the bound module.
      scenes: B scenes.

    Returns:
      Arrays [B, detections_per_scene, ...].
    """
    pyramid, anchor_embedding = model.look(scenes)
    anchors = model.anchors(scenes, pyramid)
    best = _best(model, offset_norm(model.offsets(0, anchor_embedding)), model.top_anchors)
    offsets = model.offsets(0, jnp.take_along_axis(anchor_embedding, best[..., None], axis=1))
    scene = jnp.arange(best.shape[0])
    model.sow("intermediates", "pyramid", pyramid)
    model.sow("intermediates", "anchors", anchors)
    model.sow("intermediates", "anchor_embedding", anchor_embedding)
    return _from_offsets(model, pyramid, scenes, scene, anchors[best], offsets)


def find(
    model: "SPNet",
    scenes: Scenes,
    queries: Float[Array, "query dimension"],
    pyramid: dict[str, Array],
    anchor_embedding: Float[Array, "batch anchor dimension"],
) -> Detections:
    """Query-centric search: looks for each query in each scene.

    Args:
      model: the bound module.
      scenes: B scenes.
      queries: Q embeddings of people as `embed_queries` makes them.
      pyramid, anchor_embedding: of the scenes.

    Returns:
      Arrays [B, Q, query_top_anchors, ...].
    """
    anchors = model.anchors(scenes, pyramid)
    batch, count = anchor_embedding.shape[0], queries.shape[0]
    scene = jnp.repeat(jnp.arange(batch), count)
    query = jnp.tile(queries.astype(jnp.float32), (batch, 1))
    distance = query_distances(query, scene, anchor_embedding, lambda q, a: model.offsets(0, a, q))
    best = _best(model, distance, model.query_top_anchors)
    offsets = model.offsets(0, anchor_embedding[scene[:, None], best], query[:, None])
    found = _from_offsets(model, pyramid, scenes, scene, anchors[best], offsets, query[:, None])
    return jax.tree.map(lambda x: x.reshape(batch, count, *x.shape[1:]), found)


def _best(model: "SPNet", norm: Float[Array, "row anchor"], count: int) -> Int[Array, "row best"]:
    """Numbers of the `count` anchors of each row that score highest, best first (all, if there are fewer)."""
    score = norm if model.positive_norm else -norm
    return jax.lax.top_k(score, min(count, norm.shape[1]))[1]


def _from_offsets(
    model: "SPNet",
    pyramid: dict[str, Array],
    scenes: Scenes,
    scene: Int[Array, " row"],
    anchors: Float[Array, "row anchor 4"],
    offsets: Float[Array, "row anchor dimension"],
    query: Float[Array, "row 1 dimension"] | None = None,
) -> Detections:
    """Scores, regresses, suppresses, refines and embeds; each row is a search of its own, best anchors first.

    Args:
      model: the bound module.
      pyramid: feature pyramid of the scenes.
      scenes: the scenes.
      scene: which scene each row searches.
      anchors: the anchors of each row.
      offsets: their offsets.
      query: query of each row; None on the object-centric path.

    Returns:
      Arrays [row, at most detections_per_scene, ...].
    """
    exists = jnp.ones(anchors.shape[:2], bool)
    logits = model.logits(0, offset_norm(offsets), exists, train=False)
    deltas = model.regression_head[0](offsets)
    model.sow("intermediates", "top_logits", logits)
    model.sow("intermediates", "top_deltas", deltas)
    model.sow("intermediates", "top_anchors", anchors)

    size = jnp.asarray(scenes.size)[scene]
    best = slice(None, model.detections_per_scene)
    box = clip_boxes(decode(deltas[:, best], anchors[:, best]), size)
    # Logits tell apart what scores close to 1 do not.
    logits = logits[:, best]
    valid = jax.nn.sigmoid(logits) > model.score_threshold
    box, logits, valid = _suppress(model, box, logits, valid)
    for step in range(1, model.num_cascade_steps + 1):
        embedding = model.embed_locations(step, pyramid, box, valid, train=False, scene=scene)
        offsets = model.offsets(step, embedding, query)
        # The score of the last step counts, even where it falls below the threshold.
        logits = model.logits(step, offset_norm(offsets), valid, train=False)
        box = clip_boxes(decode(model.regression_head[step](offsets), box), size)
        box, logits, valid = _suppress(model, box, logits, valid)

    embedding = model.embed_boxes(pyramid, box, valid, train=False, scene=scene)
    return Detections(
        box=jnp.where(valid[..., None], box, 0.0),
        score=jnp.where(valid, jax.nn.sigmoid(logits), 0.0),
        embedding=jnp.where(valid[..., None], embedding, 0.0),
        valid=valid,
    )


def _suppress(model, box, logits, valid):
    """Boxes, logits and mask after non-maximum suppression, those that stand first, by falling logit."""
    kept, order = suppress(box, logits, valid, model.nms_threshold)
    return take(box, order), take(logits, order), take(kept, order)
