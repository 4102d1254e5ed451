"""Which boxes of each scene a head is trained on: torchvision's rules, with fixed shapes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ps_jax.boxes import BACKGROUND, IGNORED, match_anchors, pairwise_iou, sample_balanced
from ps_jax.boxes.sampling import Order
from ps_jax.interface import People
from ps_jax.systems._devices import numbered_keys


def candidates_with_people(
    box: Float[Array, "scene box 4"],
    exists: Bool[Array, "scene box"],
    people: People,
    high: float,
    low: float,
) -> tuple[Float[Array, "scene candidate 4"], Int[Array, "scene candidate"]]:
    """What a head samples from: proposed boxes, and behind them the annotated ones.

    Args:
      box, exists: the proposed boxes.
      people: the annotated people.
      high, low: overlap from which a box stands for a person, below which for background.

    Returns:
      The boxes, and the person that each stands for: `BACKGROUND`, or `IGNORED` (also where there is no box).
    """

    def match(people_box, people_valid, box):
        iou = pairwise_iou(people_box, box)
        return match_anchors(iou, people_valid, high, low, allow_low_quality=False)

    box = jnp.concatenate([box, people.box], axis=1)
    exists = jnp.concatenate([exists, people.valid], axis=1)
    return box, jnp.where(exists, jax.vmap(match)(people.box, people.valid, box), IGNORED)


def sample_boxes(
    key: Key[Array, ""],
    matched: Int[Array, "scene candidate"],
    count: int,
    positive_fraction: float,
    order: Order,
    axis_name: str | None,
) -> tuple[Int[Array, "scene sample"], Bool[Array, "scene sample"]]:
    """Chooses the boxes of each scene that are trained on.

    Args:
      key: random key, the same on all devices.
      matched: the person that each candidate stands for, `BACKGROUND` or `IGNORED`.
      count: boxes of a scene.
      positive_fraction: largest share of those that stand for a person.
      order: puts the candidates in order.
      axis_name: device axis.

    Returns:
      Their numbers, ascending, and which of the slots are filled.
    """

    def sample(key, matched):
        chosen = jnp.logical_or(
            *sample_balanced(key, matched >= 0, matched == BACKGROUND, count, positive_fraction, order=order)
        )
        (index,) = jnp.nonzero(chosen, size=count, fill_value=0)
        return index, jnp.arange(count) < jnp.sum(chosen)

    return jax.vmap(sample)(numbered_keys(key, matched.shape[0], axis_name), matched)
