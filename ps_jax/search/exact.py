"""Exact search in memory: one matrix product, by numpy for one query, in blocks through JAX for many."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

BLOCK = 32768  # rows compared at a time
QUERIES = 32  # queries compared at a time through JAX
ONE_BY_ONE = 4  # up to so many queries numpy is quicker


class ExactSearch:
    """Features of a whole gallery, held once: on a CPU numpy and JAX look at the same memory.

    Args:
      feature: f32[rows, width].
    """

    def __init__(self, feature: Float[np.ndarray, "rows width"]):
        self.rows, width = feature.shape
        blocks = max(1, -(-self.rows // BLOCK))
        filled = np.zeros((blocks * BLOCK, width), np.float32)
        filled[: self.rows] = feature
        self._blocks = jax.device_put(filled.reshape(blocks, BLOCK, width))
        self._feature = np.asarray(self._blocks).reshape(-1, width)[: self.rows]

    @property
    def feature(self) -> Float[np.ndarray, "rows width"]:
        """The features, not to be written to."""
        return self._feature

    def search(
        self,
        vectors: Float[np.ndarray, "queries width"],
        count: int,
        allowed: Bool[np.ndarray, " rows"] | None = None,
    ) -> list[tuple[Float[np.ndarray, " found"], Int[np.ndarray, " found"]]]:
        """The rows of the largest products.

        Args:
          vectors: f32[queries, width].
          count: rows wanted for each query.
          allowed: bool[rows], who is searched; None: everybody.

        Returns:
          For each query (f32[found] products, i64[found] row numbers), best first, of equal ones the lower row;
          fewer than `count` where no more are allowed.
        """
        vectors = np.asarray(vectors, np.float32)
        count = min(count, self.rows)
        if count < 1:
            return [(np.zeros(0, np.float32), np.zeros(0, np.int64)) for _ in vectors]
        if len(vectors) <= ONE_BY_ONE:
            return [self._search_one(vector, count, allowed) for vector in vectors]
        most = min(BLOCK, 1 << (count - 1).bit_length())  # so that few different programs are compiled
        if count > most:
            return [self._search_one(vector, count, allowed) for vector in vectors]
        mask = np.zeros(self._blocks.shape[:2], bool)
        mask.reshape(-1)[: self.rows] = True if allowed is None else allowed
        found = []
        for start in range(0, len(vectors), QUERIES):
            some = vectors[start : start + QUERIES]
            padded = np.pad(some, ((0, QUERIES - len(some)), (0, 0)))
            product, row = jax.device_get(_best(padded, self._blocks, mask, most))
            for one in range(len(some)):
                real = np.flatnonzero(product[one] > -np.inf)[:count]
                found.append((product[one][real], row[one][real].astype(np.int64)))
        return found

    def _search_one(
        self, vector: Float[np.ndarray, " width"], count: int, allowed: Bool[np.ndarray, " rows"] | None
    ) -> tuple[Float[np.ndarray, " found"], Int[np.ndarray, " found"]]:
        product = self._feature @ vector
        candidates = np.arange(self.rows) if allowed is None else np.flatnonzero(allowed)
        among = product if allowed is None else product[candidates]
        if count < len(among):
            least = np.partition(among, len(among) - count)[len(among) - count]
            candidates = candidates[among >= least]
        order = np.argsort(-product[candidates], kind="stable")[:count]
        return product[candidates[order]], candidates[order]


@functools.partial(jax.jit, static_argnames="count")
def _best(
    vectors: Float[Array, "query width"],
    blocks: Float[Array, "block row width"],
    allowed: Bool[Array, "block row"],
    count: int,
) -> tuple[Float[Array, "query count"], Int[Array, "query count"]]:
    """The `count` largest products of each query and their rows; -inf where there are not so many."""

    def look(best, block):
        product, row = best
        number, feature, mask = block
        here = jnp.dot(vectors, feature.T, precision="highest")
        here, place = jax.lax.top_k(jnp.where(mask, here, -jnp.inf), count)
        both = jnp.concatenate([product, here], axis=1)
        rows = jnp.concatenate([row, place + number * BLOCK], axis=1)
        both, place = jax.lax.top_k(both, count)  # of equal ones the first, which is the lower row
        return (both, jnp.take_along_axis(rows, place, axis=1)), None

    queries = len(vectors)
    start = jnp.full((queries, count), -jnp.inf), jnp.zeros((queries, count), jnp.int32)
    numbers = jnp.arange(len(blocks), dtype=jnp.int32)
    return jax.lax.scan(look, start, (numbers, blocks, allowed))[0]
