"""Reads Market-1501 (Zheng et al., Scalable Person Re-identification, ICCV 2015) from its published layout.

Every picture is one person, cut out of a scene. A split has them as scenes with one person whose box is all of the
picture, so crops are trained on and embedded as those of a person-search data set are.
"""

import re
from pathlib import Path

from input_pipeline.disk import Layout, check_partition, picture_size
from input_pipeline.galleries import Galleries
from input_pipeline.scenes import MARKET1501, UNKNOWN, Gallery, Person, Query, Scene, Split
from ps_jax.errors import DataError

LAYOUT = Layout(
    title="Market-1501",
    tree="""
bounding_box_train/0002_c1s1_000451_03.jpg ...
bounding_box_test/0001_c1s1_001051_03.jpg ...
query/0001_c1s1_001051_00.jpg ...
""",
    source="It is given out for academic use at https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
)
FOLDERS = {"train": ("bounding_box_train",), "test": ("query", "bounding_box_test")}
QUERY = "query"
GALLERY = "market1501"

# Identity, camera, sequence, frame and number of the box; -1 is junk, 0 a distractor
_NAME = re.compile(r"(-1|\d+)_c(\d+)(s\d+)_(\d+)_\d+\.jpg")


def read_market1501(directory: str | Path, partition: str) -> Split:
    """The pictures of one partition of Market-1501 and, for testing, its queries.

    Identity -1, junk, is `UNKNOWN`; 0 is that of distractors, false detections that nobody asks for.

    Args:
      directory: folder with bounding_box_train/, bounding_box_test/ and query/.
      partition: "train" or "test"; the scenes of "test" are the queries and the gallery behind them.

    Returns:
      The split, each folder in the order of its names. A scene is called by its path from `directory`.

    Raises:
      DataError: a folder is missing or empty, a picture cannot be read, or its name is not of that form.
    """
    check_partition(partition)
    root = LAYOUT.directory(directory)
    scenes: list[Scene] = []
    for folder in FOLDERS[partition]:
        paths = sorted((root / folder).glob("*.jpg"))
        if not paths:
            raise LAYOUT.error(f"{root / folder}: there are no pictures (*.jpg)")
        scenes += [_scene(path, folder) for path in paths]
    if partition == "train":
        return Split(MARKET1501, partition, tuple(scenes))
    queries = tuple(
        Query(scene.name, scene.people[0].box, scene.people[0].identity)
        for scene in scenes
        if scene.name.startswith(f"{QUERY}/")
    )
    galleries = Galleries.of("market1501 test", [Gallery(GALLERY, queries)])
    return Split(MARKET1501, partition, tuple(scenes), galleries, GALLERY)


def _scene(path: Path, folder: str) -> Scene:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise DataError(f"{path}: this is no name of a Market-1501 picture, such as 0002_c1s1_000451_03.jpg")
    height, width = picture_size(path)
    identity = int(match[1])
    person = Person((0.0, 0.0, float(width), float(height)), UNKNOWN if identity < 0 else identity)
    camera = int(match[2])
    sequence = f"c{camera}{match[3]}"
    return Scene(
        f"{folder}/{path.name}", str(path), height, width, (person,), camera, sequence, int(match[4])
    )
