"""Reads COCOPersons, the people of MS-COCO 2017 (Lin et al., Microsoft COCO, ECCV 2014), for pre-training."""

import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from input_pipeline.coco_json import corners, entry_field, listed_images, load_json
from input_pipeline.disk import Layout, check_partition, checked_box, picture_size
from input_pipeline.scenes import Person, Scene, Split
from ps_jax.errors import DataError

LAYOUT = Layout(
    title="COCOPersons (MS-COCO 2017)",
    tree="""
annotations/instances_train2017.json
train2017/000000000009.jpg ...
""",
    source="Its authors give it out at https://cocodataset.org/#download: 2017 Train images and 2017 Train/Val "
    "annotations",
)

_PERSON = "person"  # name of the category


def read_coco_persons(directory: str | Path, partition: str) -> Split:
    """The scenes of MS-COCO 2017 that show people, as SPNet pre-trains on them (section 4.1).

    People are the annotations of category "person" that are no crowd regions, of any size; one whose width or
    height is zero is left out, with a logged count. Scenes without any are left out. Nobody is boxed in two
    scenes, so every annotation is an identity of its own: its number in the file.

    Only the training pictures are used. There are no queries and so no test scenes: the test split is empty,
    and a system is evaluated after fine-tuning on another data set.

    Args:
      directory: folder with annotations/ and train2017/.
      partition: "train" or "test".

    Returns:
      The split, scenes in the order of the file.

    Raises:
      DataError: a file is missing or malformed; the message says which and what to do.
    """
    check_partition(partition)
    root = LAYOUT.directory(directory)
    if partition == "test":
        return Split("coco_persons", partition, ())
    path = LAYOUT.file(root / "annotations" / "instances_train2017.json")
    pictures = LAYOUT.directory(root / "train2017")
    content = load_json(path, object_hook=_without_outline)
    images = listed_images(content, partition, path)
    people = _people_of_images(content, {image["id"] for image in images}, path)
    scenes = tuple(
        _scene(image, people[image["id"]], pictures, path) for image in images if image["id"] in people
    )
    return Split("coco_persons", partition, scenes)


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    """Outlines are two thirds of what the file would take in memory, and nobody needs them here."""
    entry.pop("segmentation", None)
    return entry


def _people_of_images(
    content: Mapping[str, Any], images: set[Any], path: Path
) -> dict[Any, list[dict[str, Any]]]:
    """The annotations of people by image, in the order of the file."""
    categories = content.get("categories") or []
    numbers = [
        entry_field(category, "id", f"category {_PERSON!r}", path)
        for category in categories
        if isinstance(category, Mapping) and category.get("name") == _PERSON
    ]
    if len(numbers) != 1:
        raise DataError(
            f"{path}: {len(numbers)} categories are named {_PERSON!r}, wanted one; this is not the instances file "
            "of MS-COCO, download it again"
        )
    result: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    seen: set[int] = set()
    flat = 0
    for place, annotation in enumerate(content["annotations"]):
        what = f"annotation {place}"
        if entry_field(annotation, "category_id", what, path) != numbers[0]:
            continue
        crowd = entry_field(annotation, "iscrowd", what, path)
        if crowd not in (0, 1):
            raise DataError(f"{path}: iscrowd of {what} is {crowd!r}, wanted 0 or 1")
        if crowd:
            continue
        number = entry_field(annotation, "id", what, path)
        if type(number) is not int or number < 0:
            raise DataError(f"{path}: the id of {what} is {number!r}, wanted a whole number, 0 or more")
        if number in seen:
            raise DataError(f"{path}: two annotations have the id {number}; give each its own number")
        seen.add(number)
        image = entry_field(annotation, "image_id", what, path)
        if image not in images:
            raise DataError(f"{path}: {what} belongs to image {image}, which is not in the file")
        x1, y1, x2, y2 = corners(annotation, what, path)
        if all(map(math.isfinite, (x1, y1, x2, y2))) and (x1 == x2 or y1 == y2):
            flat += 1
            continue
        result[image].append(annotation)
    if flat:
        logging.getLogger(__name__).warning("%s: %d boxes without area are left out", path, flat)
    if not result:
        raise DataError(f"{path}: there are no people in it; download it again")
    return result


def _scene(image: Mapping[str, Any], annotations: list[dict[str, Any]], pictures: Path, path: Path) -> Scene:
    name = image["file_name"]
    picture = pictures / name
    size = picture_size(picture)
    told = tuple(entry_field(image, side, f"image {name}", path) for side in ("height", "width"))
    if told != size:
        raise DataError(
            f"{picture}: this picture has {size[1]} x {size[0]} pixels, but its boxes were drawn in one of "
            f"{told[1]} x {told[0]} ({path}); copy it again from the data set"
        )
    people = []
    for annotation in annotations:
        what = f"{path}: box {annotation['id']} of scene {name}"
        people.append(Person(checked_box(corners(annotation, what, path), size, what), annotation["id"]))
    return Scene(name, str(picture), *size, tuple(people))
