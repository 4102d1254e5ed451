"""LEAPS in training: set prediction in every stage, weighted matching of instances in the last ones (equation 2)."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ps_jax.boxes import take
from ps_jax.heads import ReidFeatures
from ps_jax.interface import People, Scenes
from ps_jax.losses import (
    InstanceMemory,
    SetWeights,
    batch_hard_triplet_loss,
    match_predictions,
    oim_loss,
    set_losses,
    update_memory,
)
from ps_jax.losses.oim import normalise_rows
from ps_jax.systems._devices import gather_rows, sum_over_devices
from ps_jax.systems._leaps_matching import ReidSamples, match_samples

if TYPE_CHECKING:
    from ps_jax.systems.leaps import LEAPS

WEIGHTS = SetWeights(classification=2.0, l1=5.0, giou=2.0)


def losses(model: "LEAPS", scenes: Scenes, people: People) -> dict[str, Float[Array, ""]]:
    """Losses of all stages; each is this device's share of the loss of the global batch.

    Args:
      model: the bound module.
      scenes, people: the batch.

    Returns:
      "classification", "l1", "giou", "reid" and, where they are wanted, "triplet" and "diversity", each the sum over
      its stages and branches.
    """
    size = jnp.asarray(scenes.size)
    levels = model.levels(scenes, train=True)
    looks = model.run_stages(levels, size)
    # All stages at once, as if they were scenes: the assignments step together.
    logit, box = (
        jnp.concatenate([getattr(look.output, name) for look in looks]) for name in ("logit", "box")
    )
    person_box, person_valid, sizes = (
        jnp.concatenate([x] * len(looks)) for x in (people.box, people.valid, size)
    )
    matched = match_predictions(logit, box, person_box, person_valid, sizes, WEIGHTS)
    sums = set_losses(logit, box, person_box, matched, sizes)
    count = _count(model, people.valid)
    terms = {name: weight * getattr(sums, name) / count for name, weight in WEIGHTS._asdict().items()}
    matches = jnp.split(matched, len(looks))
    features, samples = [], []
    for index in model.reid_indices:
        features.append(model.embed_proposals(index, levels, looks[index]))
        samples.append(
            match_samples(
                *(model.reid_box(looks[index]), people.box, people.valid, matches[index]),
                *(model.match_threshold, model.sample_matching),
            )
        )
    model.sow("intermediates", "samples", samples)
    return terms | reid_losses(model, features, samples, people)


def reid_losses(
    model: "LEAPS", features: list[ReidFeatures], samples: list[ReidSamples], people: People
) -> dict[str, Float[Array, ""]]:
    """Weighted triplet-aided online instance matching and diversity of all stages; the memory moves afterwards.

    Args:
      model: the bound module.
      features, samples: of each stage.
      people: of the batch.
    """
    terms = {"reid": jnp.zeros(())}
    if model.triplet:
        terms["triplet"] = jnp.zeros(())
    if len(model.branches) == 2 and model.diversity_weight:
        terms["diversity"] = jnp.zeros(())
    memories = _memories(model)
    for made, sample in zip(features, samples, strict=True):
        count = _count(model, sample.weight > 0)
        identity, weight = take(people.identity, sample.person).reshape(-1), sample.weight.reshape(-1)
        for branch, memory in enumerate(memories):
            rows = _rows(made.embedding[:, :, branch], weight)
            loss = oim_loss(
                *(rows, identity, weight > 0, memory, model.oim_scale),
                skip_unwritten=False,
                queue_scale=model.queue_scale,
                focal_gamma=model.focal_gamma,
            )
            terms["reid"] += jnp.sum(weight * loss) / count
            if model.triplet:
                terms["triplet"] += _triplet(model, normalise_rows(rows), identity, weight, memory)
        if "diversity" in terms:
            one, other = (normalise_rows(_rows(made.hidden[:, :, branch], weight)) for branch in (0, 1))
            cosine = jnp.where(weight > 0, jnp.sum(one * other, axis=-1), 0.0)
            terms["diversity"] += jnp.sum(cosine) / count
    if not model.is_initializing():
        _update(model, memories, features, samples, people)
    scales = {"diversity": model.reid_weight * model.diversity_weight}
    return {name: scales.get(name, model.reid_weight) * term for name, term in terms.items()}


def _count(model, mask):
    """How many there are in the global batch, at least 1."""
    return jnp.maximum(sum_over_devices(jnp.sum(mask, dtype=jnp.float32), model.axis_name), 1.0)


def _rows(x, weight):
    """Rows of all scenes; those that stand for nobody are ones, as a row of zeros has no direction."""
    return jnp.where(weight[:, None] > 0, x.reshape(-1, x.shape[-1]), 1.0)


def _memories(model):
    """The memory of each branch; the place in the queue is that of all."""
    tables, queues = model.lookup_table.value, model.queue.value
    return [
        InstanceMemory(tables[branch], queues[branch], model.queue_header.value)
        for branch in range(len(model.branches))
    ]


def _triplet(model, embedding, identity, weight, memory):
    """Triplet loss of known people and of a copy of the table row of each, which counts as much as they do."""
    table = jax.lax.stop_gradient(memory.lookup_table)[jnp.maximum(identity, 0)]
    embedding = jnp.concatenate([embedding, table])
    identity = jnp.concatenate([identity, identity])
    weight = jnp.concatenate([weight, weight])
    known = (weight > 0) & (identity >= 0)
    everybody = gather_rows((embedding, identity, known), model.axis_name)
    loss = batch_hard_triplet_loss(embedding, identity, *everybody, model.triplet_margin)
    return jnp.sum(jnp.where(known, weight * loss, 0.0)) / _count(model, known)


def _update(model, memories, features, samples, people):
    """Writes the embeddings of all stages, the earlier stage first.

    Of an unknown person only the best proposal goes into the queue: near copies would flush it.
    """
    parts = []
    for made, sample in zip(features, samples, strict=True):
        identity = take(people.identity, sample.person)
        written = (sample.weight > 0) & ((identity >= 0) | sample.best)
        rows = jax.lax.stop_gradient(gather_rows((made.embedding, identity, written), model.axis_name))
        parts.append(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows))
    embedding, identity, written = (jnp.concatenate(part) for part in zip(*parts, strict=True))
    after = [
        update_memory(memory, embedding[:, branch], identity, written, model.oim_momentum, False)
        for branch, memory in enumerate(memories)
    ]
    model.lookup_table.value = jnp.stack([memory.lookup_table for memory in after])
    model.queue.value = jnp.stack([memory.queue for memory in after])
    model.queue_header.value = after[0].queue_header
