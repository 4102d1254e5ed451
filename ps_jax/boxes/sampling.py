"""Random choice of a fixed number of examples.

Every function that chooses takes the function that puts the candidates in random order as an argument
(`order`), so that a fixed permutation can stand in its place.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

Order = Callable[[jax.Array, jax.Array], jax.Array]


def random_order(key: Key[Array, ""], mask: Bool[Array, " candidates"]) -> Float[Array, " candidates"]:
    """A random place in the queue for every candidate: lower is drawn earlier, infinity is never drawn.

    Args:
      key: random key.
      mask: bool[n], which entries are candidates.

    Returns:
      f32[n], finite exactly where `mask` is true.
    """
    return jnp.where(mask, jax.random.uniform(key, mask.shape), jnp.inf)


def _draw(key, mask, count, order):
    """The first `count` candidates of the queue, in the order they are drawn."""
    place = order(key, mask)
    _, index = jax.lax.top_k(-place, min(count, mask.shape[0]))
    return index.astype(jnp.int32), mask[index]


def sample_indices(
    key: Key[Array, ""], mask: Bool[Array, " candidates"], count: int, order: Order = random_order
) -> tuple[Int[Array, " count"], Bool[Array, " count"]]:
    """Chooses `count` of the candidates at random, or all where there are fewer.

    Args:
      key: random key.
      mask: bool[n], which entries are candidates.
      count: how many to choose, static.
      order: puts the candidates in order; see `random_order`.

    Returns:
      i32[count] indices, ascending, then zeros; bool[count], which of them were chosen.
    """
    size = mask.shape[0]
    index, chosen = _draw(key, mask, count, order)
    index = jnp.sort(jnp.where(chosen, index, size))
    index = jnp.pad(index, (0, count - index.shape[0]), constant_values=size)
    valid = index < size
    return jnp.where(valid, index, 0), valid


def sample_balanced(
    key: Key[Array, ""],
    positive: Bool[Array, " candidates"],
    negative: Bool[Array, " candidates"],
    count: int,
    positive_fraction: float,
    order: Order = random_order,
) -> tuple[Bool[Array, " candidates"], Bool[Array, " candidates"]]:
    """Chooses positive and negative examples, as torchvision's BalancedPositiveNegativeSampler.

    At most `count * positive_fraction` positives; negatives fill up to `count`, as far as there are any.

    Args:
      key: random key.
      positive: bool[n], candidates.
      negative: bool[n], candidates.
      count: how many to choose together, static.
      positive_fraction: largest share of positives, static.
      order: puts the candidates in order; see `random_order`.

    Returns:
      bool[n], the chosen positives, and bool[n], the chosen negatives.
    """
    positive_key, negative_key = jax.random.split(key)
    positive_index, chosen = _draw(positive_key, positive, int(count * positive_fraction), order)
    nothing = jnp.zeros_like(positive)
    positive_mask = nothing.at[positive_index].set(chosen)
    negative_index, available = _draw(negative_key, negative, count, order)
    wanted = jnp.arange(negative_index.shape[0]) < count - chosen.sum()
    negative_mask = nothing.at[negative_index].set(available & wanted)
    return positive_mask, negative_mask
