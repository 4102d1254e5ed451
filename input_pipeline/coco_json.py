"""Reads person-search data described in one COCO-style JSON file: boxes with a `person_id` each."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from input_pipeline.disk import Layout, check_partition, checked_box, picture_size
from input_pipeline.galleries import Galleries
from input_pipeline.prw import parse_frame_name
from input_pipeline.scenes import UNKNOWN, Box, Gallery, Person, Query, Scene, Split
from ps_jax.errors import DataError

LAYOUT = Layout(
    title="A COCO-style data set",
    tree="""
coco.json                 (or train.json and test.json)
frames/*.jpg              (or images/, or beside the JSON file)
""",
    source='Annotations are {"image_id", "bbox": [x, y, w, h], "person_id": -1 where not known}; '
    'images are {"id", "file_name"}, with "split": "train" or "test" where one file holds both',
)

GALLERY = "all"  # every scene of the split but the query's own
MIN_SCENES = 2  # an identity in fewer scenes cannot be searched for
MIN_SCENES_FOR_SECOND_QUERY = 4


def read_coco_json(path: str | Path, partition: str, images_dir: str | Path | None = None) -> Split:
    """The scenes of one partition of a COCO-style data set and, for testing, its search task.

    Boxes stay as they are, fractions too. Crowd regions (`iscrowd`) and, where there is a category
    "person", boxes of other categories are left out. Images may carry `camera`, `sequence` and `frame`;
    else a PRW-like name such as c6s1_004576.jpg tells them. Images without `split` are in either partition.

    Queries are the file's list `queries`, each {"image_id", "bbox", "person_id"} or {"annotation_id"}.
    Without one, every identity seen in at least `MIN_SCENES` scenes is searched for with its first box,
    and where it is in at least `MIN_SCENES_FOR_SECOND_QUERY`, also with its last; scenes in the order of
    their names. The one gallery, "all", holds every test scene but the query's own.

    Args:
      path: the JSON file, or a folder with coco.json or with train.json and test.json.
      partition: "train" or "test".
      images_dir: folder of the pictures; None takes frames/ or images/ beside the file, else its folder.

    Returns:
      The split, scenes in the order of the file.

    Raises:
      DataError: a file is missing or malformed; the message says which and what to do.
    """
    check_partition(partition)
    path = _json_file(path, partition)
    content = load_json(path)
    pictures = LAYOUT.directory(images_dir) if images_dir is not None else _pictures(path)
    images = listed_images(content, partition, path)
    people = _people_of_images(content, path)
    scenes = tuple(_scene(image, people.get(image["id"], ()), pictures, path) for image in images)
    if partition == "train":
        return Split("coco_json", partition, scenes)
    scene_of_image = {image["id"]: scene for image, scene in zip(images, scenes, strict=True)}
    if "queries" in content:
        queries = _listed_queries(content, scene_of_image, path)
    else:
        queries = first_and_last(scenes)
    gallery = Gallery(GALLERY, queries)
    return Split("coco_json", partition, scenes, Galleries.of("coco_json test", [gallery]), GALLERY)


def first_and_last(scenes: tuple[Scene, ...]) -> tuple[Query, ...]:
    """Queries for data without a list of them: first and last box of the people seen often enough.

    Args:
      scenes: scenes in any order; "first" goes by their names, within a scene by the order of boxes.

    Returns:
      Queries by ascending identity, the first box before the last.
    """
    seen: dict[int, list[Query]] = defaultdict(list)
    for scene in sorted(scenes, key=lambda scene: scene.name):
        for person in scene.people:
            if person.identity != UNKNOWN:
                seen[person.identity].append(Query(scene.name, person.box, person.identity))
    queries = []
    for _, boxes in sorted(seen.items()):
        count = len({query.scene for query in boxes})
        if count >= MIN_SCENES:
            queries.append(boxes[0])
        if count >= MIN_SCENES_FOR_SECOND_QUERY:
            queries.append(boxes[-1])
    return tuple(queries)


def _json_file(path: str | Path, partition: str) -> Path:
    if not str(path):
        LAYOUT.directory(path)  # says how to name one
    path = Path(path).expanduser()
    if not path.is_dir():
        return LAYOUT.file(path)
    for name in ("coco.json", f"{partition}.json"):
        if (path / name).is_file():
            return path / name
    raise LAYOUT.error(f"{path}: there is neither coco.json nor {partition}.json in this directory")


def _pictures(path: Path) -> Path:
    beside = (path.parent / name for name in ("frames", "images"))
    return next((folder for folder in beside if folder.is_dir()), path.parent)


def load_json(
    path: Path, object_hook: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The content of a COCO-style JSON file.

    Args:
      path: the file.
      object_hook: changes every JSON object as soon as it is read, as `json.loads` has it.

    Raises:
      DataError: it cannot be read, or has no lists images and annotations.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_hook=object_hook)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot read this JSON file ({error}); write it again") from error
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: has no list {key!r}; it must have the lists images and annotations")
    return content


def entry_field(entry: Mapping[str, Any], name: str, what: str, path: Path) -> Any:
    """A field of an image or annotation; raises DataError where `what` does not have it."""
    try:
        return entry[name]
    except (KeyError, TypeError):
        raise DataError(f"{path}: {what} has no field {name!r}; add it") from None


def listed_images(content: Mapping[str, Any], partition: str, path: Path) -> list[dict[str, Any]]:
    """The images of a partition, in the order of the file; raises DataError where ids or names repeat."""
    images: list[dict[str, Any]] = []
    names: set[str] = set()
    numbers: set[Any] = set()
    for number, image in enumerate(content["images"]):
        name = entry_field(image, "file_name", f"image {number}", path)
        identifier = entry_field(image, "id", f"image {name}", path)
        if identifier in numbers:
            raise DataError(f"{path}: two images have the id {identifier!r}; give each image its own number")
        numbers.add(identifier)
        if image.get("split", partition) != partition:
            continue
        if name in names:
            raise DataError(f"{path}: two images of the {partition} split are named {name}; remove one")
        names.add(name)
        images.append(image)
    if not images:
        splits = ", ".join(sorted({str(image.get("split")) for image in content["images"]})) or "none"
        raise DataError(f"{path}: no image has the split {partition!r} (splits in the file: {splits})")
    return images


def corners(entry: Mapping[str, Any], what: str, path: Path) -> Box:
    """(x1, y1, x2, y2) of an annotation's bbox (x, y, w, h); raises DataError where it is no four numbers."""
    box = entry_field(entry, "bbox", what, path)
    try:
        x, y, w, h = (float(number) for number in box)
    except (TypeError, ValueError):
        raise DataError(f"{path}: the bbox of {what} is {box!r}, wanted [x, y, w, h]") from None
    return x, y, x + w, y + h


def _people_of_images(content: Mapping[str, Any], path: Path) -> dict[Any, list[dict[str, Any]]]:
    categories = content.get("categories", [])
    person = {category.get("id") for category in categories if category.get("name") == "person"}
    known = {image["id"] for image in content["images"]}
    result: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for number, annotation in enumerate(content["annotations"]):
        image = entry_field(annotation, "image_id", f"annotation {number}", path)
        if image not in known:
            raise DataError(f"{path}: annotation {number} belongs to image {image}, which is not in the file")
        if annotation.get("iscrowd") or (person and annotation.get("category_id") not in person):
            continue
        result[image].append(annotation)
    return result


def _identity(entry: Mapping[str, Any], what: str, path: Path) -> int:
    identity = entry.get("person_id", UNKNOWN)
    if type(identity) is not int:
        raise DataError(f"{path}: the person_id of {what} is {identity!r}, wanted a whole number")
    return identity if identity >= 0 else UNKNOWN


def _scene(image: Mapping[str, Any], annotations: Any, pictures: Path, path: Path) -> Scene:
    name = image["file_name"]
    picture = pictures / name
    size = picture_size(picture)
    people = []
    for number, annotation in enumerate(annotations):
        what = f"box {number} of scene {name}"
        box = checked_box(corners(annotation, what, path), size, f"{path}: {what}")
        people.append(Person(box, _identity(annotation, what, path)))
    told = parse_frame_name(Path(name).name)
    camera, sequence, frame = (
        image.get(key, getattr(told, key, None)) for key in ("camera", "sequence", "frame")
    )
    for key, value, kind in (("camera", camera, int), ("sequence", sequence, str), ("frame", frame, int)):
        if value is not None and not isinstance(value, kind):
            wanted = "a whole number" if kind is int else "a text"
            raise DataError(f"{path}: image {name}: {key} is {value!r}, wanted {wanted}; change or remove it")
    return Scene(name, str(picture), *size, tuple(people), camera, sequence, frame)


def _listed_queries(content: Mapping[str, Any], scenes: Mapping[Any, Scene], path: Path) -> tuple[Query, ...]:
    annotations = {entry["id"]: entry for entry in content["annotations"] if "id" in entry}
    queries = []
    for number, entry in enumerate(content["queries"]):
        what = f"query {number}"
        if "annotation_id" in entry:
            key = entry["annotation_id"]
            if key not in annotations:
                raise DataError(f"{path}: {what} is annotation {key}, which is not in the file")
            entry = annotations[key]
        image = entry_field(entry, "image_id", what, path)
        if image not in scenes:
            raise DataError(f"{path}: {what} is in image {image}, which is not in the test split")
        scene = scenes[image]
        size = (scene.height, scene.width)
        box = checked_box(corners(entry, what, path), size, f"{path}: the box of {what} in {scene.name}")
        entry_field(entry, "person_id", what, path)
        identity = _identity(entry, what, path)
        if identity == UNKNOWN:
            raise DataError(f"{path}: {what} has no known person_id, so there is nobody to search for")
        queries.append(Query(scene.name, box, identity))
    return tuple(queries)
