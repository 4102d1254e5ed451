"""The search tasks of a split by name, each read from disk when it is first asked for.

The largest protocol files list millions of gallery scenes, so nobody should wait for one that is not used.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping

from input_pipeline.scenes import Gallery
from ps_jax.errors import DataError


class Galleries(Mapping[str, Gallery]):
    """Galleries by name.

    Args:
      owner: whose galleries they are, for messages.
      readers: for each name a function without arguments that returns the gallery.
      remedy: what a user does to get a gallery that is not there.
    """

    def __init__(self, owner: str, readers: Mapping[str, Callable[[], Gallery]], remedy: str = ""):
        self._owner = owner
        self._readers = dict(readers)
        self._remedy = remedy
        self._read: dict[str, Gallery] = {}

    @classmethod
    def of(cls, owner: str, galleries: Iterable[Gallery]) -> "Galleries":
        """Galleries that are in memory already."""
        return cls(owner, {gallery.name: functools.partial(_itself, gallery) for gallery in galleries})

    def __getitem__(self, name: str) -> Gallery:
        """The gallery of that name; raises DataError, not KeyError, where there is none."""
        if name not in self._readers:
            present = ", ".join(self._readers) or "none"
            raise DataError(
                f"{self._owner}: there is no gallery {name!r} (there are: {present}). {self._remedy}".rstrip()
            )
        if name not in self._read:
            self._read[name] = self._readers[name]()
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._readers

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def get(self, name, default=None):
        """The gallery of that name, `default` where there is none."""
        if name not in self._readers:
            return default
        return self[name]

    def __repr__(self) -> str:
        return f"Galleries({self._owner!r}, {list(self._readers)})"


def _itself(gallery: Gallery) -> Gallery:
    return gallery
