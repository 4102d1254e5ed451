"""A gallery on a Qdrant server: one collection of people, and one without vectors of the parts looked at."""

import dataclasses
import os
import uuid
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float

from ps_jax.errors import GalleryError
from ps_jax.search.records import Hits, Part, People, Restriction, nobody
from ps_jax.search.stores import explained, in_disorder

DEFAULT_PORT, DEFAULT_NAME = 6333, "gallery"
ROWS_A_CALL = 1000
BYTES_A_CALL = 8 << 20  # of features; the server takes 32 MiB unless told otherwise
DIGITS = 22  # bytes of a number in JSON, at most
EF = 256  # candidates that the server's graph search keeps


class QdrantStore:
    """See `ps_jax.search.stores.Store`.

    Rows have numbers made of their part's, so that adding a part again writes over what a killed `add` left behind.

    Args:
      client: a `qdrant_client.QdrantClient`.
      name: name of the collection of people; that of parts has "-parts" behind.
      about: what the gallery was made by.
    """

    remote = True

    def __init__(self, client: Any, name: str, about: Mapping[str, Any]):
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ApiException

        self.about, self.address = about, name
        self.faults = (OSError, ApiException, QdrantException)
        self._client, self._name = client, name
        self._rows = max(1, min(ROWS_A_CALL, BYTES_A_CALL // (DIGITS * int(about["width"]))))

    @explained
    def add(self, parts: Sequence[Part], people: People) -> None:
        """Records parts with their people; returns when the server has both."""
        models = _models()
        seen: dict[int, int] = {}
        points = []
        for part, moment, time, box, score, feature in zip(*people, strict=True):
            number = seen[int(part)] = seen.get(int(part), -1) + 1
            payload = {"part": int(part), "moment": float(moment), "time": float(time)}
            payload |= {"box": box.tolist(), "score": float(score)}
            name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{part}/{number}"))
            points.append(models.PointStruct(id=name, vector=feature.tolist(), payload=payload))
        for start in range(0, len(points), self._rows):
            self._client.upsert(self._name, points[start : start + self._rows], wait=True)
        records = [
            models.PointStruct(id=part.id, vector={}, payload=dataclasses.asdict(part)) for part in parts
        ]
        for start in range(0, len(records), ROWS_A_CALL):
            self._client.upsert(_parts(self._name), records[start : start + ROWS_A_CALL], wait=True)

    @explained
    def delete(self, parts: Collection[int]) -> None:
        """Forgets parts and their people."""
        models, numbers = _models(), sorted(map(int, parts))
        for start in range(0, len(numbers), ROWS_A_CALL):
            some = numbers[start : start + ROWS_A_CALL]
            self._client.delete(_parts(self._name), models.PointIdsList(points=some), wait=True)
            self._client.delete(self._name, models.FilterSelector(filter=_of_parts(some)), wait=True)

    @explained
    def parts(self) -> list[Part]:
        """Everything that is recorded."""
        return [Part(**point.payload) for point in self._scroll(_parts(self._name))]

    @explained
    def scan(self, parts: Collection[int] | None = None) -> Iterator[People]:
        """All people, or those of some parts."""
        numbers = None if parts is None else sorted(map(int, parts))
        for start in range(0, 1 if numbers is None else len(numbers), ROWS_A_CALL):
            some = None if numbers is None else _of_parts(numbers[start : start + ROWS_A_CALL])
            points = self._scroll(self._name, scroll_filter=some, with_vectors=True)
            while rows := [point for point, _ in zip(points, range(ROWS_A_CALL), strict=False)]:
                yield self._people_of(rows)

    @explained
    def search(
        self, vectors: Float[np.ndarray, "queries width"], count: int, restriction: Restriction, exact: bool
    ) -> list[Hits]:
        """The most similar people of each query, unless `exact` by the server's graph index."""
        models = _models()
        requests = [
            models.QueryRequest(
                query=vector.tolist(),
                limit=count,
                filter=_restricting(restriction),
                params=models.SearchParams(hnsw_ef=max(EF, count), exact=exact),
                with_payload=True,
            )
            for vector in vectors
        ]
        with _quiet():
            found = self._client.query_batch_points(self._name, requests)
        return [
            Hits(np.array([point.score for point in one.points], np.float32), self._people_of(one.points))
            for one in found
        ]

    @explained
    def count(self) -> int:
        """Stored rows of people."""
        return self._client.count(self._name, exact=True).count

    @explained
    def mend(self) -> None:
        """Removes people without a record, and files in disorder."""
        parts = self.parts()
        rows = Counter(point.payload["part"] for point in self._scroll(self._name, with_payload=["part"]))
        self.delete((rows.keys() - {part.id for part in parts}) | in_disorder(parts, rows))

    def optimize(self, index: bool) -> None:
        """The server merges and indexes by itself."""
        del index

    def _scroll(self, name: str, **options: Any) -> Iterator[Any]:
        place = None
        while True:
            points, place = self._client.scroll(name, limit=ROWS_A_CALL, offset=place, **options)
            yield from points
            if place is None:
                return

    def _people_of(self, points: Sequence[Any]) -> People:
        if not points:
            return nobody(0)

        def column(name: str, dtype: Any) -> np.ndarray:
            return np.array([point.payload[name] for point in points], dtype)

        vectors = [point.vector or [] for point in points]
        return People(
            column("part", np.int64),
            column("moment", np.float64),
            column("time", np.float64),
            column("box", np.float32),
            column("score", np.float32),
            np.array(vectors, np.float32).reshape(len(points), -1),
        )


def open_qdrant(address: str, about: Mapping[str, Any] | None) -> QdrantStore | None:
    """Opens a collection of a server, to write to it where `about` is given; None where there is none to read."""
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise GalleryError(f"{address} needs Qdrant's client: install the extra `qdrant`") from error
    parts = urlsplit(address)
    if not parts.hostname:
        raise GalleryError(f"{address}: wanted is qdrant://host[:port][/name]")
    client = QdrantClient(
        host=parts.hostname,
        port=parts.port or DEFAULT_PORT,
        https=parts.scheme.endswith("https"),
        api_key=os.environ.get("QDRANT_API_KEY"),
        timeout=60,
        check_compatibility=False,
    )
    try:
        return open_collection(client, parts.path.strip("/") or DEFAULT_NAME, about)
    except GalleryError:
        raise
    except Exception as error:  # the client passes on what its transport raises
        raise GalleryError(f"{address}: the server does not answer as it should ({error})") from error


def open_collection(client: Any, name: str, about: Mapping[str, Any] | None) -> QdrantStore | None:
    """Opens a collection through a client; see `open_qdrant`."""
    models = _models()
    if about is not None:
        vectors = models.VectorParams(size=int(about["width"]), distance=models.Distance.DOT)
        for collection, config in ((name, vectors), (_parts(name), {})):
            if not client.collection_exists(collection):
                client.create_collection(collection, vectors_config=config, metadata={"about": dict(about)})
        with _quiet():
            for field, kind in (("part", "integer"), ("time", "float"), ("score", "float")):
                client.create_payload_index(name, field, kind)
    elif not client.collection_exists(name) or not client.collection_exists(_parts(name)):
        return None
    kept = (client.get_collection(name).config.metadata or {}).get("about")
    if kept is None:
        raise GalleryError(f"{name}: this is another collection, not a gallery; choose another name")
    return QdrantStore(client, name, kept)


def _models() -> Any:
    from qdrant_client import models

    return models


def _parts(name: str) -> str:
    return f"{name}-parts"


def _of_parts(numbers: Sequence[int]) -> Any:
    models = _models()
    return models.Filter(must=[models.FieldCondition(key="part", match=models.MatchAny(any=list(numbers)))])


def _restricting(restriction: Restriction) -> Any:
    models = _models()
    score = models.Range(gte=float(np.float32(restriction.least_score)))
    time = models.Range(gte=restriction.after, lt=restriction.before)
    return models.Filter(
        must=[models.FieldCondition(key="score", range=score), models.FieldCondition(key="time", range=time)]
    )


def _quiet() -> warnings.catch_warnings:
    """Drops the local client's notes on what it does without."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)
