"""Records of person-search data: scenes, the people in them, queries and galleries.

Every reader of a disk layout returns a `Split` of these. Boxes are (x1, y1, x2, y2) in pixels of the picture
as it lies on disk, with x2 and y2 exclusive (no +1 convention). Plain dataclasses: no TensorFlow, no JAX.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from ps_jax.errors import DataError

UNKNOWN = -1  # identity of a person who was boxed but not named

MARKET1501 = "market1501"  # the one data set whose pictures are cut out already

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Person:
    """One annotated person: a box and the data set's own identity number (`UNKNOWN` if not named)."""

    box: Box
    identity: int = UNKNOWN


@dataclass(frozen=True, slots=True)
class Scene:
    """One whole picture and the people annotated in it.

    Attributes:
      name: file name by which queries and galleries refer to the scene; unique in its split.
      path: where the encoded picture lies.
      height, width: size of the picture in pixels.
      people: annotated people, in the order of the annotation file.
      camera: camera number, None where the data set has none.
      sequence, frame: recording and frame number in it (PRW's "c6s1", 4576), None where not known.
    """

    name: str
    path: str
    height: int
    width: int
    people: tuple[Person, ...] = ()
    camera: int | None = None
    sequence: str | None = None
    frame: int | None = None

    @property
    def boxes(self) -> np.ndarray:
        """f32[N, 4] boxes of all annotated people."""
        return np.array([person.box for person in self.people], np.float32).reshape(-1, 4)

    @property
    def identities(self) -> np.ndarray:
        """i64[N] identities of all annotated people."""
        return np.array([person.identity for person in self.people], np.int64)


@dataclass(frozen=True, slots=True)
class Query:
    """A person to look for: a scene of the split by name, the box in it, and who it is."""

    scene: str
    box: Box
    identity: int


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """A scene to search, and the box of the query's person where that person is in it."""

    scene: str
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Gallery:
    """One search task: queries, and the scenes each of them is looked for in.

    Attributes:
      name: name of the protocol file or rule, for example "TestG100".
      queries: the people to look for.
      items: for each query its gallery in file order (a name may occur twice, as in some protocol files);
        None means every scene of the split but the query's own, positives by identity.
    """

    name: str
    queries: tuple[Query, ...]
    items: tuple[tuple[GalleryItem, ...], ...] | None = None


@dataclass(frozen=True)
class Split:
    """The scenes of one partition of a data set, with its search tasks.

    Attributes:
      dataset: name of the data set, for example "prw".
      partition: "train" or "test".
      scenes: all scenes of the partition.
      galleries: search tasks by name; empty for training.
      default_gallery: the task that published numbers refer to.
      table_rows: None: training numbers the known identities one after the other. Else the rows of the lookup table,
        whatever identities there are, and identity i is number i - 1, even where that is beyond the table.
    """

    dataset: str
    partition: str
    scenes: tuple[Scene, ...]
    galleries: Mapping[str, Gallery] = field(default_factory=lambda: MappingProxyType({}))
    default_gallery: str | None = None
    table_rows: int | None = field(default=None, kw_only=True)

    @property
    def is_cut_out(self) -> bool:
        """Whether every picture is one person, so that there is nothing to detect."""
        return self.dataset == MARKET1501

    @functools.cached_property
    def labels(self) -> dict[int, int]:
        """Known identities in ascending order -> 0 .. L-1, the numbering training uses (but see `table_rows`)."""
        known = sorted({person.identity for scene in self.scenes for person in scene.people} - {UNKNOWN})
        if self.table_rows is not None:
            return {identity: identity - 1 for identity in known}
        return {identity: label for label, identity in enumerate(known)}

    @property
    def num_identities(self) -> int:
        """L, the rows of the lookup table of known identities."""
        return len(self.labels) if self.table_rows is None else self.table_rows

    @functools.cached_property
    def positions(self) -> dict[str, int]:
        """Scene name -> position in `scenes`."""
        return {scene.name: position for position, scene in enumerate(self.scenes)}

    def scene(self, name: str) -> Scene:
        """The scene of that name; raises DataError where there is none."""
        try:
            return self.scenes[self.positions[name]]
        except KeyError:
            raise DataError(f"{self.dataset} {self.partition}: there is no scene named {name!r}") from None

    def encoded(self, position: int) -> bytes:
        """The encoded picture (JPEG or PNG bytes) of scene number `position`."""
        scene = self.scenes[position]
        try:
            with open(scene.path, "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(f"{scene.path}: cannot read this picture ({error.strerror})") from error
