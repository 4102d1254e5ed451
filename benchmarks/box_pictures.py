"""Scenes with boxes drawn on them, of two or more kinds in colours of their own (figure 7 of RDLR's paper)."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from ps_jax.evaluation.contact_sheets import GAP, INK, PAPER, font

COLORS = ((24, 140, 66), (200, 80, 40), (38, 84, 200), (140, 60, 160))
LEGEND = 30  # pixels
TALLEST = 240  # of a scene on the picture
PALETTE = 96  # colours, for a small file


def draw_boxes(scenes: Sequence[tuple[np.ndarray, Mapping[str, np.ndarray]]], columns: int = 4) -> bytes:
    """Draws scenes side by side, PNG.

    Args:
      scenes: u8[height, width, 3], and by kind its boxes [n, 4] in pixels; the same kinds for all scenes.
      columns: scenes in a row.
    """
    tiles = [_tile(picture) for picture, _ in scenes]
    columns = min(columns, len(tiles))
    width, height = (max(sizes) for sizes in zip(*(tile.size for tile in tiles), strict=True))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, LEGEND + rows * (height + GAP) + GAP), PAPER)
    places = [
        (GAP + column * (width + GAP), LEGEND + GAP + row * (height + GAP))
        for row, column in (divmod(number, columns) for number in range(len(tiles)))
    ]
    for tile, place in zip(tiles, places, strict=True):
        sheet.paste(tile, place)
    # Few colours make a small file; what is drawn afterwards keeps its own
    sheet = sheet.quantize(PALETTE, dither=Image.Dither.NONE).convert("RGB")
    draw, left = ImageDraw.Draw(sheet), GAP
    for kind, color in zip(scenes[0][1], COLORS, strict=False):
        draw.rectangle((left, 8, left + 16, 22), outline=color, width=3)
        draw.text((left + 22, 6), kind, INK, font(15))
        left += 22 + round(draw.textlength(kind, font(15))) + 24
        for (picture, boxes), tile, place in zip(scenes, tiles, places, strict=True):
            corners = np.asarray(boxes[kind]) * (tile.height / len(picture))
            low, high = np.zeros(2), np.array(tile.size) - 1
            for box in np.clip(corners.reshape(-1, 2, 2), low, high) + place:
                draw.rectangle(box.reshape(-1).tolist(), outline=color, width=2)
    file = io.BytesIO()
    sheet.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def _tile(picture: np.ndarray) -> Image.Image:
    tile = Image.fromarray(picture)
    size = (round(tile.width * TALLEST / tile.height), TALLEST)
    return tile.resize(size, Image.Resampling.LANCZOS)
