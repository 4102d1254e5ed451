"""Triplet loss with the hardest examples of the batch (Hermans et al., In Defense of the Triplet Loss, 2017)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def batch_hard_triplet_loss(
    anchor: Float[Array, "anchor dimension"],
    anchor_identity: Int[Array, " anchor"],
    candidate: Float[Array, "candidate dimension"],
    candidate_identity: Int[Array, " candidate"],
    candidate_valid: Bool[Array, " candidate"],
    margin: float,
) -> Float[Array, " anchor"]:
    """How much nearer than its furthest alike candidate, plus a margin, an anchor's nearest other candidate is.

    Anchors are to be among the candidates, at distance 0 of themselves. Distances are Euclidean.

    Args:
      anchor: embeddings as they are compared.
      anchor_identity: who each shows.
      candidate, candidate_identity: what each anchor is compared with.
      candidate_valid: rows that exist.
      margin: the wanted difference of distances.

    Returns:
      Loss of each anchor; 0 where there is nobody else among the candidates.
    """
    squared = (
        jnp.sum(anchor * anchor, axis=-1)[:, None]
        + jnp.sum(candidate * candidate, axis=-1)
        - 2.0
        * jnp.matmul(
            anchor, candidate.T, precision="highest"
        )  # short distances are differences of large terms
    )
    # The square root has no slope at 0: less than the threshold passes no gradient.
    distance = jnp.sqrt(jnp.maximum(squared, 1e-12))
    alike = anchor_identity[:, None] == candidate_identity
    other = ~alike & candidate_valid
    furthest = jnp.max(jnp.where(alike & candidate_valid, distance, 0.0), axis=1)
    nearest = jnp.min(jnp.where(other, distance, jnp.inf), axis=1)
    loss = jnp.maximum(0.0, margin + furthest - nearest)
    return jnp.where(jnp.any(other, axis=1), loss, 0.0)
