"""What a gallery holds: the files that have been looked at, part by part, and the people found in them."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, slots=True)
class Part:
    """What was looked at at one time and is recorded at one time: a picture, or consecutive frames of a video.

    Attributes:
      id: number made of the file, its version and `first`, so that the same part has the same number again.
      path: the file, absolute.
      size, modified: bytes, and nanoseconds since 1970; together the file's version.
      first, frames: number of the first frame looked at, and how many were; 0 and 1 for a picture.
      finished: whether nothing of the file is left behind this part.
      taken: seconds since 1970 at which the picture was taken, or the video began.
      height, width: in pixels as shown; 0 where nothing can be read.
      people: how many rows of `People` belong to the part.
      damage: why the file cannot be read, or a video not to its end; "" where it can.
    """

    id: int
    path: str
    size: int
    modified: int
    first: int
    frames: int
    finished: bool
    taken: float
    height: int
    width: int
    people: int
    damage: str = ""


class People(NamedTuple):
    """People found in a gallery's scenes, in columns of equal length.

    Attributes:
      part: i64[rows], `Part.id`.
      moment: f64[rows], seconds since the beginning of the video; 0 in a picture.
      time: f64[rows], seconds since 1970.
      box: f32[rows, 4], xyxy in pixels of the picture or frame as shown.
      score: f32[rows], of the detection.
      feature: f32[rows, width], whose product with a query's unit feature is the similarity; width 0 where
        features are left out.
    """

    part: Int[np.ndarray, " rows"]
    moment: Float[np.ndarray, " rows"]
    time: Float[np.ndarray, " rows"]
    box: Float[np.ndarray, "rows 4"]
    score: Float[np.ndarray, " rows"]
    feature: Float[np.ndarray, "rows width"]

    def take(self, rows: np.ndarray | slice) -> "People":
        """The chosen rows, by number, mask or slice."""
        return People(*(column[rows] for column in self))


class Hits(NamedTuple):
    """The people most similar to a query, best first.

    Attributes:
      similarity: f32[rows].
      people: the rows, without their features.
    """

    similarity: Float[np.ndarray, " rows"]
    people: People


@dataclass(frozen=True, slots=True)
class Restriction:
    """Who is searched: people of at least this detection score, seen from `after` on and before `before`.

    Attributes:
      least_score: in 0 .. 1.
      after, before: seconds since 1970; None for no bound.
    """

    least_score: float = 0.0
    after: float | None = None
    before: float | None = None

    def allows(self, people: People) -> np.ndarray:
        """bool[rows], who is searched."""
        allowed = people.score >= np.float32(self.least_score)
        if self.after is not None:
            allowed &= people.time >= self.after
        if self.before is not None:
            allowed &= people.time < self.before
        return allowed


EVERYBODY = Restriction()


def part_id(path: str, size: int, modified: int, first: int) -> int:
    """The number of a part, 63 bits of a hash."""
    digest = hashlib.sha256(
        f"{path}\0{size}\0{modified}\0{first}".encode("utf-8", "surrogateescape")
    ).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def nobody(width: int) -> People:
    """No rows, of features of a width."""
    empty = np.zeros(0)
    return People(
        np.zeros(0, np.int64), empty, empty, np.zeros((0, 4), np.float32), np.zeros(0, np.float32),
        np.zeros((0, width), np.float32),
    )  # fmt: skip


def joined_people(tables: Iterable[People], width: int) -> People:
    """One table after the other."""
    return People(*map(np.concatenate, zip(nobody(width), *tables, strict=True)))


def best_hits(hits: Sequence[Hits], count: int) -> Hits:
    """The best of several lists of hits, at most `count`; of equally similar ones the earlier list's first."""
    similarity = np.concatenate([one.similarity for one in hits])
    first = np.argsort(-similarity, kind="stable")[:count]
    return Hits(similarity[first], joined_people((one.people for one in hits), 0).take(first))
