"""Small splits of painted pictures: every person is a rectangle of a colour of its own."""

import numpy as np
from PIL import Image

from input_pipeline.scenes import Person, Scene, Split

BACKGROUND = (110, 120, 110)
COLOURS = ((250, 10, 10), (10, 10, 250), (250, 250, 10), (10, 250, 250), (250, 10, 250), (250, 250, 250))


def paint(height, width, boxes):
    """u8[height, width, 3] with box k filled with colour k."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = BACKGROUND
    for (x1, y1, x2, y2), colour in zip(boxes, COLOURS, strict=False):
        image[y1:y2, x1:x2] = colour
    return image


def found_box(image, colour):
    """(x1, y1, x2, y2) around the pixels nearer to the colour than to any other; None if there are none."""
    others = [other for other in (*COLOURS, BACKGROUND, (124, 116, 104), (0, 0, 0)) if other != colour]
    distance = np.stack([np.abs(image.astype(int) - np.array(one)).sum(-1) for one in (colour, *others)])
    rows, columns = np.nonzero(distance.argmin(0) == 0)
    if not len(rows):
        return None
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def write_split(directory, sizes, people, partition="train", suffix="png"):
    """A split of painted scenes.

    Args:
      directory: where the pictures go.
      sizes: (height, width) of each scene.
      people: for each scene a list of (box, identity).
      partition: of the split.
      suffix: format of the pictures.
    """
    scenes = []
    for number, ((height, width), present) in enumerate(zip(sizes, people, strict=True)):
        path = directory / f"s{number}.{suffix}"
        Image.fromarray(paint(height, width, [box for box, _ in present])).save(path)
        annotated = tuple(Person(tuple(map(float, box)), identity) for box, identity in present)
        scenes.append(Scene(path.name, str(path), height, width, annotated, camera=number % 3))
    return Split("painted", partition, tuple(scenes))
