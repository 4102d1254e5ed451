"""Training scenes with missing or spurious boxes: the ladder of annotation amounts of SPNet (section 4.5).

The amounts of one split and seed are nested: each holds all boxes of the smaller ones, and a box is the same in
all amounts that have it. They depend on the records and the seed alone, on every machine.
"""

import dataclasses

import numpy as np

from input_pipeline.scenes import UNKNOWN, Box, Person, Scene, Split
from ps_jax.errors import ConfigError

_KEPT, _ORDER, _SCENE, _MODEL = 1, 2, 3, 4  # what a random stream is for


@dataclasses.dataclass(frozen=True)
class ChangedSplit(Split):
    """Some of the scenes of another split, with other people in them.

    Attributes:
      original: the split whose pictures these are.
    """

    original: Split = dataclasses.field(kw_only=True)

    def encoded(self, position: int) -> bytes:
        """The encoded picture (JPEG or PNG bytes) of scene number `position`."""
        return self.original.encoded(self.original.positions[self.scenes[position].name])


def with_annotation_amount(split: Split, percent: int, least_people: int = 0, seed: int = 0) -> Split:
    """The same training scenes with a share of their boxes, or with boxes where nobody is.

    Below 100 percent, one box of each scene that has any is marked by chance and stays; of all others as many
    stay, by chance, as make ceil(percent / 100 * boxes) in all. Above 100, floor((percent - 100) / 100 * boxes)
    spurious boxes are added. Each comes into a scene by chance, any number into one, and has the shape and place,
    as fractions of the picture, of a box drawn by chance from the whole split, cut at the picture's border;
    it may overlap others by any amount. It counts as a known person of its own, numbered on from the largest
    identity of the split. Added boxes come behind those of the scene.

    Args:
      split: a training split.
      percent: boxes afterwards, in percent of the boxes in the scenes that are not left out; above 0.
      least_people: scenes with fewer boxes are left out. The released ladder has 2: a scene's last box is never
        taken away, so of scenes with one person all boxes would stay.
      seed: of everything that is drawn.

    Returns:
      The changed split; `split` itself where nothing is asked for (100 percent, 0 people).

    Raises:
      ConfigError: an argument is out of range, no scene has so many people, or `percent` leaves less than one
        box for each scene.
    """
    if split.partition != "train":
        raise ValueError(f"partition is {split.partition!r}; only training scenes are changed")
    if percent <= 0:
        raise ConfigError(
            f"data.annotations is {percent}; wanted is a share above 0 percent, 100 for all boxes"
        )
    if least_people < 0:
        raise ConfigError(f"data.least_people is {least_people}; wanted is 0 or more")
    if percent == 100 and not least_people:
        return split
    scenes = tuple(scene for scene in split.scenes if len(scene.people) >= least_people)
    if not scenes:
        raise ConfigError(
            f"data.least_people is {least_people}, but no scene of {split.dataset} {split.partition} shows so many"
        )
    if percent < 100:
        people = _some(scenes, percent, seed)
    else:
        people = _more(scenes, percent, split, seed)
    changed = (
        dataclasses.replace(scene, people=tuple(present))
        for scene, present in zip(scenes, people, strict=True)
    )
    return ChangedSplit(
        split.dataset, split.partition, tuple(changed), original=split, table_rows=split.table_rows
    )


def _uniform(stream: int, seed: int, count: int) -> np.ndarray:
    """f64[count] uniform in 0 .. 1; plain draws, whose values all releases of NumPy share."""
    return np.random.default_rng((stream, seed)).random(count)


def _some(scenes: tuple[Scene, ...], percent: int, seed: int) -> list[list[Person]]:
    """For each scene the people who stay, in their order."""
    counts = np.array([len(scene.people) for scene in scenes])
    total, marked = int(counts.sum()), int((counts > 0).sum())
    keep = -(-percent * total // 100)
    if keep < marked:
        least = 100 * (marked - 1) // total + 1
        raise ConfigError(
            f"data.annotations is {percent}; {keep} of {total} boxes are fewer than one for each of the {marked} "
            f"scenes with people. Take at least {least}, or leave out scenes with few people (data.least_people=2)"
        )
    starts = np.cumsum(counts) - counts
    mark = (starts + (_uniform(_KEPT, seed, len(scenes)) * counts).astype(np.int64))[counts > 0]
    order = _uniform(_ORDER, seed, total)
    order[mark] = -1  # before all others
    stays = np.zeros(total, bool)
    stays[np.argsort(order, kind="stable")[:keep]] = True
    return [
        [person for person, stay in zip(scene.people, stays[start:], strict=False) if stay]
        for scene, start in zip(scenes, starts, strict=True)
    ]


def _more(scenes: tuple[Scene, ...], percent: int, split: Split, seed: int) -> list[list[Person]]:
    """For each scene its people and the spurious boxes."""
    people = [list(scene.people) for scene in scenes]
    added = (percent - 100) * sum(map(len, people)) // 100
    models = [(scene, person.box) for scene in split.scenes for person in scene.people]
    identity = max((person.identity for scene in split.scenes for person in scene.people), default=UNKNOWN)
    places = (_uniform(_SCENE, seed, added) * len(scenes)).astype(np.int64)
    chosen = (_uniform(_MODEL, seed, added) * len(models)).astype(np.int64)
    for place, number in zip(places.tolist(), chosen.tolist(), strict=True):
        identity += 1
        model, box = models[number]
        people[place].append(Person(_moved(box, model, scenes[place]), identity))
    return people


def _moved(box: Box, scene: Scene, to: Scene) -> Box:
    """A box of `scene` at the same place, in fractions of the picture, of another one; cut at the border."""
    before, after = (scene.width, scene.height) * 2, (to.width, to.height) * 2
    x1, y1, x2, y2 = (
        min(max(value / extent, 0.0), 1.0) * wanted
        for value, extent, wanted in zip(box, before, after, strict=True)
    )
    return x1, y1, x2, y2
