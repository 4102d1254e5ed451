"""The proxy triplet loss of RDLR (Han et al., "Re-ID Driven Localization Refinement", ICCV 2019, section 3.3).

A batch of whole scenes seldom shows a person twice, so anchors are compared with the last features of every known
person, which a table keeps.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class ProxyTable(NamedTuple):
    """The last features of every known person.

    Attributes:
      feature: f32[identity, slot, dimension], zeros where nothing was written yet.
      written: i32[identity], how many features were written so far; the next goes to slot `written` modulo slots.
    """

    feature: Array
    written: Array


def empty_proxies(identities: int, slots: int, dimension: int) -> ProxyTable:
    """A table in which nothing was written yet."""
    return ProxyTable(jnp.zeros((identities, slots, dimension)), jnp.zeros(identities, jnp.int32))


def proxy_triplet_loss(
    feature: Float[Array, "row dimension"],
    identity: Int[Array, " row"],
    table: ProxyTable,
    margin: float,
    mask_empty: bool = True,
) -> tuple[Float[Array, " row"], Bool[Array, " row"]]:
    """How much closer the nearest proxy of somebody else is than the furthest own one, and the margin (equation 5).

    Distances are squared Euclidean.

    Args:
      feature: of the anchors, of length one where the margin is to mean anything.
      identity: row of the table of each anchor, 0 .. identities - 1.
      table: before this batch is written to it.
      margin: wanted difference of the distances.
      mask_empty: slots that were never written take no part. False is the literal equation: they are proxies at zero.

    Returns:
      The loss of each anchor, and whether it has a proxy of its own and one of somebody else; 0 where it has not.
    """
    identities, slots, _ = table.feature.shape
    squared = (
        jnp.sum(feature * feature, axis=-1)[:, None, None]
        + jnp.sum(table.feature * table.feature, axis=-1)
        # short distances are differences of large terms
        - 2.0 * jnp.einsum("rd,isd->ris", feature, table.feature, precision="highest")
    )
    filled = jnp.ones((identities, slots), bool)
    if mask_empty:
        filled = jnp.arange(slots) < table.written[:, None]
    own = (identity[:, None] == jnp.arange(identities))[..., None] & filled
    other = (identity[:, None] != jnp.arange(identities))[..., None] & filled
    furthest = jnp.max(jnp.where(own, squared, -jnp.inf), axis=(1, 2))
    nearest = jnp.min(jnp.where(other, squared, jnp.inf), axis=(1, 2))
    complete = jnp.isfinite(furthest) & jnp.isfinite(nearest)
    difference = jnp.where(complete, furthest, 0.0) - jnp.where(complete, nearest, 0.0)
    return jnp.where(complete, jnp.maximum(margin + difference, 0.0), 0.0), complete


def write_proxies(
    table: ProxyTable,
    feature: Float[Array, "row dimension"],
    identity: Int[Array, " row"],
    valid: Bool[Array, " row"],
) -> ProxyTable:
    """Writes features over the oldest ones of their identities, row after row.

    Args:
      table: the table.
      feature: what to keep.
      identity: row of the table of each.
      valid: which rows exist.

    Returns:
      The table as if the rows had been written one by one.
    """
    identities, slots, _ = table.feature.shape
    same = (identity[:, None] == identity) & valid[:, None] & valid
    before = jnp.sum(jnp.tril(same, -1), axis=1)  # rows of the same person that come first
    after = jnp.sum(jnp.triu(same, 1), axis=1)
    # Of more rows than slots the last ones stay; so no two rows go to one place.
    place = jnp.where(valid & (after < slots), identity, identities)
    slot = (table.written[identity] + before) % slots
    return ProxyTable(
        table.feature.at[place, slot].set(feature, mode="drop"),
        table.written.at[jnp.where(valid, identity, identities)].add(1, mode="drop"),
    )
