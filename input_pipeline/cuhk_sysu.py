"""Reads CUHK-SYSU (Xiao et al., Joint Detection and Identification Feature Learning, CVPR 2017)."""

import functools
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from input_pipeline import matlab
from input_pipeline.disk import Layout, check_partition, checked_box, picture_size
from input_pipeline.galleries import Galleries
from input_pipeline.scenes import UNKNOWN, Box, Gallery, GalleryItem, Person, Query, Scene, Split
from ps_jax.errors import DataError

LAYOUT = Layout(
    title="CUHK-SYSU",
    tree="""
Image/SSM/s1.jpg ...
annotation/Images.mat
annotation/pool.mat
annotation/test/train_test/Train.mat
annotation/test/train_test/TestG50.mat, TestG100.mat, ...
annotation/test/subset/Occlusion.mat, Resolution.mat     (optional)
""",
    source="Its authors give it out on request: http://www.ee.cuhk.edu.hk/~xgwang/PS/dataset.html",
)

DEFAULT_GALLERY = "TestG100"  # what published numbers refer to

_TRAIN_TEST = Path("annotation/test/train_test")
_SUBSET = Path("annotation/test/subset")
_SUBSET_VARIABLES = {"Occlusion": "Occlusion1", "Resolution": "Test_Size"}

Extent = tuple[int, int, int, int]  # (x, y, w, h), the form of the annotation files


class ProtocolQuery(NamedTuple):
    """One record of a protocol file: the query, and its gallery as (scene, box or None) in file order."""

    scene: str
    box: Extent
    items: list[tuple[str, Extent | None]]


def read_cuhk_sysu(directory: str | Path, partition: str) -> Split:
    """The scenes of one partition of CUHK-SYSU and, for testing, its search tasks.

    Test scenes are those of pool.mat, training scenes all others. Boxes are cut to whole numbers, and
    boxes without area are left out, as in the released loaders. Training identities are numbered from 1
    in the order of Train.mat, test identities in the order of the queries of TestG50.mat (of the smallest
    gallery on disk where that one is missing); all other people are `UNKNOWN`.

    Galleries are named after their files: "TestG50" and so on for all sizes on disk, "Occlusion" and
    "Resolution" where there are such files. Their files are read when a gallery is first asked for.
    Queries of all sizes are those of TestG50.

    Args:
      directory: folder that holds Image/ and annotation/.
      partition: "train" or "test".

    Returns:
      The split, scenes in the order of pool.mat (test) or Images.mat (train).

    Raises:
      DataError: a file is missing or malformed; the message says which and what to do.
    """
    check_partition(partition)
    root = LAYOUT.directory(directory)
    images_path = LAYOUT.file(root / "annotation" / "Images.mat")
    pool_path = LAYOUT.file(root / "annotation" / "pool.mat")
    annotated = _annotated(images_path)
    pool = matlab.texts(matlab.load_variable(pool_path, ["pool"]), pool_path, "pool")
    if partition == "train":
        path = LAYOUT.file(root / _TRAIN_TEST / "Train.mat")
        held_out = set(pool)
        names = [name for name in annotated if name not in held_out]
        identities = _identities(annotated, _train_boxes(path), path)
        return Split("cuhk_sysu", partition, _scenes(root, images_path, names, annotated, identities))

    sizes = _gallery_sizes(root)
    first = "TestG50" if 50 in sizes else f"TestG{sizes[0]}"
    path = root / _TRAIN_TEST / f"{first}.mat"
    queries = list(read_protocol(path, first))
    identities = _identities(annotated, _test_boxes(queries), path)
    for name in pool:
        if name not in annotated:
            raise DataError(
                f"{pool_path}: the scene {name} is not in Images.mat; use the files of one release"
            )
    scenes = _scenes(root, images_path, pool, annotated, identities)
    return Split(
        "cuhk_sysu", partition, scenes, _galleries(root, sizes, first, queries, scenes), _default(sizes)
    )


def read_protocol(path: Path, variable: str) -> Iterator[ProtocolQuery]:
    """The records of a protocol file in file order, nothing left out or merged.

    Args:
      path: TestG100.mat or another file of its form.
      variable: name of the struct array in it.

    Yields:
      One record a query. A gallery may name a scene twice. Boxes are (x, y, w, h), cut to whole numbers.

    Raises:
      DataError: the file is missing or malformed.
    """
    path = Path(path)
    content = matlab.load_variable(path, [variable])
    for number, (query, gallery) in enumerate(
        matlab.named_records(content, path, variable, ("Query", "Gallery"))
    ):
        what = f"query {number} of {variable}"
        found = matlab.records(query, path, what, ("imname", "idlocate"))
        if len(found) != 1:
            raise DataError(f"{path}: {what} has {len(found)} records, wanted one")
        name, box = found[0]
        items = [
            (
                scene if type(scene) is str else matlab.text(scene, path, f"a gallery scene of {what}"),
                matlab.extent(place, path, f"the box in gallery scene {scene} of {what}")
                if place.size
                else None,
            )
            for scene, place in matlab.records(gallery, path, f"Gallery of {what}", ("imname", "idlocate"))
        ]
        scene = matlab.text(name, path, f"the scene of {what}")
        yield ProtocolQuery(scene, matlab.extent(box, path, f"the box of {what}"), items)


def _annotated(path: Path) -> dict[str, list[Extent]]:
    """Images.mat: scene name -> its boxes (x, y, w, h); those without area are left out."""
    result = {}
    left_out = 0
    images = matlab.load_variable(path, ["Img"])
    for name, _, boxes in matlab.records(images, path, "Img", ("imname", "nAppear", "box")):
        name = matlab.text(name, path, "imname of Img")
        found = [
            matlab.extent(box, path, f"box {number} of scene {name}")
            for number, (box,) in enumerate(matlab.records(boxes, path, f"box of {name}", ("idlocate",)))
        ]
        result[name] = [box for box in found if box[2] > 0 and box[3] > 0]
        left_out += len(found) - len(result[name])
    if left_out:
        logging.getLogger(__name__).warning("%s: %d boxes without area are left out", path, left_out)
    return result


def _train_boxes(path: Path) -> Iterator[tuple[str, Extent, int]]:
    """Train.mat: (scene, box, identity) of every box with a known identity, identities from 1."""
    people = matlab.records(
        matlab.load_variable(path, ["Train"]), path, "Train", ("idname", "nAppear", "scene")
    )
    for identity, (_, _, scenes) in enumerate(people, start=1):
        what = f"scene of identity {identity}"
        for name, box in matlab.records(scenes, path, what, ("imname", "idlocate")):
            name = matlab.text(name, path, what)
            yield name, matlab.extent(box, path, f"the box of identity {identity} in {name}"), identity


def _test_boxes(queries: list[ProtocolQuery]) -> Iterator[tuple[str, Extent, int]]:
    for identity, query in enumerate(queries, start=1):
        yield query.scene, query.box, identity
        for name, box in query.items:
            if box is not None:
                yield name, box, identity


def _identities(
    annotated: dict[str, list[Extent]], known: Iterable[tuple[str, Extent, int]], path: Path
) -> dict[str, list[int]]:
    """Scene name -> identity of each of its boxes.

    A known box belongs to the first annotated box that equals it; where two identities claim one box,
    the later has it. A known box that equals none names nobody, and is counted in a warning.
    """
    identities = {name: [UNKNOWN] * len(boxes) for name, boxes in annotated.items()}
    strangers = []
    for name, box, identity in known:
        if name not in annotated:
            raise DataError(
                f"{path}: identity {identity} is in scene {name}, which is not in Images.mat; "
                "use the files of one release"
            )
        try:
            identities[name][annotated[name].index(box)] = identity
        except ValueError:
            strangers.append((name, box))
    if strangers:
        logging.getLogger(__name__).warning(
            "%s: %d boxes equal no box of Images.mat and name nobody; the first is %s in %s",
            path, len(strangers), strangers[0][1], strangers[0][0],
        )  # fmt: skip
    return identities


def _corners(extent: Extent) -> Box:
    x, y, w, h = extent
    return x, y, x + w, y + h


def _scenes(
    root: Path,
    source: Path,
    names: list[str],
    annotated: dict[str, list[Extent]],
    identities: dict[str, list[int]],
) -> tuple[Scene, ...]:
    scenes = []
    for name in names:
        path = root / "Image" / "SSM" / name
        size = picture_size(path)
        people = tuple(
            Person(checked_box(_corners(box), size, f"{source}: box {number} of scene {name}"), identity)
            for number, (box, identity) in enumerate(zip(annotated[name], identities[name], strict=True))
        )
        scenes.append(Scene(name, str(path), *size, people))
    return tuple(scenes)


def _gallery_sizes(root: Path) -> list[int]:
    found = (re.fullmatch(r"TestG(\d+)\.mat", path.name) for path in (root / _TRAIN_TEST).glob("TestG*.mat"))
    sizes = sorted(int(match[1]) for match in found if match)
    if not sizes:
        raise LAYOUT.error(f"{root / _TRAIN_TEST}: there is no TestG50.mat or other gallery file")
    return sizes


def _default(sizes: list[int]) -> str:
    return DEFAULT_GALLERY if 100 in sizes else f"TestG{sizes[0]}"


def _galleries(
    root: Path, sizes: list[int], first: str, queries: list[ProtocolQuery], scenes: tuple[Scene, ...]
) -> Galleries:
    by_name = {scene.name: scene for scene in scenes}
    shared = tuple((query.scene, query.box) for query in queries)
    readers = {}
    for size in sizes:
        name = f"TestG{size}"
        path = root / _TRAIN_TEST / f"{name}.mat"
        readers[name] = functools.partial(_read_gallery, name, path, name, by_name, shared, first)
    for name, variable in _SUBSET_VARIABLES.items():
        path = root / _SUBSET / f"{name}.mat"
        if path.is_file():
            readers[name] = functools.partial(_read_gallery, name, path, variable, by_name, None, first)
    remedy = (
        f"Put its file, TestG<size>.mat, into {root / _TRAIN_TEST}; Occlusion.mat and Resolution.mat "
        f"into {root / _SUBSET}."
    )
    return Galleries("cuhk_sysu test", readers, remedy)


def _read_gallery(
    name: str,
    path: Path,
    variable: str,
    scenes: dict[str, Scene],
    shared: tuple[tuple[str, Extent], ...] | None,
    first: str,
) -> Gallery:
    """One protocol file as a gallery.

    Args:
      name: name of the gallery.
      path: its file.
      variable: the variable in the file.
      scenes: the test scenes by name.
      shared: queries (scene, box) to take instead of the file's own, which must name the same scenes;
        query number i is then identity i + 1. None: the file has its own queries, whose identities are
        those of the annotated boxes.
      first: name of the file that `shared` is from, for messages.
    """
    queries: list[Query] = []
    galleries = []
    without_person: dict[str, GalleryItem] = {}  # one record a scene: most of millions of items
    for number, record in enumerate(read_protocol(path, variable)):
        extent, identity = record.box, None
        if shared is not None:
            identity = number + 1
            if number >= len(shared) or shared[number][0] != record.scene:
                raise DataError(
                    f"{path}: query {number} is in scene {record.scene}, which is not the query of that "
                    f"number in {first}; use the files of one release"
                )
            extent = shared[number][1]
        scene = _present(record.scene, scenes, f"{path}: query {number}")
        size = (scene.height, scene.width)
        box = checked_box(_corners(extent), size, f"{path}: the box of query {number} in {scene.name}")
        if identity is None:
            identity = next((person.identity for person in scene.people if person.box == box), UNKNOWN)
        queries.append(Query(scene.name, box, identity))
        items = []
        for item_name, place in record.items:
            if place is None:
                item = without_person.get(item_name)
                if item is None:
                    found = _present(item_name, scenes, f"{path}: the gallery of query {number}")
                    item = without_person[item_name] = GalleryItem(found.name)
            else:
                found = _present(item_name, scenes, f"{path}: the gallery of query {number}")
                where = f"{path}: the box in gallery scene {item_name} of query {number}"
                item = GalleryItem(
                    found.name, checked_box(_corners(place), (found.height, found.width), where)
                )
            items.append(item)
        galleries.append(tuple(items))
    if shared is not None and len(queries) != len(shared):
        raise DataError(
            f"{path}: has {len(queries)} queries, {first} has {len(shared)}; use the files of one release"
        )
    return Gallery(name, tuple(queries), tuple(galleries))


def _present(name: str, scenes: dict[str, Scene], where: str) -> Scene:
    try:
        return scenes[name]
    except KeyError:
        raise DataError(
            f"{where}: the scene {name} is not among the {len(scenes)} test scenes of pool.mat; "
            "use the files of one release"
        ) from None
