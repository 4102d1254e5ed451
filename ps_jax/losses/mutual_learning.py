"""What two branches that embed the same people tell each other (section III-D of AlignPS's paper).

Yan et al., "Efficient Person Search: An Anchor-Free Approach", 2021.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ps_jax.losses.oim import normalise_rows


def identity_directions(
    embedding: Float[Array, "row dimension"],
    identity: Int[Array, " row"],
    valid: Bool[Array, " row"],
    num_identities: int,
) -> tuple[Float[Array, "identity dimension"], Bool[Array, " identity"]]:
    """One unit embedding for each known person of the batch: the direction of the mean of all unit embeddings.

    Args:
      embedding: embeddings, normalised here.
      identity: 0 .. L-1 for known people; others are skipped.
      valid: rows that exist.
      num_identities: L.

    Returns:
      A row for each identity, and which of them are in the batch; rows of the others are constants.
    """
    known = valid & (identity >= 0) & (identity < num_identities)
    unit = normalise_rows(jnp.where(known[:, None], embedding, 1.0))
    place = jnp.where(known, identity, num_identities)  # the row beyond the table takes what does not count
    total = jax.ops.segment_sum(unit, place, num_identities + 1)[:num_identities]
    present = jax.ops.segment_sum(known.astype(jnp.float32), place, num_identities + 1)[:num_identities] > 0
    return normalise_rows(jnp.where(present[:, None], total, 1.0)), present


def mutual_information_bound(
    joint: Float[Array, " pair"], marginal: Float[Array, " pair"], valid: Bool[Array, " pair"]
) -> Float[Array, ""]:
    """A lower bound of the mutual information, in nats: mean(joint) - log mean exp(marginal) (equation 6).

    Belghazi et al., "Mutual Information Neural Estimation", ICML 2018.

    Args:
      joint: what the estimator says of pairs that belong together.
      marginal: what it says of pairs put together at random.
      valid: pairs that exist.

    Returns:
      The bound; 0, without a slope, where there are fewer than two pairs: then both means are of the same pair.
    """
    count = jnp.sum(valid, dtype=jnp.float32)
    enough = count >= 2
    used = valid | ~enough  # the logarithm of an empty sum would have no finite gradient
    divisor = jnp.maximum(count, 1.0)
    mean = jnp.sum(jnp.where(valid, joint, 0.0)) / divisor
    log_mean = jax.nn.logsumexp(marginal, where=used) - jnp.log(divisor)
    return jnp.where(enough, mean - log_mean, 0.0)


def kl_divergence(
    first: Float[Array, "row class"], second: Float[Array, "row class"]
) -> Float[Array, " row"]:
    """KL(p || q) in nats of the distributions that two rows of logits stand for (equation 8).

    Args:
      first: logits of p.
      second: logits of q; gradients go to both.
    """
    log_p, log_q = (jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1) for logits in (first, second))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
