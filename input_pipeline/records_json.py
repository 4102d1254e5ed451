"""The records of a split as JSON files: scenes without their pictures, and galleries.

A gallery names scenes by their position in the split, so that even the largest protocol stays small.
"""

import json
from pathlib import Path
from typing import Any

from input_pipeline.scenes import Box, Gallery, GalleryItem, Person, Query, Scene, Split
from ps_jax.errors import DataError

_SCENE_FIELDS = ("name", "height", "width", "camera", "sequence", "frame")


def scenes_file(directory: str | Path, partition: str) -> Path:
    """Where `write_split` puts the scenes of a partition."""
    return Path(directory) / f"scenes_{partition}.json"


def gallery_file(directory: str | Path, name: str) -> Path:
    """Where `write_split` puts a gallery."""
    return Path(directory) / f"gallery_{name}.json"


def write_split(directory: str | Path, split: Split) -> None:
    """Writes all scenes and galleries of `split` into the folder, one gallery after the other."""
    scenes = [
        {field: getattr(scene, field) for field in _SCENE_FIELDS}
        | {
            "boxes": [person.box for person in scene.people],
            "identities": [person.identity for person in scene.people],
        }
        for scene in split.scenes
    ]
    content = {
        "dataset": split.dataset,
        "partition": split.partition,
        "galleries": list(split.galleries),
        "default_gallery": split.default_gallery,
        "scenes": scenes,
    }
    scenes_file(directory, split.partition).write_text(json.dumps(content), encoding="utf-8")
    for name in split.galleries:
        text = json.dumps(_gallery_content(split.galleries[name], split.positions))
        gallery_file(directory, name).write_text(text, encoding="utf-8")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The content of one of these files; raises DataError, with `remedy`, where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: this file is missing; {remedy}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read this file ({error}); {remedy}") from error


def scenes_of(content: dict[str, Any], path: str) -> tuple[Scene, ...]:
    """Scenes from the content of a scenes file.

    Args:
      content: what `write_split` wrote.
      path: where the pictures lie, the `path` of every scene.
    """
    return tuple(
        Scene(
            path=path,
            people=tuple(map(Person, map(_box, entry["boxes"]), entry["identities"])),
            **{field: entry[field] for field in _SCENE_FIELDS},
        )
        for entry in content["scenes"]
    )


def gallery_of(content: dict[str, Any], names: list[str]) -> Gallery:
    """A gallery from the content of a gallery file.

    Args:
      content: what `write_split` wrote.
      names: the names of the split's scenes by position.
    """
    queries = tuple(
        Query(names[entry["scene"]], _box(entry["box"]), entry["identity"]) for entry in content["queries"]
    )
    if content["items"] is None:
        return Gallery(content["name"], queries)
    without_person = [GalleryItem(name) for name in names]
    items = []
    for positions, boxes in zip(content["items"], content["boxes"], strict=True):
        row = [without_person[position] for position in positions]
        for place, *box in boxes:
            row[place] = GalleryItem(row[place].scene, _box(box))
        items.append(tuple(row))
    return Gallery(content["name"], queries, tuple(items))


def _gallery_content(gallery: Gallery, positions: dict[str, int]) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": gallery.name,
        "queries": [
            {"scene": positions[query.scene], "box": query.box, "identity": query.identity}
            for query in gallery.queries
        ],
        "items": None,
    }
    if gallery.items is not None:
        content["items"] = [[positions[item.scene] for item in items] for items in gallery.items]
        content["boxes"] = [
            [(place, *item.box) for place, item in enumerate(items) if item.box is not None]
            for items in gallery.items
        ]
    return content


def _box(values: list[float]) -> Box:
    x1, y1, x2, y2 = values
    return float(x1), float(y1), float(x2), float(y2)
