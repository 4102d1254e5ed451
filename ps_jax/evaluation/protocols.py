"""From a split and one of its galleries to what every query is searched in.

CUHK-SYSU lists the gallery of each query in a protocol file; PRW has a rule: every scene but the query's own.
Both become a `SearchTask`; `search.py` knows no data set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from input_pipeline.scenes import UNKNOWN, Box, Gallery, GalleryItem, Query, Split
from ps_jax.errors import ConfigError, DataError

SCOPES = ("", "full", "full_repeated")


@dataclass(frozen=True, eq=False)
class SearchItems:
    """The gallery of one query.

    Attributes:
      scene: i64[items], positions of the scenes to search in the split, in gallery order.
      positive: i64[positives], the items (indices into `scene`) that show the query's person.
      box: f64[positives, 4], the person's annotated box there, in pixels of the original picture.
      weight: i64[positives], how often each counts among the people to find: more than once where a protocol
        file names a scene twice, since the released evaluators from SeqNet on search it once but count it
        twice.
    """

    scene: Int[np.ndarray, " items"]
    positive: Int[np.ndarray, " positives"]
    box: Float[np.ndarray, "positives 4"]
    weight: Int[np.ndarray, " positives"]


@dataclass(frozen=True, eq=False)
class SearchTask:
    """Queries and the gallery of each.

    Attributes:
      name: gallery name, with its scope: "TestG100", "TestG50:full", "default".
      rule: in words, what a gallery consists of; printed with every result.
      queries: Q queries.
      items: Q galleries.
      released_ties: rank equally similar detections as the released code does, by numpy's unstable sort
        reversed, which depends on the processor; only where the released code is to be repeated in full.
    """

    name: str
    rule: str
    queries: tuple[Query, ...]
    items: tuple[SearchItems, ...]
    released_ties: bool = False

    @property
    def size(self) -> float:
        """Mean number of scenes in a query's gallery."""
        return float(np.mean([len(items.scene) for items in self.items]))


def gallery_names(split: Split, wanted: Sequence[str]) -> list[str]:
    """Names of galleries, from what a user asked for.

    Args:
      split: a split with galleries.
      wanted: names, each optionally with a scope ("TestG50:full"); "default" stands for the split's default
        gallery, "all" for every gallery it has.

    Returns:
      Names with scopes, each once, in the order asked for; "all" goes by gallery size, then by name.

    Raises:
      ConfigError: a name or scope is unknown, or nothing is asked for; the message lists what there is.
      DataError: the split has no galleries.
    """
    if not split.galleries:
        raise DataError(
            f"{split.dataset} {split.partition}: this partition has no queries; evaluate a partition that has"
        )
    names: list[str] = []
    for text in wanted:
        name, _, scope = text.partition(":")
        if name == "all":
            found = sorted(split.galleries, key=lambda key: (_size_of(split.galleries[key], split), key))
        elif name == "default" and "default" not in split.galleries:
            found = [split.default_gallery or next(iter(split.galleries))]
        else:
            found = [name]
        for one in found:
            if one not in split.galleries or scope not in SCOPES:
                there = ", ".join(sorted(split.galleries))
                raise ConfigError(
                    f"eval.galleries: {text!r} is unknown; {split.dataset} {split.partition} has {there} "
                    f'("all" for all of them, "NAME:full" for the whole partition as gallery)'
                )
            names.append(f"{one}:{scope}" if scope else one)
    if not names:
        raise ConfigError('eval.galleries: no gallery is named; use "default", "all" or names')
    return list(dict.fromkeys(names))


def search_task(split: Split, name: str, *, cross_camera: bool = False, min_frame_gap: int = 0) -> SearchTask:
    """The search task of a gallery.

    Args:
      split: scenes and galleries.
      name: a name from `gallery_names`. Scope "full" adds every other scene of the partition but the query's
        own to a listed gallery (as OIM's gallery size -1); "full_repeated" does it as SeqNet's released code
        would, which searches the listed scenes a second time as if the person were not there.
      cross_camera: leave out scenes of the query's own camera (PRW's multi-view gallery).
      min_frame_gap: leave out scenes of the query's own recording that are fewer than this many frame numbers
        away from it; 0 keeps all.

    Returns:
      The task; positives that are left out of a gallery do not count.

    Raises:
      DataError: no queries, nothing to search, or a query or gallery scene that is not in the split.
      ConfigError: an option needs cameras or frame numbers that the data set does not have.
    """
    if min_frame_gap < 0:
        raise ConfigError(f"eval.min_frame_gap: {min_frame_gap} is negative; 0 keeps every scene")
    base, _, scope = name.partition(":")
    gallery = split.galleries[base]
    where = f"{split.dataset} {split.partition}, gallery {base}"
    if not gallery.queries:
        raise DataError(f"{where}: there are no queries; check its protocol file")
    leave_out = _Exclusion(split, cross_camera, min_frame_gap)
    by_identity = _PeopleByIdentity(split)
    items = []
    for number, query in enumerate(gallery.queries):
        own = _position(split, query.scene, f"{where}, query {number}")
        if gallery.items is None:
            one = by_identity.items(query.identity, own)
        else:
            one = _listed_items(split, gallery.items[number], own, f"{where}, query {number}", scope)
        items.append(_without(one, leave_out(own)))
    if not any(len(one.scene) for one in items):
        raise DataError(
            f"{where}: every query's gallery is empty; check its protocol file, cross_camera and gap"
        )
    rule = "every scene but the query's own" if gallery.items is None else "as listed in the protocol file"
    if scope and gallery.items is not None:
        rule += ", and every other scene of the partition"
        rule += (
            "; listed scenes searched twice, the second time as negatives" if scope == "full_repeated" else ""
        )
    return SearchTask(
        name, rule + leave_out.words, gallery.queries, tuple(items), released_ties=scope == "full_repeated"
    )


def _listed_items(
    split: Split, listed: Sequence[GalleryItem], own: int, where: str, scope: str
) -> SearchItems:
    """Items of a query with a list; a scene listed again only adds to the weight."""
    order: dict[int, None] = {}
    box: dict[int, Box] = {}
    weight: dict[int, int] = {}
    for item in listed:
        position = _position(split, item.scene, where)
        order[position] = None
        if item.box is not None:
            box.setdefault(position, item.box)
            weight[position] = weight.get(position, 0) + 1
    before: list[int] = []
    after: list[int] = []
    others = [position for position in range(len(split.scenes)) if position != own]
    if scope == "full":
        after = [position for position in others if position not in order]
    elif scope == "full_repeated":
        before = others
    positive = [len(before) + item for item, position in enumerate(order) if position in box]
    shown = [position for position in order if position in box]
    return _items(before + list(order) + after, positive, [box[p] for p in shown], [weight[p] for p in shown])


class _PeopleByIdentity:
    """Finds the scenes of a person: the rule "every scene but the query's own, positives by identity"."""

    def __init__(self, split: Split):
        self._scenes = len(split.scenes)
        self._boxes: dict[int, dict[int, Box]] = {}
        for position, scene in enumerate(split.scenes):
            for person in scene.people:
                # Of a person annotated twice in one scene the first box counts, as in the released code.
                if person.identity != UNKNOWN:
                    self._boxes.setdefault(person.identity, {}).setdefault(position, person.box)

    def items(self, identity: int, own: int) -> SearchItems:
        """The gallery of a query for `identity` from scene number `own`."""
        scene = [position for position in range(self._scenes) if position != own]
        boxes = {position: box for position, box in self._boxes.get(identity, {}).items() if position != own}
        positive = [position - (position > own) for position in boxes]
        return _items(scene, positive, list(boxes.values()), [1] * len(boxes))


class _Exclusion:
    """Which scenes the options take out of a query's gallery."""

    def __init__(self, split: Split, cross_camera: bool, min_frame_gap: int):
        self._split, self._cross_camera, self._gap = split, cross_camera, min_frame_gap
        self.words = ", other cameras only" if cross_camera else ""
        if min_frame_gap:
            self.words += f", none closer than {min_frame_gap} frames in the query's recording"
        self._camera = np.array([-1 if s.camera is None else s.camera for s in split.scenes])
        recordings = {
            name: number for number, name in enumerate(sorted({s.sequence or "" for s in split.scenes}))
        }
        self._recording = np.array([recordings[s.sequence or ""] for s in split.scenes])
        self._frame = np.array([-1 if s.frame is None else s.frame for s in split.scenes])

    def __call__(self, own: int) -> np.ndarray:
        """bool[scenes], those to leave out for a query from scene number `own`."""
        scene, dataset = self._split.scenes[own], self._split.dataset
        out = np.zeros(len(self._split.scenes), bool)
        if self._cross_camera:
            if scene.camera is None:
                raise ConfigError(
                    f"eval.cross_camera: {dataset} has no camera numbers (scene {scene.name}); switch it off"
                )
            out |= self._camera == scene.camera
        if self._gap:
            if scene.sequence is None or scene.frame is None:
                raise ConfigError(
                    f"eval.min_frame_gap: {dataset} has no frame numbers (scene {scene.name}); set it to 0"
                )
            same = (self._recording == self._recording[own]) & (self._frame >= 0)
            out |= same & (np.abs(self._frame - scene.frame) < self._gap)
        return out


def _without(items: SearchItems, out: np.ndarray) -> SearchItems:
    """The items less those of the scenes marked in `out`."""
    if not out.any():
        return items
    keep = ~out[items.scene]
    still = keep[items.positive]
    number = np.cumsum(keep) - 1
    return SearchItems(
        items.scene[keep], number[items.positive[still]], items.box[still], items.weight[still]
    )


def _items(
    scene: Sequence[int], positive: Sequence[int], box: Sequence[Box], weight: Sequence[int]
) -> SearchItems:
    return SearchItems(
        np.asarray(scene, np.int64).reshape(-1),
        np.asarray(positive, np.int64).reshape(-1),
        np.asarray(box, np.float64).reshape(-1, 4),
        np.asarray(weight, np.int64).reshape(-1),
    )


def _position(split: Split, name: str, where: str) -> int:
    if name not in split.positions:
        raise DataError(
            f"{where}: scene {name!r} is not among the {len(split.scenes)} scenes of the partition"
        )
    return split.positions[name]


def _size_of(gallery: Gallery, split: Split) -> int:
    return (
        len(split.scenes) - 1
        if gallery.items is None
        else max((len(items) for items in gallery.items), default=0)
    )
