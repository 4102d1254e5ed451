"""RDLR in training: the re-identification network on crops, and the refinement of the detector by its losses."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from ps_jax.boxes import elementwise_iou, pairwise_iou, take
from ps_jax.interface import People, Scenes
from ps_jax.losses import batch_hard_triplet_loss, proxy_triplet_loss, write_proxies
from ps_jax.systems._box_head import count_on_devices
from ps_jax.systems._detector import Candidates, Found
from ps_jax.systems._devices import gather_rows

if TYPE_CHECKING:
    from ps_jax.systems.rdlr import RDLR


def reid_losses(model: "RDLR", scenes: Scenes, people: People) -> dict[str, Float[Array, ""]]:
    """Losses of the re-identification network, this device's share of those of the global batch.

    Args:
      model: the bound module.
      scenes: crops, one known person each, in `image`.
      people: that person, in the first slot.

    Returns:
      "softmax", cross-entropy of the identities, and "triplet", with the hardest examples of the batch: means over
      the crops.
    """
    pooled, embedding = model.reid(jnp.asarray(scenes.image), train=True)
    identity = people.identity[:, 0]
    known = people.valid[:, 0] & (identity >= 0)
    entropy = optax.softmax_cross_entropy_with_integer_labels(
        model.reid.classify(embedding), jnp.maximum(identity, 0)
    )
    others, whose, exist = gather_rows((pooled, identity, known), model.axis_name)
    triplet = batch_hard_triplet_loss(pooled, identity, others, whose, exist, model.reid_margin)
    count = count_on_devices(model, known)
    return {
        "softmax": jnp.sum(jnp.where(known, entropy, 0.0)) / count,
        "triplet": jnp.sum(jnp.where(known, triplet, 0.0)) / count,
    }


def refinement_losses(
    model: "RDLR", scenes: Scenes, people: People, key: Key[Array, ""]
) -> dict[str, Float[Array, ""]]:
    """Losses of the refinement (section 3.2), this device's share of those of the global batch.

    The box regression loss of the detector is replaced by those of re-identification; its other losses stay, as without
    them the scores would drift (the paper only says what is replaced).

    Args:
      model: the bound module.
      scenes, people: the batch.
      key: random key for sampling, the same on all devices.

    Returns:
      The detector's terms but "regression", and "softmax" and "proxy_triplet" as far as they are wanted.
    """
    looked = model.detector.look(scenes, train=True)
    terms, candidates = model.detector.losses(looked, scenes, people, key)
    terms = {
        name: term
        for name, term in terms.items()
        if name != "regression" and not (model.freeze_proposals and name.startswith("proposal_"))
    }
    if model.boxes_from == "test_mode":
        candidates = label_detections(model.detector.detect(looked, scenes), people)
    options = (model.match_iou, model.boxes_per_person, model.boxes_per_scene)
    box, person, valid = choose_boxes(candidates, people, *options)
    model.sow("intermediates", "refined", (box, person, valid))
    return terms | reid_terms(model, scenes, box, take(people.identity, person), valid)


def reid_terms(
    model: "RDLR",
    scenes: Scenes,
    box: Float[Array, "scene box 4"],
    identity: Int[Array, "scene box"],
    valid: Bool[Array, "scene box"],
) -> dict[str, Float[Array, ""]]:
    """Losses of the frozen re-identification network on boxes of known people; the proxies move afterwards."""
    scene = jnp.repeat(jnp.arange(valid.shape[0]), valid.shape[1])
    _, embedding = model.reid(model.crops(scenes, box.reshape(-1, 4), scene), train=False)
    identity, valid = jnp.maximum(identity.reshape(-1), 0), valid.reshape(-1)
    terms = {}
    if model.softmax:
        entropy = optax.softmax_cross_entropy_with_integer_labels(model.reid.classify(embedding), identity)
        terms["softmax"] = jnp.sum(jnp.where(valid, entropy, 0.0)) / count_on_devices(model, valid)
    if model.proxy_triplet:
        # Of length one: a margin of 0.5 means something for squared distances in 0 .. 4.
        length = jnp.sqrt(jnp.maximum(jnp.sum(embedding * embedding, axis=-1, keepdims=True), 1e-24))
        feature = embedding / length
        table = model.proxy_table
        loss, complete = proxy_triplet_loss(feature, identity, table, model.margin, model.mask_empty)
        anchors = valid & complete
        count = count_on_devices(model, anchors) if model.mean_over_anchors else 1.0
        terms["proxy_triplet"] = jnp.sum(jnp.where(anchors, loss, 0.0)) / count
        if not model.is_initializing():
            rows = jax.lax.stop_gradient(gather_rows((feature, identity, valid), model.axis_name))
            model.keep_proxies(write_proxies(table, *rows))
    return terms


def label_detections(found: Found, people: People) -> Candidates:
    """Detections as candidates for the people that they overlap most."""

    def nearest(box, people_box, people_valid):
        iou = jnp.where(people_valid[:, None], pairwise_iou(people_box, box), -1.0)
        return jnp.argmax(iou, axis=0).astype(jnp.int32)

    person = jax.vmap(nearest)(jax.lax.stop_gradient(found.box), people.box, people.valid)
    return Candidates(found.box, found.score, person, found.valid & take(people.valid, person))


def choose_boxes(
    candidates: Candidates, people: People, match_iou: float, per_person: int, per_scene: int
) -> tuple[Float[Array, "scene box 4"], Int[Array, "scene box"], Bool[Array, "scene box"]]:
    """The boxes that carry the losses of re-identification: of each known person those with the best scores.

    Test-time boxes are winners of the suppression, so the winners are what is refined.

    Args:
      candidates: boxes that stand for people.
      people: the annotated people.
      match_iou: overlap with its person that a box must have.
      per_person: boxes of a person.
      per_scene: boxes of a scene, those with the best scores.

    Returns:
      Boxes, through which gradients pass, the person of each, and which of the `per_scene` slots are filled.
    """
    candidates = Candidates(*map(jnp.asarray, candidates))
    still = jax.lax.stop_gradient(candidates.box)
    fits = elementwise_iou(still, take(people.box, candidates.person)) >= match_iou
    fits &= candidates.valid & (take(people.identity, candidates.person) >= 0)
    score = jnp.where(fits, jax.lax.stop_gradient(candidates.score), -1.0)
    slots = people.valid.shape[1]
    own = candidates.person[:, None] == jnp.arange(slots)[:, None]  # [scene, person, candidate]
    best, index = jax.lax.top_k(jnp.where(own, score[:, None], -1.0), min(per_person, score.shape[1]))
    best, index = (x.reshape(x.shape[0], -1) for x in (best, index))
    best, order = jax.lax.top_k(best, min(per_scene, best.shape[1]))
    chosen = take(index, order)
    return take(candidates.box, chosen), take(candidates.person, chosen), best >= 0
