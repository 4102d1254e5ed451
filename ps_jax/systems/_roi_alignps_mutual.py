"""Mutual learning of ROI-AlignPS's branches: for every known person that both have embedded, what they agree on."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ps_jax.losses import identity_directions, kl_divergence, mutual_information_bound
from ps_jax.systems._devices import device_count, gather_rows

if TYPE_CHECKING:
    from ps_jax.systems.roi_alignps import ROIAlignPS

ESTIMATOR_ONLY = 2 / 3  # share of the steps in which the bound trains its network alone

Pairing = Callable[[jax.Array, jax.Array, int], tuple[jax.Array, jax.Array]]


class BranchTables(NamedTuple):
    """The lookup tables of both branches, f32[L, D], constants for the gradient."""

    box: Array
    location: Array


def random_pairing(
    key: Key[Array, ""], count: Int[Array, ""], slots: int
) -> tuple[Bool[Array, ""], Int[Array, " slots"]]:
    """What the bound of mutual information leaves to chance.

    Args:
      key: random key.
      count: how many people there are.
      slots: how many there may be, static.

    Returns:
      Whether this step only trains the network that estimates the bound; and for each person one of the `count`, itself
      among them, to be put together with.
    """
    which_key, partner_key = jax.random.split(key)
    alone = jax.random.uniform(which_key) < ESTIMATOR_ONLY
    partner = jnp.floor(jax.random.uniform(partner_key, (slots,)) * count).astype(jnp.int32)
    return alone, jnp.clip(partner, 0, jnp.maximum(count - 1, 0))


def mutual_terms(
    model: "ROIAlignPS",
    key: Key[Array, ""],
    of_boxes: tuple[Float[Array, "box dimension"], Int[Array, " box"], Bool[Array, " box"]],
    of_locations: tuple[
        Float[Array, "location dimension"], Int[Array, " location"], Bool[Array, " location"]
    ],
    tables: BranchTables,
    slots: int,
) -> dict[str, Float[Array, ""]]:
    """The weighted terms of mutual learning (equations 6 to 9); each is this device's share.

    Args:
      model: the bound module.
      key: random key, the same on all devices.
      of_boxes, of_locations: embedding, identity and validity of this device's rows of the two branches.
      tables: as they were before the step.
      slots: how many people the batch of all devices may show.

    Returns:
      Those that have a weight of "mutual_information", "divergence" and "cosine"; 0 where nobody known is embedded by
      both, and the first where only one is.
    """
    if not (model.mutual_information_weight or model.divergence_weight or model.cosine_weight):
        return {}
    box, in_boxes = _directions(model, of_boxes)
    location, at_locations = _directions(model, of_locations)
    both = in_boxes & at_locations
    (index,) = jnp.nonzero(both, size=min(slots, model.num_identities), fill_value=0)
    count = jnp.sum(both)
    exists = jnp.arange(index.size) < count
    box, location = box[index], location[index]
    model.sow("intermediates", "mutual_pairs", (box, location, index, exists))

    def mean(rows):
        return jnp.sum(jnp.where(exists, rows, 0.0)) / jnp.maximum(count, 1)

    terms = {}
    if model.mutual_information_weight:
        bound = _bound(model, key, box, location, exists)
        terms["mutual_information"] = -model.mutual_information_weight * bound
    if model.divergence_weight:
        of_location = model.oim_scale * location @ tables.location.T
        of_box = model.box_oim_scale * box @ tables.box.T
        terms["divergence"] = model.divergence_weight * mean(kl_divergence(of_location, of_box))
    if model.cosine_weight:
        terms["cosine"] = model.cosine_weight * mean(jnp.sum(box * location, axis=-1))
    return {name: term / device_count(model.axis_name) for name, term in terms.items()}


def _directions(model, rows):
    """`identity_directions` of the rows of all devices."""
    embedding, identity, valid = gather_rows(rows, model.axis_name)
    return identity_directions(embedding, identity, valid, model.num_identities)


def _bound(model, key, box, location, exists):
    """The bound; in two of three steps the embeddings are constants for it."""
    alone, partner = model.pairing(key, jnp.sum(exists), exists.size)
    box, location = (jnp.where(alone, jax.lax.stop_gradient(x), x) for x in (box, location))
    joint = model.mutual_score(box, location)
    marginal = model.mutual_score(box, location[partner])
    return mutual_information_bound(joint, marginal, exists)
