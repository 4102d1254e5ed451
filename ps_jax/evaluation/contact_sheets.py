"""Contact sheets: a query, one of its positives, and its first answers, right ones green, wrong ones red.

The queries that went worst come first, since they teach most.
"""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from input_pipeline.scenes import Split
from ps_jax.evaluation.protocols import SearchTask
from ps_jax.evaluation.search import SearchResult
from ps_jax.evaluation.tiles import TILE, cut_tiles

QUERIES_ON_A_SHEET = 5
QUERY, RIGHT, WRONG = (38, 84, 160), (24, 140, 66), (200, 40, 40)
PAPER, INK, PALE = (255, 255, 255), (32, 34, 38), (110, 114, 120)
GAP, CAPTION, HEADING = 10, 36, 30


def worst_first(search: SearchResult) -> np.ndarray:
    """Numbers of the queries, lowest average precision first; those with nobody to find come last."""
    impossible = np.array([ranking.positives == 0 for ranking in search.rankings])
    return np.lexsort((search.average_precisions, impossible))


def contact_sheets(
    source: Any, split: Split, task: SearchTask, search: SearchResult, count: int
) -> list[bytes]:
    """Draws contact sheets.

    Args:
      source, split: where the pixels come from.
      task, search: queries and how they went.
      count: how many queries to show.

    Returns:
      PNG files of at most five queries each, worst query first.
    """
    shown = worst_first(search)[:count].tolist()
    requests: dict[int, list] = {}
    for number in shown:
        query, ranking = task.queries[number], search.rankings[number]
        requests.setdefault(split.positions[query.scene], []).append(((number, "query"), query.box))
        items = task.items[number]
        if len(items.positive):
            scene = int(items.scene[items.positive[0]])
            requests.setdefault(scene, []).append(((number, "positive"), items.box[0].tolist()))
        for place, (scene, box) in enumerate(zip(ranking.scene, ranking.box, strict=True)):
            requests.setdefault(int(scene), []).append(((number, place), box.tolist()))
    tiles = cut_tiles(source, split, requests)
    starts = range(0, len(shown), QUERIES_ON_A_SHEET)
    return [_sheet(shown[s : s + QUERIES_ON_A_SHEET], split, task, search, tiles) for s in starts]


def _sheet(numbers: list[int], split: Split, task: SearchTask, search: SearchResult, tiles: dict) -> bytes:
    columns = 2 + max(1, *(len(search.rankings[number].scene) for number in numbers))
    row_height = HEADING + TILE[1] + CAPTION + 2 * GAP
    size = (columns * (TILE[0] + GAP) + 4 * GAP, len(numbers) * row_height + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, number in enumerate(numbers):
        query, ranking = task.queries[number], search.rankings[number]
        top = GAP + row * row_height
        if row:
            draw.line([(GAP, top - GAP), (size[0] - GAP, top - GAP)], fill=(214, 216, 220))
        heading = f"Query {number + 1}: person {query.identity}"
        draw.text((GAP, top + 4), heading, INK, font(16))
        verdict = f"average precision {100 * ranking.ap:.1f} %, {ranking.found} of {ranking.positives} found"
        draw.text((GAP + draw.textlength(heading, font(16)) + 16, top + 6), verdict, PALE, font(14))
        top += HEADING
        place_tile(sheet, draw, (GAP, top), tiles[number, "query"], QUERY, "query", query.scene)
        left = 2 * GAP + TILE[0]
        if (number, "positive") in tiles:
            items = task.items[number]
            scene = split.scenes[items.scene[items.positive[0]]].name
            place_tile(sheet, draw, (left, top), tiles[number, "positive"], QUERY, "to be found", scene)
        else:
            draw.text((left, top + TILE[1] // 2), "nobody to find", PALE, font(14))
        answers = left + TILE[0] + 3 * GAP
        if not len(ranking.scene):
            draw.text((answers, top + TILE[1] // 2), "no detections", PALE, font(14))
        for place, (scene, right) in enumerate(zip(ranking.scene, ranking.correct, strict=True)):
            left = answers + place * (TILE[0] + GAP)
            title = f"{place + 1}.  {ranking.similarity[place]:.3f}"
            color = RIGHT if right else WRONG
            place_tile(sheet, draw, (left, top), tiles[number, place], color, title, split.scenes[scene].name)
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def place_tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    tile: tuple[Image.Image, tuple],
    color: tuple[int, int, int],
    title: str,
    scene: str,
) -> None:
    """Puts one person (a tile and its box) on a sheet, with the box, a frame and a caption of two lines."""
    picture, (x1, y1, x2, y2) = tile[0].copy(), tile[1]
    on_tile = ImageDraw.Draw(picture)
    on_tile.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=color, width=2)
    on_tile.rectangle((0, 0, TILE[0] - 1, TILE[1] - 1), outline=color, width=3)
    sheet.paste(picture, corner)
    left, bottom = corner[0], corner[1] + TILE[1]
    draw.text((left, bottom + 2), title, color, font(14))
    draw.text((left, bottom + 19), _shortened(draw, scene), PALE, font(11))


def _shortened(draw: ImageDraw.ImageDraw, name: str) -> str:
    """The end of a scene name that fits under a tile; beginnings are mostly alike."""
    stem = name.rsplit(".", 1)[0]
    if draw.textlength(stem, font(11)) <= TILE[0]:
        return stem
    while draw.textlength("..." + stem, font(11)) > TILE[0]:
        stem = stem[1:]
    return "..." + stem


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The lettering of all drawn pages, in pixels."""
    return ImageFont.load_default(size)
