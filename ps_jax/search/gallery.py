"""A gallery open for search: exactly up to about a million people, by the store's index beyond."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Float

from ps_jax.search.exact import ExactSearch
from ps_jax.search.records import EVERYBODY, Hits, People, Restriction, joined_people
from ps_jax.search.stores import Store

EXACT_BYTES = 1 << 30  # of features: a million of width 256


class Gallery:
    """The people of a store as they were when it was opened.

    Attributes:
      about: what the gallery was made by.
      parts: what has been looked at, by `Part.id`.
      exact: whether search is exact.

    Args:
      store: where it lies.
      exact_bytes: up to so many bytes of features search is exact, in memory unless a server keeps them.
    """

    def __init__(self, store: Store, exact_bytes: int = EXACT_BYTES):
        self._store = store
        self.about = dict(store.about)
        self.parts = {part.id: part for part in store.parts()}
        self.width = int(self.about["width"])
        self.exact = store.count() * self.width * 4 <= exact_bytes
        self._loaded = self.exact and not store.remote
        if self._loaded:
            people = joined_people(store.scan(), self.width)
            people = people.take(np.isin(people.part, np.fromiter(self.parts, np.int64)))
            people = people.take(_by_scene(people))
            self._search = ExactSearch(people.feature)
            self._people = people._replace(feature=self._search.feature)  # in memory once

    @property
    def count(self) -> int:
        """How many people there are."""
        return sum(part.people for part in self.parts.values())

    def search(
        self,
        vectors: Float[np.ndarray, "queries width"],
        count: int,
        restriction: Restriction = EVERYBODY,
    ) -> list[Hits]:
        """For each query the `count` most similar people among those that the restriction allows."""
        if not self._loaded:
            return [self._search_store(vector, count, restriction) for vector in vectors]
        allowed = None if restriction == EVERYBODY else restriction.allows(self._people)
        plain = self._people._replace(feature=np.zeros((len(self._people.part), 0), np.float32))
        return [
            Hits(product, plain.take(rows)) for product, rows in self._search.search(vectors, count, allowed)
        ]

    def _search_store(
        self, vector: Float[np.ndarray, " width"], count: int, restriction: Restriction
    ) -> Hits:
        """By the store; of the rows that it finds those of recorded parts."""
        known = np.fromiter(self.parts, np.int64)
        asked = count
        while True:
            hits = self._store.search(vector[None], asked, restriction, self.exact)[0]
            kept = np.flatnonzero(np.isin(hits.people.part, known))[:count]
            if len(kept) == count or len(hits.similarity) < asked:
                return Hits(hits.similarity[kept], hits.people.take(kept))
            asked *= 2

    def scenes(self, parts: Collection[int]) -> People:
        """All people of some parts with their features, scene after scene, the best score of each first."""
        if self._loaded:
            return self._people.take(np.isin(self._people.part, np.fromiter(parts, np.int64)))
        people = joined_people(self._store.scan(parts), self.width)
        return people.take(_by_scene(people))


def _by_scene(people: People) -> np.ndarray:
    """Row numbers in the order of part, moment and descending score."""
    return np.lexsort((-people.score, people.moment, people.part))
