"""Which proposals are trained to be re-identified: diverse re-id sample matching (LEAPS, section 3.2)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ps_jax.boxes import pairwise_iou

# "weighted": diverse, and what overlaps more counts more; "diverse": alike; "one_to_one": only what detection matches.
SAMPLE_MATCHINGS = ("weighted", "diverse", "one_to_one")


class ReidSamples(NamedTuple):
    """The person that each proposal stands for.

    Attributes:
      person: i32[batch, proposal], slot of the person, 0 where there is none.
      weight: f32[batch, proposal], W of the proposal, 0 where it stands for nobody.
      best: bool[batch, proposal], of those that stand for a person the one that overlaps it most.
    """

    person: Array
    weight: Array
    best: Array


def match_samples(
    box: Float[Array, "batch proposal 4"],
    person_box: Float[Array, "batch person 4"],
    person_valid: Bool[Array, "batch person"],
    matched: Int[Array, "batch person"],
    threshold: float,
    matching: str,
) -> ReidSamples:
    """Every proposal that overlaps a person by more than the threshold stands for that person, and the matched ones.

    A proposal's weight is (overlap - threshold) / (1 - threshold) + 0.5. Chosen: of several people it stands for the
    one that it overlaps most; a matched proposal counts even below the threshold, but not with a negative weight;
    one of weight 0 stands for nobody. Without weights all count 1.

    Args:
      box: f32, `xyxy` in pixels, those that embeddings are pooled from.
      person_box: annotated.
      person_valid: false for padding.
      matched: the proposal that detection matches with each person, -1 for padding.
      threshold: theta.
      matching: one of `SAMPLE_MATCHINGS` (table 4).
    """

    def match(box, person_box, person_valid, matched):
        people, proposals = matched.shape[0], box.shape[0]
        overlap = jnp.where(person_valid[:, None], pairwise_iou(person_box, box), 0.0)
        place = jnp.where(matched >= 0, matched, proposals)  # beyond the end: dropped
        person = jnp.full(proposals, -1, jnp.int32).at[place].set(jnp.arange(people), mode="drop")
        if matching != "one_to_one":
            person = jnp.where(jnp.max(overlap, axis=0) > threshold, jnp.argmax(overlap, axis=0), person)
        weight = jnp.ones(proposals)
        if matching == "weighted":
            own = jnp.take_along_axis(overlap, jnp.maximum(person, 0)[None], axis=0)[0]
            weight = jnp.maximum((own - threshold) / (1 - threshold) + 0.5, 0.0)
        weight = jnp.where(person >= 0, weight, 0.0)
        of_person = jnp.where(person == jnp.arange(people)[:, None], weight, 0.0)
        person = jnp.where(weight > 0, person, 0)
        of_person = jnp.where(of_person > 0, overlap + 1.0, 0.0)  # the nearest, whatever the weights
        best = jnp.argmax(of_person, axis=1)[person] == jnp.arange(proposals)
        return ReidSamples(person, weight, best & (weight > 0))

    box = jax.lax.stop_gradient(box)
    return jax.vmap(match)(box, person_box, person_valid, matched)
