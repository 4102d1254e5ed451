"""Small pictures of people, cut out of their scenes."""

import io
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from input_pipeline.scenes import Split
from ps_jax.errors import DataError

TILE = (120, 216)  # width, height
BACKGROUND = (226, 228, 232)
CONTEXT = 1.5  # how much larger than the box the cut-out is

Requests = Mapping[int, Sequence[tuple[Hashable, Sequence[float]]]]


def cut_tiles(source: Any, split: Split, requests: Requests) -> dict[Hashable, tuple[Image.Image, tuple]]:
    """Cuts people out of scenes.

    Args:
      source: the data; its batches are asked for scenes whose pictures are not at hand (array files).
      split: the partition's records.
      requests: scene position -> (key, box in original pixels) of every tile to cut there.

    Returns:
      key -> the tile and the box (x1, y1, x2, y2) in pixels of the tile.
    """
    tiles: dict[Hashable, tuple[Image.Image, tuple]] = {}
    elsewhere = {}
    for position, wanted in requests.items():
        try:
            with Image.open(io.BytesIO(split.encoded(position))) as picture:
                scene = picture.convert("RGB")
        except (DataError, UnidentifiedImageError):  # array files may come without the encoded pictures
            elsewhere[position] = wanted
            continue
        tiles |= {key: cut_tile(scene, box) for key, box in wanted}
    if elsewhere:
        for batch in source.scene_batches(split.partition, batch_size=1):
            position = int(np.asarray(batch.index)[0])
            if position not in elsewhere:
                continue
            height, width = (int(side) for side in np.asarray(batch.scenes.size)[0])
            scene = Image.fromarray(np.asarray(batch.scenes.image)[0, :height, :width])
            record = split.scenes[position]
            ratio = np.array([width / record.width, height / record.height] * 2)
            tiles |= {
                key: cut_tile(scene, (np.asarray(box) * ratio).tolist()) for key, box in elsewhere[position]
            }
    return tiles


def cut_tile(scene: Image.Image, box: Sequence[float]) -> tuple[Image.Image, tuple]:
    """A box with its surroundings, grey beyond the scene's border, and where the box lies in that tile."""
    x1, y1, x2, y2 = (float(value) for value in box)
    width, height = TILE
    scale = min(width / max(x2 - x1, 1.0), height / max(y2 - y1, 1.0)) / CONTEXT  # tile pixels a scene pixel
    left, top = (x1 + x2) / 2 - width / scale / 2, (y1 + y2) / 2 - height / scale / 2
    crop = (
        max(0, int(left)),
        max(0, int(top)),
        min(scene.width, int(np.ceil(left + width / scale))),
        min(scene.height, int(np.ceil(top + height / scale))),
    )
    tile = Image.new("RGB", TILE, BACKGROUND)
    if crop[2] > crop[0] and crop[3] > crop[1]:
        size = (max(1, round((crop[2] - crop[0]) * scale)), max(1, round((crop[3] - crop[1]) * scale)))
        part = scene.crop(crop).resize(size, Image.Resampling.LANCZOS)
        tile.paste(part, (round((crop[0] - left) * scale), round((crop[1] - top) * scale)))
    placed = ((x1 - left) * scale, (y1 - top) * scale, (x2 - left) * scale, (y2 - top) * scale)
    return tile, placed
