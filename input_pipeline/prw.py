"""Reads PRW (Zheng et al., Person Re-identification in the Wild, CVPR 2017) from its published layout."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline import matlab
from input_pipeline.disk import Layout, check_partition, checked_box, picture_size
from input_pipeline.galleries import Galleries
from input_pipeline.scenes import UNKNOWN, Gallery, Person, Query, Scene, Split
from ps_jax.errors import DataError

LAYOUT = Layout(
    title="PRW",
    tree="""
frames/c1s1_000151.jpg ...
annotations/c1s1_000151.jpg.mat ...
frame_train.mat
frame_test.mat
query_info.txt
""",
    source="It is given out for academic use at https://github.com/liangzheng06/PRW-baseline",
)

RELEASED_ROWS = 482  # of the lookup table in the released code of SeqNet and NAE
GALLERY = "all"  # every test frame but the query's own

_BOX_VARIABLES = ("box_new", "anno_file", "anno_previous")
_FRAME_NAME = re.compile(r"(c(\d+)s\d+)_(\d+)(?:\.\w+)?")


class FrameName(NamedTuple):
    """What the name of a PRW frame says, for "c6s1_004576.jpg" camera 6, sequence "c6s1", frame 4576."""

    camera: int
    sequence: str
    frame: int


def parse_frame_name(name: str) -> FrameName | None:
    """The parts of a PRW frame name, None where `name` is not like one."""
    match = _FRAME_NAME.fullmatch(name)
    return FrameName(int(match[2]), match[1], int(match[3])) if match else None


def read_prw(directory: str | Path, partition: str, released_labels: bool = False) -> Split:
    """The scenes of one partition of PRW and, for testing, its search task.

    Boxes follow the released evaluation code: coordinates below zero become zero before width and height
    are added, then all are cut to whole numbers. Identity -2 is `UNKNOWN`. The one gallery, "all", holds
    every test frame but the query's own; leaving out frames of the same camera, or near in time, is up
    to the evaluation.

    Args:
      directory: folder with frames/, annotations/, frame_train.mat, frame_test.mat and query_info.txt.
      partition: "train" or "test".
      released_labels: number the training identities as the released code of SeqNet does. PRW's are 1 .. 478,
        480 .. 483 and 932, 483 in all, but the lookup table has 482 rows: the last two are written to the queue as if
        they were unknown, and are to be recognised in whatever its slots 0 and 449 hold.

    Returns:
      The split, scenes in the order of frame_train.mat or frame_test.mat.

    Raises:
      DataError: a file is missing or malformed; the message says which and what to do.
    """
    check_partition(partition)
    root = LAYOUT.directory(directory)
    list_path = LAYOUT.file(root / f"frame_{partition}.mat")
    variable = f"img_index_{partition}"
    names = matlab.texts(matlab.load_variable(list_path, [variable]), list_path, variable)
    scenes = tuple(_scene(root, _jpg(name), list_path) for name in names)
    if partition == "train":
        return Split("prw", partition, scenes, table_rows=RELEASED_ROWS if released_labels else None)
    gallery = _gallery(LAYOUT.file(root / "query_info.txt"), scenes)
    return Split("prw", partition, scenes, Galleries.of("prw test", [gallery]), GALLERY)


def _jpg(name: str) -> str:
    return name if name.endswith(".jpg") else f"{name}.jpg"


def _scene(root: Path, name: str, list_path: Path) -> Scene:
    parts = parse_frame_name(name)
    if parts is None:
        raise DataError(f"{list_path}: {name!r} is no name of a PRW frame, such as c6s1_004576.jpg")
    path = root / "frames" / name
    size = picture_size(path)
    people = _people(root / "annotations" / f"{name}.mat", name, size)
    return Scene(name, str(path), *size, people, parts.camera, parts.sequence, parts.frame)


def _people(path: Path, name: str, size: tuple[int, int]) -> tuple[Person, ...]:
    rows = np.asarray(matlab.load_variable(path, _BOX_VARIABLES, squeeze=False))
    if rows.size == 0:
        return ()
    if rows.ndim != 2 or rows.shape[1] != 5 or rows.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: the boxes have shape {rows.shape}, wanted one row (id, x, y, w, h) a person"
        )
    rows = rows.astype(np.float64)
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        number = int(bad.argmax())
        raise DataError(
            f"{path}: box {number} of scene {name}, (id, x, y, w, h) = {rows[number].tolist()}, has a number "
            "that is not finite; mend or remove it"
        )
    corner_and_extent = np.clip(rows[:, 1:], 0, None)
    corners = corner_and_extent.copy()
    corners[:, 2:] += corner_and_extent[:, :2]
    boxes = corners.astype(np.int32).tolist()
    identities = rows[:, 0].astype(np.int64).tolist()
    return tuple(
        Person(
            checked_box(box, size, f"{path}: box {number} of scene {name}"),
            identity if identity >= 0 else UNKNOWN,
        )
        for number, (box, identity) in enumerate(zip(boxes, identities, strict=True))
    )


def _gallery(path: Path, scenes: tuple[Scene, ...]) -> Gallery:
    """The queries of query_info.txt; its lines end in CR LF as published, or in LF."""
    by_name = {scene.name: scene for scene in scenes}
    queries = []
    for number, line in enumerate(path.read_text(encoding="latin-1").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            identity, x, y, w, h, frame = line.split()
            person, corner = int(identity), np.array([float(x), float(y), float(w), float(h)])
        except ValueError:
            raise DataError(f"{where}: {line!r}, wanted an id, x, y, w, h and the name of a frame") from None
        name = _jpg(frame)
        if name not in by_name:
            raise DataError(
                f"{where}: the query's scene {name} is not among the {len(scenes)} frames of frame_test.mat; "
                "use the files of one release together"
            )
        if not np.isfinite(corner).all():
            raise DataError(f"{where}: the query box {corner.tolist()} has a number that is not finite")
        corner[2:] += corner[:2]
        box = np.clip(corner.astype(np.int32), 0, None).tolist()
        scene = by_name[name]
        size = (scene.height, scene.width)
        queries.append(Query(name, checked_box(box, size, f"{where}: the query box in {name}"), person))
    return Gallery(GALLERY, tuple(queries))
