"""Writes the annotation of generated streets as the files of CUHK-SYSU or of PRW."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import savemat

from input_pipeline.scenes import UNKNOWN

QUERY_SIZE = 50  # the gallery file that names the queries, and through them the test identities
_SUBSET_SIZE = 100
_CLEAR, _OCCLUDED, _SMALL = 0.8, 0.85, 0.36  # visible shares, and height of a box in picture heights
_HIDDEN = 0.6  # boxes less visible than this are marked as hard

_ITEM = np.dtype([("imname", object), ("idlocate", object), ("ishard", object)])
_QUERY = np.dtype([*_ITEM.descr, ("idname", object)])
_RECORD = np.dtype([("Query", object), ("Gallery", object)])


@dataclass(frozen=True)
class StreetsPerson:
    """One annotated person: (x1, y1, x2, y2) pixels, identity from 0 or `UNKNOWN`, share that is seen."""

    box: tuple[int, int, int, int]
    identity: int
    visible: float

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """The box as (x, y, w, h)."""
        x1, y1, x2, y2 = self.box
        return x1, y1, x2 - x1, y2 - y1


@dataclass(frozen=True)
class StreetsScene:
    """One generated scene: number in its split, camera and frame from 0, height of the picture, people."""

    number: int
    camera: int
    frame: int
    height: int
    people: tuple[StreetsPerson, ...]


Appearance = tuple[StreetsScene, StreetsPerson]


def prw_picture(partition: str, camera: int, frame: int) -> Path:
    """Where the PRW layout keeps a picture, relative to the data set's folder."""
    return Path("frames", f"{_frame_name(partition, camera, frame)}.jpg")


def cuhk_sysu_picture(number: int) -> Path:
    """Where the CUHK-SYSU layout keeps picture `number`, counting test scenes after training scenes."""
    return Path("Image", "SSM", _scene_name(number))


def write_cuhk_sysu(
    root: Path,
    train: Sequence[StreetsScene],
    test: Sequence[StreetsScene],
    gallery_sizes: Iterable[int],
    seed: int,
) -> dict[str, int]:
    """Writes annotation/ of the CUHK-SYSU layout into `root`.

    Only people seen in at least two scenes get an identity, as the released loaders want it. A gallery
    lists the scenes with the query's person first, then scenes without, the same first ones in every size;
    sizes that the test scenes cannot fill are left out, but TestG50 is always written.

    Returns:
      Name of every gallery written and its number of queries.
    """
    train_names = {scene.number: _scene_name(scene.number) for scene in train}
    test_names = {scene.number: _scene_name(scene.number + len(train)) for scene in test}
    folder = root / "annotation" / "test" / "train_test"
    folder.mkdir(parents=True)
    images = [(train_names[scene.number], scene) for scene in train]
    images += [(test_names[scene.number], scene) for scene in test]
    _save(root / "annotation" / "Images.mat", "Img", _images(images))
    _save(
        root / "annotation" / "pool.mat", "pool", _cells(test_names[scene.number] for scene in test)[:, None]
    )
    _save(folder / "Train.mat", "Train", _train(_appearances(train), train_names))

    protocol = _Protocol(test, test_names, seed)
    written = {}
    for size in sorted({QUERY_SIZE, *(size for size in gallery_sizes if size < len(test))}):
        name = f"TestG{size}"
        _save(folder / f"{name}.mat", name, protocol.records(protocol.clear_queries(), size))
        written[name] = len(protocol.people)
    subset = root / "annotation" / "test" / "subset"
    subset.mkdir()
    for name, variable, queries in (
        ("Occlusion", "Occlusion1", protocol.occluded_queries()),
        ("Resolution", "Test_Size", protocol.small_queries()),
    ):
        if queries:
            _save(subset / f"{name}.mat", variable, protocol.records(queries, _SUBSET_SIZE))
            written[name] = len(queries)
    return written


def write_prw(
    root: Path, train: Sequence[StreetsScene], test: Sequence[StreetsScene], train_identities: int
) -> dict[str, int]:
    """Writes the annotation of the PRW layout into `root`; test identities follow the training ones.

    Every test person seen in at least two frames is asked for once in each camera that saw them.

    Returns:
      Name of the search task and its number of queries.
    """
    (root / "annotations").mkdir()
    for partition, scenes, offset in (("train", train, 1), ("test", test, 1 + train_identities)):
        names = [_frame_name(partition, scene.camera, scene.frame) for scene in scenes]
        _save(root / f"frame_{partition}.mat", f"img_index_{partition}", _cells(names)[:, None])
        for name, scene in zip(names, scenes, strict=True):
            rows = [
                (-2 if person.identity == UNKNOWN else person.identity + offset, *person.extent)
                for person in scene.people
            ]
            boxes = np.array(rows, np.float64).reshape(-1, 5)
            _save(root / "annotations" / f"{name}.jpg.mat", "box_new", boxes)
    lines = []
    for identity, seen in sorted(_appearances(test).items()):
        if len(seen) < 2:
            continue
        for camera in sorted({scene.camera for scene, _ in seen}):
            here = [(scene, person) for scene, person in seen if scene.camera == camera]
            scene, person = max(here, key=lambda appearance: appearance[1].visible)
            place = " ".join(f"{value:.4f}" for value in person.extent)
            name = _frame_name("test", scene.camera, scene.frame)
            lines.append(f"{identity + 1 + train_identities} {place} {name}\r\n")
    (root / "query_info.txt").write_bytes("".join(lines).encode("ascii"))
    return {"all": len(lines)}


class _Protocol:
    """The search tasks over the test scenes of the CUHK-SYSU layout."""

    def __init__(self, scenes: Sequence[StreetsScene], names: dict[int, str], seed: int):
        self.names, self.seed = names, seed
        self.people = {
            identity: seen for identity, seen in sorted(_appearances(scenes).items()) if len(seen) > 1
        }
        self.without = {
            identity: [
                scene for scene in scenes if identity not in {person.identity for person in scene.people}
            ]
            for identity in self.people
        }

    def _random(self, identity: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed, 1, 4, identity]))

    def clear_queries(self) -> list[Appearance]:
        """One well visible appearance of each person; a query's place in this list is the identity."""
        queries = []
        for identity, seen in self.people.items():
            clear = [appearance for appearance in seen if appearance[1].visible >= _CLEAR] or seen
            queries.append(clear[int(self._random(identity).integers(len(clear)))])
        return queries

    def occluded_queries(self) -> list[Appearance]:
        """The least visible appearance of each person who is half hidden somewhere."""
        least = [min(seen, key=lambda appearance: appearance[1].visible) for seen in self.people.values()]
        return [appearance for appearance in least if appearance[1].visible < _OCCLUDED]

    def small_queries(self) -> list[Appearance]:
        """The smallest appearance of each person who is far away somewhere."""
        least = [min(seen, key=lambda appearance: appearance[1].extent[3]) for seen in self.people.values()]
        return [(scene, person) for scene, person in least if person.extent[3] < _SMALL * scene.height]

    def records(self, queries: Sequence[Appearance], size: int) -> np.ndarray:
        """The struct array of a protocol file with galleries of at most `size` scenes."""
        records = np.empty((1, len(queries)), _RECORD)
        for number, (scene, person) in enumerate(queries):
            query = np.empty((1, 1), _QUERY)
            name = _person_name(person.identity)
            query[0, 0] = (*_item(self.names[scene.number], person), _cells([name]))
            # More than fill TestG50 could not be named through it; the same ones are known in every size.
            others = [seen for seen in self.people[person.identity] if seen[0] is not scene]
            found = others[: min(size, QUERY_SIZE)]
            order = self._random(person.identity).permutation(len(self.without[person.identity]))
            rest = [self.without[person.identity][index] for index in order[: size - len(found)]]
            items = [_item(self.names[there.number], other) for there, other in found]
            items += [_item(self.names[there.number], None) for there in rest]
            records[0, number] = (query, _structs(items, _ITEM))
        return records


def _appearances(scenes: Iterable[StreetsScene]) -> dict[int, list[Appearance]]:
    """Identity -> where it is seen."""
    found: dict[int, list[Appearance]] = {}
    for scene in scenes:
        for person in scene.people:
            if person.identity != UNKNOWN:
                found.setdefault(person.identity, []).append((scene, person))
    return found


def _images(scenes: Sequence[tuple[str, StreetsScene]]) -> np.ndarray:
    images = []
    for name, scene in scenes:
        boxes = [_item(name, person)[1:] for person in scene.people]
        box = _structs(boxes, np.dtype(_ITEM.descr[1:]))
        images.append((name, np.array([[len(boxes)]], np.uint8), box))
    return _structs(images, np.dtype([("imname", object), ("nAppear", object), ("box", object)]))


def _train(people: dict[int, list[Appearance]], names: dict[int, str]) -> np.ndarray:
    cells = []
    for identity, seen in sorted(people.items()):
        if len(seen) < 2:
            continue
        person = np.empty((1, 1), np.dtype([("idname", object), ("nAppear", object), ("scene", object)]))
        items = _structs([_item(names[scene.number], shown) for scene, shown in seen], _ITEM)
        person[0, 0] = (_person_name(identity), np.array([[len(seen)]], np.uint8), items)
        cells.append(person)
    return _cells(cells)[:, None]


def _item(name: str, person: StreetsPerson | None) -> tuple[str, np.ndarray, np.ndarray]:
    if person is None:
        return name, np.zeros((0, 0)), np.zeros((0, 0))
    hard = person.visible < _HIDDEN
    return name, np.array([person.extent], np.uint16), np.array([[hard]], np.uint8)


def _structs(rows: Sequence[tuple], dtype: np.dtype) -> np.ndarray:
    result = np.empty((1, len(rows)), dtype)
    for number, row in enumerate(rows):
        result[0, number] = row
    return result


def _cells(values: Iterable) -> np.ndarray:
    listed = list(values)
    result = np.empty(len(listed), object)
    for number, value in enumerate(listed):
        result[number] = value
    return result


def _save(path: Path, variable: str, value: np.ndarray) -> None:
    savemat(path, {variable: value}, do_compression=True)


def _scene_name(number: int) -> str:
    return f"s{number + 1}.jpg"


def _person_name(identity: int) -> str:
    return f"p{identity + 1:05d}"


def _frame_name(partition: str, camera: int, frame: int) -> str:
    """PRW's name of a frame; a camera's first sequence holds training frames, its second test frames."""
    return f"c{camera + 1}s{1 if partition == 'train' else 2}_{1 + 25 * frame:06d}"
