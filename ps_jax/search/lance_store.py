"""A gallery in a folder, kept by LanceDB: every insertion is one commit, whole or absent."""

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ps_jax.errors import GalleryError
from ps_jax.search.records import Hits, Part, People, Restriction, best_hits, nobody
from ps_jax.search.stores import explained, in_disorder

PEOPLE, PARTS = "people", "parts"  # names of tables, with the number of their writer behind
IDS_A_CONDITION = 1000
KEEP_VERSIONS = timedelta(hours=1)  # for readers that have the gallery open
READ_AGAIN = timedelta(
    minutes=1
)  # readers look for a newer version, so that theirs is never one that is removed
PROBES = 64  # partitions, of about 4096 people, that a query looks into: all up to 260,000 people
REFINE = 4  # times as many candidates are compared again with their full features


class LanceStore:
    """See `ps_jax.search.stores.Store`. Each writer has a pair of tables of its own; readers see all of them.

    Args:
      database: LanceDB's connection.
      about: what the gallery was made by.
      writer: number of the tables to write to; None only reads.
    """

    remote = False
    faults = (OSError, RuntimeError, ValueError)

    def __init__(self, database: Any, about: Mapping[str, Any], writer: int | None):
        self.about, self.address = about, database.uri
        self._width = int(about["width"])
        names = sorted(database.list_tables().tables)
        self._people = {name: database.open_table(name) for name in names if name.startswith(PEOPLE)}
        self._parts = {name: database.open_table(name) for name in names if name.startswith(PARTS)}
        self._writer = writer

    @explained
    def add(self, parts: Sequence[Part], people: People) -> None:
        """Records parts with their people."""
        if len(people.part):
            self._people[_name(PEOPLE, self._writer)].add(self._table(people))
        if parts:
            columns = {field.name: [getattr(part, field.name) for part in parts] for field in _FIELDS}
            self._parts[_name(PARTS, self._writer)].add(_arrow().Table.from_pydict(columns, _parts_schema()))

    @explained
    def delete(self, parts: Collection[int]) -> None:
        """Forgets parts and their people."""
        for column, tables in (("id", self._parts), ("part", self._people)):
            for condition in _conditions(column, parts):
                for table in tables.values():
                    table.delete(condition)

    @explained
    def parts(self) -> list[Part]:
        """Everything that is recorded."""
        rows = (row for table in self._parts.values() for row in table.to_arrow().to_pylist())
        return [Part(**row) for row in rows]

    @explained
    def scan(self, parts: Collection[int] | None = None) -> Iterator[People]:
        """All people, or those of some parts."""
        for table in self._people.values():
            for condition in [None] if parts is None else _conditions("part", parts):
                query = table.search()
                if condition is not None:
                    query = query.where(condition)
                for batch in query.to_batches():
                    yield self._people_of(batch)

    @explained
    def search(
        self, vectors: Float[np.ndarray, "queries width"], count: int, restriction: Restriction, exact: bool
    ) -> list[Hits]:
        """The most similar people of each query, unless `exact` by the index where there is one."""
        return [self._search_one(vector, count, restriction, exact) for vector in vectors]

    def _search_one(
        self, vector: Float[np.ndarray, " width"], count: int, restriction: Restriction, exact: bool
    ) -> Hits:
        hits = [Hits(np.zeros(0, np.float32), nobody(0))]
        for table in self._people.values():
            query = table.search(vector.astype(np.float32), vector_column_name="feature")
            query = query.distance_type("dot").nprobes(PROBES).refine_factor(REFINE).limit(count)
            if exact:
                query = query.bypass_vector_index()
            condition = _restricting(restriction)
            if condition:
                query = query.where(condition)
            found = query.select(["part", "moment", "time", "box", "score", "_distance"]).to_arrow()
            people = self._people_of(found)
            hits.append(Hits(1.0 - found["_distance"].to_numpy().astype(np.float32), people))
        return best_hits(hits, count)

    @explained
    def count(self) -> int:
        """Stored rows of people."""
        return sum(table.count_rows() for table in self._people.values())

    @explained
    def mend(self) -> None:
        """Removes people without a record, and files in disorder."""
        parts, rows = self.parts(), Counter[int]()
        for table in self._people.values():
            counts = table.search().select(["part"]).to_arrow()["part"].value_counts().to_pylist()
            rows.update({entry["values"]: entry["counts"] for entry in counts})
        self.delete((rows.keys() - {part.id for part in parts}) | in_disorder(parts, rows))

    @explained
    def optimize(self, index: bool) -> None:
        """Merges this writer's small files; with `index` makes an inverted file of scalar-quantised features."""
        from lancedb.index import IvfSq

        own = (self._people[_name(PEOPLE, self._writer)], self._parts[_name(PARTS, self._writer)])
        for table in own:
            features = "feature" in table.schema.names and table.count_rows()
            if index and features and not table.list_indices():
                table.create_index("feature", config=IvfSq(distance_type="dot"))
            table.optimize(cleanup_older_than=KEEP_VERSIONS)  # adds new rows to an index, too

    def _table(self, people: People) -> Any:
        pa = _arrow()
        part, moment, time, box, score, feature = people
        columns = [
            *(pa.array(column) for column in (part, moment, time)),
            pa.FixedSizeListArray.from_arrays(pa.array(box.reshape(-1)), 4),
            pa.array(score),
            pa.FixedSizeListArray.from_arrays(pa.array(feature.reshape(-1)), self._width),
        ]
        return pa.Table.from_arrays(columns, schema=_people_schema(self.about))

    @staticmethod
    def _people_of(table: Any) -> People:
        rows = table.num_rows

        def matrix(name: str) -> np.ndarray:
            if name not in table.schema.names:
                return np.zeros((rows, 0), np.float32)
            column = table[name]
            chunks = column.chunks if hasattr(column, "chunks") else [column]
            values = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
            return np.concatenate([np.zeros(0, np.float32), *values]).reshape(rows, -1)

        plain = (table[name].to_numpy(zero_copy_only=False) for name in ("part", "moment", "time", "score"))
        part, moment, time, score = plain
        box = matrix("box") if rows else np.zeros((0, 4), np.float32)
        return People(part, moment, time, box, score, matrix("feature"))


_FIELDS = dataclasses.fields(Part)
_TYPES: dict[Any, str] = {int: "int64", float: "float64", bool: "bool_", str: "string"}


def open_lance(address: str, about: Mapping[str, Any] | None, writer: int) -> LanceStore | None:
    """Opens the gallery of a folder, to write to it where `about` is given; None where there is none to read."""
    try:
        import lancedb
    except ImportError as error:
        raise GalleryError("a gallery in a folder needs LanceDB: install the extra `search`") from error
    if about is None and "://" not in address and not Path(address).is_dir():
        return None
    try:
        database = lancedb.connect(address, read_consistency_interval=READ_AGAIN)
        there = database.list_tables().tables
        if about is not None:
            # "exist_ok": of two processes that make a table at the same time, both get the one that is there.
            for name, schema in (
                (_name(PEOPLE, writer), _people_schema(about)),
                (_name(PARTS, writer), _parts_schema()),
            ):
                if name not in there:
                    database.create_table(name, schema=schema, exist_ok=True)
        names = [name for name in database.list_tables().tables if name.startswith(PEOPLE)]
        if not names:
            return None
        kept = database.open_table(min(names)).schema.metadata or {}
    except (OSError, RuntimeError, ValueError) as error:
        raise GalleryError(
            f"{address}: this gallery cannot be opened ({str(error).splitlines()[0]})"
        ) from error
    if b"about" not in kept:
        raise GalleryError(
            f"{address}: this is another LanceDB database, not a gallery; use another --gallery"
        )
    return LanceStore(database, json.loads(kept[b"about"]), None if about is None else writer)


def _arrow() -> Any:
    import pyarrow

    return pyarrow


def _name(kind: str, writer: int | None) -> str:
    assert writer is not None, "opened to read"
    return f"{kind}_{writer:04d}"


def _people_schema(about: Mapping[str, Any]) -> Any:
    pa = _arrow()
    return pa.schema(
        [
            ("part", pa.int64()),
            ("moment", pa.float64()),
            ("time", pa.float64()),
            ("box", pa.list_(pa.float32(), 4)),
            ("score", pa.float32()),
            ("feature", pa.list_(pa.float32(), int(about["width"]))),
        ],
        metadata={"about": json.dumps(dict(about))},
    )


def _parts_schema() -> Any:
    pa = _arrow()
    return pa.schema([(field.name, getattr(pa, _TYPES[field.type])()) for field in _FIELDS])


def _conditions(column: str, ids: Collection[int]) -> Iterator[str]:
    """SQL that names some ids at a time."""
    numbers = sorted(ids)
    for start in range(0, len(numbers), IDS_A_CONDITION):
        yield f"{column} IN ({', '.join(map(str, map(int, numbers[start : start + IDS_A_CONDITION])))})"


def _restricting(restriction: Restriction) -> str:
    terms = (
        [f"score >= {float(np.float32(restriction.least_score))!r}"] if restriction.least_score > 0 else []
    )
    if restriction.after is not None:
        terms.append(f"time >= {float(restriction.after)!r}")
    if restriction.before is not None:
        terms.append(f"time < {float(restriction.before)!r}")
    return " AND ".join(terms)
