"""The interface of a gallery's storage, and the choice of one by its address."""

import fcntl
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

from ps_jax.errors import GalleryError
from ps_jax.search.records import Hits, Part, People, Restriction

LOCK = ".index.lock"  # in the gallery's folder
QDRANT = ("qdrant://", "qdrant+https://")


@runtime_checkable
class Store(Protocol):
    """Where a gallery lies.

    What `add` has returned from is on disk. Rows of people whose part is not recorded are what a killed `add` left
    behind; readers pass over them and `mend` removes them.

    Attributes:
      about: what the gallery was made by, and "width", the length of its features.
      remote: whether a server searches where the people are, so that they are not loaded from there.
    """

    about: Mapping[str, Any]
    remote: bool

    def add(self, parts: Sequence[Part], people: People) -> None:
        """Records parts with the people found in them: the people first, then the parts."""

    def delete(self, parts: Collection[int]) -> None:
        """Forgets parts: their records first, then their people."""

    def parts(self) -> list[Part]:
        """Everything that is recorded, in no order."""

    def scan(self, parts: Collection[int] | None = None) -> Iterator[People]:
        """All people, or those of some parts, in tables of any length."""

    def search(
        self, vectors: Float[np.ndarray, "queries width"], count: int, restriction: Restriction, exact: bool
    ) -> list[Hits]:
        """For each query the `count` people of the largest product of features; unless `exact`, by an index if any."""

    def count(self) -> int:
        """How many rows of people are stored."""

    def mend(self) -> None:
        """Removes people whose part is not recorded, and what `in_disorder` names. Only while nobody else writes."""

    def optimize(self, index: bool) -> None:
        """Merges small files and, where asked for, makes or renews an index for approximate search."""


P = ParamSpec("P")
T = TypeVar("T")


def explained(operation: Callable[P, T]) -> Callable[P, T]:
    """An operation of a store whose faults, such as a full disk or a server that is gone, become GalleryErrors.

    Args:
      operation: method of a store that has an `address`, and in `faults` the exceptions of what it is made of.
    """

    @contextmanager
    def told(store: Any) -> Iterator[None]:
        try:
            yield
        except store.faults as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise GalleryError(
                f"{store.address}: the gallery cannot be read or written ({reason}); what was added is kept: see "
                "to the cause (room on the disk, the server) and run the same again"
            ) from error

    def in_steps(store: Any, result: Any) -> Iterator[Any]:
        with told(store):
            yield from result

    @functools.wraps(operation)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Any:
        with told(args[0]):
            result = operation(*args, **kwargs)
        return in_steps(args[0], result) if inspect.isgenerator(result) else result

    return wrapped


def open_store(address: str) -> Store:
    """Opens a gallery that exists.

    Args:
      address: a folder or what else LanceDB takes ("s3://bucket/folder"), or "qdrant://host[:port][/name]",
        "qdrant+https://..." for a Qdrant server (its key in the environment's QDRANT_API_KEY).

    Raises:
      GalleryError: there is none, it cannot be reached, or its package is not installed.
    """
    store = _open(address, None, 0)
    if store is None:
        raise GalleryError(f"{address}: there is no gallery here; make it with python search.py index")
    return store


def make_store(address: str, about: Mapping[str, Any], writer: int = 0) -> Store:
    """Opens a gallery to write to; makes it where there is none.

    Args:
      address: see `open_store`.
      about: what the gallery is made by, JSON values, with the features' "width".
      writer: number of the process, of several that write at the same time.

    Raises:
      GalleryError: it cannot be made or reached, or was made by something else; names what differs.
    """
    store = _open(address, about, writer)
    assert store is not None
    differing = [name for name in about if name not in FREE and about[name] != store.about.get(name)]
    if differing:
        listed = "; ".join(f"{name} {store.about.get(name)} there, {about[name]} here" for name in differing)
        raise GalleryError(
            f"{address}: this gallery was indexed otherwise ({listed}); use the same model and options, or another "
            "--gallery"
        )
    return store


@contextmanager
def locked(address: str) -> Iterator[None]:
    """Keeps a gallery in a folder to one `index` at a time; the system lets go when the process ends, however it ends.

    On object storage and servers there is nothing to lock.

    Raises:
      GalleryError: another one is at work there, or the folder cannot be made or locked.
    """
    if "://" in address:
        yield
        return
    try:
        Path(address).mkdir(parents=True, exist_ok=True)
        with open(Path(address) / LOCK, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError:
        raise GalleryError(
            f"{address}: another index is at work on this gallery; wait for it, or use --num_processes to index in "
            "several"
        ) from None
    except OSError as error:
        raise GalleryError(f"{address}: a gallery cannot be made here ({error.strerror})") from error


def in_disorder(parts: Sequence[Part], rows: Mapping[int, int]) -> set[int]:
    """Ids of parts that are recorded twice or with another number of people, and of all parts of their files.

    Two writers that did not know of each other leave such. Of a video all parts go, since one goes on after the last.

    Args:
      parts: everything that is recorded.
      rows: part -> stored people.
    """
    times = Counter(part.id for part in parts)
    files = {part.path for part in parts if times[part.id] > 1 or rows.get(part.id, 0) != part.people}
    return {part.id for part in parts if part.path in files}


FREE = ("model",)  # entries of `about` that may differ: where the model lies


def _open(address: str, about: Mapping[str, Any] | None, writer: int) -> Store | None:
    if address.startswith(QDRANT):
        from ps_jax.search.qdrant_store import open_qdrant

        return open_qdrant(address, about)
    from ps_jax.search.lance_store import open_lance

    return open_lance(address, about, writer)
