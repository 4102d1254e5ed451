"""Boxes in rows of one fixed length: a row is a scene, or a pair of a query and a scene."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from kernels.nms import nms


def take(
    values: Shaped[Array, "row n *rest"], index: Int[Array, "row count"]
) -> Shaped[Array, "row count *rest"]:
    """The entries of each row with the given numbers."""
    return jnp.take_along_axis(values, index.reshape(index.shape + (1,) * (values.ndim - 2)), axis=1)


def best_first(score: Float[Array, "row box"], valid: Bool[Array, "row box"]) -> Int[Array, "row box"]:
    """Numbers of each row's boxes, those that are valid first, by falling score."""
    return jnp.argsort(jnp.where(valid, -score, jnp.inf), axis=1, stable=True)


def suppress(
    box: Float[Array, "row box 4"],
    score: Float[Array, "row box"],
    valid: Bool[Array, "row box"],
    threshold: float,
) -> tuple[Bool[Array, "row box"], Int[Array, "row box"]]:
    """Non-maximum suppression in each row: the boxes that stand, and all their numbers, those that stand first."""
    kept = jax.vmap(nms, in_axes=(0, 0, 0, None))(box, score, valid, threshold)
    return kept, best_first(score, kept)
