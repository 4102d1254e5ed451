"""SPNet at test time, on both paths: the best anchors, regressed, cleaned of duplicates and embedded."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.nms import nms
from ps_jax.boxes import clip_boxes, decode
from ps_jax.heads import fixed_norm_logit, offset_norm, query_distances
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
    pyramid = model.features(scenes, train=False)
    anchors = model.anchors(scenes, pyramid)
    anchor_embedding = model.anchor_embedder(pyramid)
    distance = offset_norm(model.bridge[0](anchor_embedding))
    nearest = _nearest(distance, model.top_anchors)
    offsets = model.bridge[0](jnp.take_along_axis(anchor_embedding, nearest[..., None], axis=1))
    scene = jnp.arange(nearest.shape[0])
    model.sow("intermediates", "pyramid", pyramid)
    model.sow("intermediates", "anchors", anchors)
    model.sow("intermediates", "anchor_embedding", anchor_embedding)
    return _from_offsets(model, pyramid, scenes, scene, anchors[nearest], offsets)


def find(model: "SPNet", scenes: Scenes, queries: Float[Array, "query dimension"]) -> Detections:
    """Query-centric search: looks for each query in each scene.

    Args:
      model: the bound module.
      scenes: B scenes.
      queries: Q embeddings of people as `embed` makes them.

    Returns:
      Arrays [B, Q, query_top_anchors, ...].
    """
    pyramid = model.features(scenes, train=False)
    anchors = model.anchors(scenes, pyramid)
    anchor_embedding = model.anchor_embedder(pyramid)
    batch, count = anchor_embedding.shape[0], queries.shape[0]
    scene = jnp.repeat(jnp.arange(batch), count)
    query = jnp.tile(queries.astype(jnp.float32), (batch, 1))
    nearest = _nearest(query_distances(query, scene, anchor_embedding), model.query_top_anchors)
    offsets = query[:, None] - anchor_embedding[scene[:, None], nearest]
    found = _from_offsets(model, pyramid, scenes, scene, anchors[nearest], offsets)
    return jax.tree.map(lambda x: x.reshape(batch, count, *x.shape[1:]), found)


def _nearest(distance: Float[Array, "row anchor"], count: int) -> Int[Array, "row nearest"]:
    """Numbers of the `count` anchors of least distance in each row, nearest first (all, if there are fewer)."""
    _, index = jax.lax.top_k(-distance, min(count, distance.shape[1]))
    return index


def _from_offsets(
    model: "SPNet",
    pyramid: dict[str, Array],
    scenes: Scenes,
    scene: Int[Array, " row"],
    anchors: Float[Array, "row anchor 4"],
    offsets: Float[Array, "row anchor dimension"],
) -> Detections:
    """Scores, regresses, suppresses and embeds; each row is a search of its own, best anchors first.

    Args:
      model: the bound module.
      pyramid: feature pyramid of the scenes.
      scenes: the scenes.
      scene: which scene each row searches.
      anchors: the anchors of each row.
      offsets: their offsets.

    Returns:
      Arrays [row, at most detections_per_scene, ...].
    """
    logits = fixed_norm_logit(offset_norm(offsets), model.embedding_dim)
    deltas = model.regression_head[0](offsets)
    model.sow("intermediates", "top_logits", logits)
    model.sow("intermediates", "top_deltas", deltas)
    model.sow("intermediates", "top_anchors", anchors)

    best = slice(None, model.detections_per_scene)
    score = jax.nn.sigmoid(logits[:, best])
    box = clip_boxes(decode(deltas[:, best], anchors[:, best]), jnp.asarray(scenes.size)[scene])
    candidate = score > model.score_threshold
    kept = jax.vmap(nms, in_axes=(0, 0, 0, None))(box, score, candidate, model.nms_threshold)

    order = jnp.argsort(~kept, axis=1, stable=True)
    box, score, valid = (
        jnp.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - 2)), axis=1)
        for x in (box, score, kept)
    )
    embedding = model.embed_boxes(pyramid, box, valid, train=False, scene=scene)
    return Detections(
        box=jnp.where(valid[..., None], box, 0.0),
        score=jnp.where(valid, score, 0.0),
        embedding=jnp.where(valid[..., None], embedding, 0.0),
        valid=valid,
    )
