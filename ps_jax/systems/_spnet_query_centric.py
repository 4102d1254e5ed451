"""SPNet's query-centric path in training: each person of the batch is looked for in its scenes (section 3.2).

A pair is a scene and a query (an annotated person of any scene). The pair is positive if that person, known
by `People.person`, is in the scene: in the query's own picture or in another view of it.
"""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ps_jax.boxes import BACKGROUND, elementwise_giou, elementwise_iou, match_anchors, sample_indices, take
from ps_jax.boxes.sampling import Order
from ps_jax.heads import query_distances
from ps_jax.interface import People, Scenes
from ps_jax.systems._devices import gather_rows, global_numbers, numbered_keys
from ps_jax.systems._spnet_cascade import Samples, Stage, predicted_boxes, run_step, stage_losses
from ps_jax.systems._spnet_losses import anchor_loss, check_anchors
from ps_jax.systems._spnet_reid import EmbeddedBoxes, reid_loss

if TYPE_CHECKING:
    from ps_jax.systems.spnet import SPNet


class Pairs(NamedTuple):
    """Query-scene pairs of a batch.

    Attributes:
      scene: which scene is searched.
      query: which annotated person is searched for, counted over all slots of all scenes.
      target_box: that person's box in the searched scene, zeros in a negative pair.
      positive: whether the person is in the scene.
      valid: pairs that exist.
    """

    scene: Int[Array, " pair"]
    query: Int[Array, " pair"]
    target_box: Float[Array, "pair 4"]
    positive: Bool[Array, " pair"]
    valid: Bool[Array, " pair"]


def without_duplicates(people: People) -> People:
    """Drops all boxes of a person who is annotated more than once in one scene."""
    same = people.person[:, :, None] == people.person[:, None, :]
    same &= people.valid[:, :, None] & people.valid[:, None, :]
    return people._replace(valid=people.valid & (jnp.sum(same, axis=2) == 1))


def choose_pairs(
    people: People, count: int, key: Key[Array, ""], order: Order
) -> tuple[Pairs, Bool[Array, "batch query"]]:
    """Chooses query-scene pairs at random, the most telling kinds first.

    First pairs of a person and another view it is in, then of a person and its own scene, then of a person
    and a scene without it.

    Args:
      people: annotated people, no person twice in a scene.
      count: how many pairs to choose.
      key: random key.
      order: puts candidates in order; see `ps_jax.boxes.random_order`.

    Returns:
      The pairs, ordered by scene and query, and which of all combinations were chosen.
    """
    batch, slots = people.valid.shape
    person, exists = people.person.reshape(-1), people.valid.reshape(-1)
    same = (people.person[:, :, None] == person) & people.valid[:, :, None] & exists
    present = jnp.any(same, axis=1)
    slot = jnp.argmax(same, axis=1)
    own = jnp.arange(batch)[:, None] == jnp.arange(batch * slots) // slots

    kinds = (present & ~own, present & own, ~present & exists)
    turn = jnp.full(batch * slots * batch, batch * slots * batch)
    before = jnp.zeros((), jnp.int32)
    for kind, kind_key in zip(kinds, jax.random.split(key, len(kinds)), strict=True):
        mask = kind.reshape(-1)
        place = jnp.argsort(jnp.argsort(order(kind_key, mask)))  # 0, 1, ... within the kind
        turn = jnp.where(mask, before + place, turn)
        before = before + jnp.sum(mask)
    chosen = (turn < count) & jnp.any(jnp.stack(kinds), axis=0).reshape(-1)

    (flat,) = jnp.nonzero(chosen, size=count, fill_value=0)
    scene, query = flat // (batch * slots), flat % (batch * slots)
    valid = jnp.arange(count) < jnp.sum(chosen)
    positive = valid & present[scene, query]
    target_box = jnp.where(positive[:, None], people.box[scene, slot[scene, query]], 0.0)
    return Pairs(scene, query, target_box, positive, valid), chosen.reshape(batch, -1)


def pairs_of_scenes(pairs: Pairs, scenes: Int[Array, " scene"]) -> Pairs:
    """The pairs of some of the batch's scenes, with the scenes counted anew; the other pairs keep invalid places.

    Args:
      pairs: pairs of the whole batch.
      scenes: numbers of the scenes in the batch, one after the other.
    """
    mine = pairs.valid & (pairs.scene >= scenes[0]) & (pairs.scene <= scenes[-1])
    return Pairs(
        scene=jnp.where(mine, pairs.scene - scenes[0], 0),
        query=pairs.query,
        target_box=jnp.where(mine[:, None], pairs.target_box, 0.0),
        positive=mine & pairs.positive,
        valid=mine,
    )


def overlapping_anchors(giou: Float[Array, "pair anchor"], count: int) -> Int[Array, "pair count"]:
    """The anchors that overlap each pair's person best; of equal ones the lower numbers."""
    return jax.lax.top_k(giou, count)[1]


def choose_anchors(
    giou: Float[Array, "pair anchor"],
    distance: Float[Array, "pair anchor"],
    positive: Bool[Array, " pair"],
    count: int,
) -> Int[Array, "pair count"]:
    """Chooses the anchors of each pair that go on to box regression.

    Of a positive pair: the `count` // 2 that overlap the person best, then as many of the `count` nearest in
    embedding, those with the lowest numbers (as the released code does; the paper's text would take the
    nearest). Of a negative pair: the nearest.

    Args:
      giou: overlap of each anchor with the person's box.
      distance: length of each anchor's offset from the query.
      positive: kind of each pair.
      count: K, how many to choose.

    Returns:
      Numbers of the chosen anchors.
    """
    nearest = jax.lax.top_k(-distance, count)[1]
    overlapping = overlapping_anchors(giou, count // 2)

    def others(nearest, overlapping):
        mask = jnp.zeros(distance.shape[1], bool).at[nearest].set(True).at[overlapping].set(False)
        return jnp.nonzero(mask, size=count - count // 2, fill_value=0)[0]

    chosen = jnp.concatenate([overlapping, jax.vmap(others)(nearest, overlapping)], axis=1)
    return jnp.where(positive[:, None], chosen, nearest)


def cascade_samples(
    pairs: Pairs,
    stage: Stage,
    size: Int[Array, "pair 2"],
    match_high: float,
) -> Samples:
    """What a cascade step works on: all boxes of the stage before, and the person's own box.

    Nothing is sampled anew. A box stands for the pair's person if they overlap by `match_high` or more. (The
    released code's bookkeeping of these rows is right for 100 anchors a pair only, and stops for any other number.)

    Args:
      pairs: the pairs.
      stage: the stage before.
      size: (height, width) that its boxes are clipped to.
      match_high: overlap from which a box is positive.

    Returns:
      One more sample a pair than the stage before; it exists in positive pairs only.
    """
    box = jnp.concatenate([predicted_boxes(stage, size), pairs.target_box[:, None]], axis=1)
    exists = jnp.concatenate([stage.samples.valid, pairs.positive[:, None]], axis=1)
    overlaps = elementwise_iou(box, pairs.target_box[:, None]) >= match_high
    matched = jnp.where(overlaps & pairs.positive[:, None] & exists, 0, BACKGROUND)
    return _samples(pairs, box, matched, exists)


def _samples(
    pairs: Pairs,
    box: Float[Array, "pair box 4"],
    matched: Int[Array, "pair box"],
    valid: Bool[Array, "pair #box"],
) -> Samples:
    """Samples whose target is the pair's person."""
    target = jnp.broadcast_to(pairs.query[:, None], matched.shape)
    target_box = jnp.broadcast_to(pairs.target_box[:, None], box.shape)
    return Samples(box, matched, target, target_box, jnp.broadcast_to(valid, matched.shape))


def query_centric_losses(
    model: "SPNet",
    pyramid: dict[str, Array],
    scenes: Scenes,
    people: People,
    key: Key[Array, ""],
) -> dict[str, Float[Array, ""]]:
    """Losses of the query-centric path.

    Under a device axis pairs are chosen from the whole batch, a query and its scene need not lie on one device, and
    each device works on the pairs of its own scenes. All of them may lie there, so it has room for as many.

    Args:
      model: the bound module.
      pyramid: feature pyramid of the scenes.
      scenes, people: the batch.
      key: random key for sampling, the same on all devices.

    Returns:
      "anchor_classification", "bbox_regression1", those of `stage_losses` for each step of the cascade, "reid".
    """
    people = without_duplicates(people)
    anchors = model.anchors(scenes, pyramid)
    anchor_embedding = model.anchor_embedder(pyramid)
    annotated = model.embed_boxes(pyramid, people.box, people.valid, train=True)
    located = annotated
    if model.separate_location_heads:
        located = model.embed_locations(1, pyramid, people.box, people.valid, train=True)

    pair_key, box_key = jax.random.split(key)
    check_anchors(
        model, model.pairs_per_batch, model.samples_per_pair, "pairs (pairs_per_batch) x samples_per_pair"
    )
    everybody, queries = gather_rows((people, located), model.axis_name)
    pairs, chosen = choose_pairs(everybody, model.pairs_per_batch, pair_key, model.order)
    pairs = pairs_of_scenes(pairs, global_numbers(people.valid.shape[0], model.axis_name))
    query = queries.reshape(-1, queries.shape[-1])[pairs.query]

    distance = query_distances(query, pairs.scene, anchor_embedding, lambda q, a: model.offsets(0, a, q))
    logits = model.logits(0, distance, pairs.valid, train=True)

    def match(target, positive):
        iou = elementwise_iou(target, anchors)[None]
        return match_anchors(iou, positive[None], model.match_high, model.match_low, allow_low_quality=True)

    matched = jax.vmap(match)(pairs.target_box, pairs.positive)
    terms = {"anchor_classification": anchor_loss(model, logits, matched, pairs.valid[:, None])}

    giou = elementwise_giou(pairs.target_box[:, None], anchors[None])
    ranking = jax.lax.stop_gradient(-distance if model.positive_norm else distance)
    index = choose_anchors(giou, ranking, pairs.positive, model.samples_per_pair)
    samples = _samples(pairs, anchors[index], take(matched, index), pairs.valid[:, None])
    offsets = model.offsets(0, anchor_embedding[pairs.scene[:, None], index], query[:, None])
    stage = Stage(samples, model.regression_head[0](offsets), take(logits, index))
    terms |= stage_losses(model, 0, stage)
    model.sow("intermediates", "stage0", stage)

    size = model.clip_size(scenes)[pairs.scene]
    for step in range(1, model.num_cascade_steps + 1):
        stage = run_step(
            model,
            step,
            pyramid,
            cascade_samples(pairs, stage, size, model.match_high),
            scene=pairs.scene,
            query=query[:, None],
        )
        terms |= stage_losses(model, step, stage)
        model.sow("intermediates", f"stage{step}", stage)

    groups = [EmbeddedBoxes(annotated, people.box, None, people.identity, people.person, people.valid)]
    if not model.reid_gt_only:
        predicted = predicted_boxes(stage, size)
        accurate = elementwise_iou(predicted, stage.samples.target_box) >= model.reid_iou
        accurate &= stage.samples.valid & pairs.positive[:, None]
        kept, accurate = jax.vmap(
            lambda key, mask: sample_indices(key, mask, model.samples_per_pair // 4, order=model.order)
        )(numbered_keys(box_key, model.pairs_per_batch), accurate)
        reid_boxes = take(predicted, kept)
        reid_identity, reid_person = (
            jnp.broadcast_to(number.reshape(-1)[pairs.query][:, None], kept.shape)
            for number in (everybody.identity, everybody.person)
        )
        embedding = model.embed_boxes(pyramid, reid_boxes, accurate, train=True, scene=pairs.scene)
        groups.insert(
            0, EmbeddedBoxes(embedding, reid_boxes, pairs.scene, reid_identity, reid_person, accurate)
        )
        model.sow("intermediates", "reid_embedding", embedding)
        model.sow("intermediates", "reid_identity", reid_identity)
        model.sow("intermediates", "reid_person", reid_person)
        model.sow("intermediates", "reid_valid", accurate)
    terms["reid"] = reid_loss(model, scenes, groups)

    model.sow("intermediates", "chosen_pairs", chosen)
    model.sow("intermediates", "pairs", pairs)
    model.sow("intermediates", "anchor_logits", logits)
    model.sow("intermediates", "matched", matched)
    model.sow("intermediates", "sampled_index", index)
    model.sow("intermediates", "people_embedding", annotated)
    return terms
