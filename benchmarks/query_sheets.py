"""The same queries searched by several systems, side by side (figure 10 of AlignPS's paper, 8 of LEAPS's).

    python -m benchmarks.query_sheets --workdirs runs/oim runs/nae runs/alignps --out sheets/
                                      [--queries 12 40] [--count 10] [--answers 1]

Each row is a query, each column what one of the trainings answers first: right ones green, wrong ones red. Without
`--queries` those are shown on which the systems differ most in average precision. All trainings have to be of one data
set; each is evaluated as its configuration has it, and `--config.data.*` and `--config.eval.*` change it for all.
"""

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from input_pipeline import open_source
from input_pipeline.scenes import Split
from ps_jax.errors import ConfigError, PersonSearchError
from ps_jax.evaluation.contact_sheets import (
    CAPTION,
    GAP,
    HEADING,
    INK,
    PALE,
    PAPER,
    QUERIES_ON_A_SHEET,
    QUERY,
    RIGHT,
    WRONG,
    font,
    place_tile,
)
from ps_jax.evaluation.evaluator import default_search
from ps_jax.evaluation.options import evaluation_config, parse_arguments
from ps_jax.evaluation.protocols import SearchTask
from ps_jax.evaluation.report import write_atomically
from ps_jax.evaluation.search import SearchResult
from ps_jax.evaluation.tiles import TILE, cut_tiles
from ps_jax.training import compute_dtype, load_system

Searches = Mapping[str, SearchResult]


def most_different(searches: Searches, count: int) -> list[int]:
    """Numbers, from 0, of the queries whose average precision differs most between the systems, these first."""
    precisions = np.stack([search.average_precisions for search in searches.values()])
    spread = precisions.max(0) - precisions.min(0)
    return np.argsort(-spread, kind="stable")[:count].tolist()


def query_sheets(
    source: Any, split: Split, task: SearchTask, searches: Searches, shown: Sequence[int], answers: int
) -> list[bytes]:
    """Draws the sheets.

    Args:
      source, split: where the pixels come from.
      task: the search that all systems did.
      searches: name of a system -> how it went.
      shown: numbers of the queries, from 0.
      answers: how many of each system's first answers are shown.

    Returns:
      PNG files of at most five queries each.

    Raises:
      ConfigError: there is no such query.
    """
    for number in shown:
        if not 0 <= number < len(task.queries):
            raise ConfigError(f"there is no query {number + 1}; the task has 1 .. {len(task.queries)}")
    requests: dict[int, list] = {}
    for number in shown:
        query = task.queries[number]
        requests.setdefault(split.positions[query.scene], []).append(((number, "", 0), query.box))
        for name, search in searches.items():
            ranking = search.rankings[number]
            first = list(zip(ranking.scene, ranking.box, strict=True))[:answers]
            for place, (scene, box) in enumerate(first):
                requests.setdefault(int(scene), []).append(((number, name, place), box.tolist()))
    tiles = cut_tiles(source, split, requests)
    starts = range(0, len(shown), QUERIES_ON_A_SHEET)
    return [
        _sheet(shown[start : start + QUERIES_ON_A_SHEET], split, task, searches, tiles, answers)
        for start in starts
    ]


def _sheet(
    numbers: Sequence[int], split: Split, task: SearchTask, searches: Searches, tiles: dict, answers: int
) -> bytes:
    block = answers * (TILE[0] + GAP) + 2 * GAP
    row_height = HEADING + TILE[1] + CAPTION + GAP
    size = (TILE[0] + 3 * GAP + len(searches) * block, HEADING + len(numbers) * row_height + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    lefts = [TILE[0] + 4 * GAP + place * block for place in range(len(searches))]
    for left, name in zip(lefts, searches, strict=True):
        draw.text((left, GAP), name, INK, font(16))
    for row, number in enumerate(numbers):
        query, top = task.queries[number], HEADING + row * row_height
        draw.line([(GAP, top), (size[0] - GAP, top)], fill=(214, 216, 220))
        draw.text((GAP, top + 8), f"Query {number + 1}", INK, font(14))
        at = top + HEADING
        place_tile(
            sheet, draw, (GAP, at), tiles[number, "", 0], QUERY, f"person {query.identity}", query.scene
        )
        for left, (name, search) in zip(lefts, searches.items(), strict=True):
            ranking = search.rankings[number]
            words = f"AP {100 * ranking.ap:.0f} %, {ranking.found} of {ranking.positives} found"
            draw.text((left, top + 8), words, PALE, font(11 if answers == 1 else 14))
            if not len(ranking.scene):
                draw.text((left, at + TILE[1] // 2), "no detections", PALE, font(14))
            for place, (scene, right) in enumerate(
                list(zip(ranking.scene, ranking.correct, strict=True))[:answers]
            ):
                corner = (left + place * (TILE[0] + GAP), at)
                title = f"{place + 1}.  {ranking.similarity[place]:.3f}"
                color = RIGHT if right else WRONG
                tile = tiles[number, name, place]
                place_tile(sheet, draw, corner, tile, color, title, split.scenes[scene].name)
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def check_same_search(task: SearchTask, first: SearchTask, name: str, first_name: str) -> None:
    """Raises ConfigError unless two trainings searched for the same queries in the same galleries."""
    if task.queries != first.queries:
        raise ConfigError(
            f"{name}: its queries are others than those of {first_name}; use one data set for all"
        )
    if (task.name, task.rule) != (first.name, first.rule):
        raise ConfigError(
            f"{name}: its gallery is {task.name} ({task.rule}), that of {first_name} is {first.name} ({first.rule}); "
            "give all of them the same --config.eval.galleries, cross_camera and min_frame_gap"
        )


def search_by(workdir: Path, changes: list[str]) -> tuple[Any, Split, SearchTask, SearchResult]:
    """Searches with a training as `eval.py` does; returns its data as well."""
    options, _ = parse_arguments("", ["--workdir", str(workdir)])
    config = evaluation_config(options, changes)
    system, variables, _ = load_system(workdir, dtype=compute_dtype(config.precision))
    source = open_source(config.data)
    return source, *default_search(system, variables, source, config.eval)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.query_sheets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--workdirs", nargs="+", required=True, type=Path, help="work directories of the trainings")
    option("--names", nargs="+", help="what they are called, default: the directories' names")
    option("--out", required=True, type=Path, help="directory of the sheets")
    option(
        "--queries",
        nargs="+",
        type=int,
        metavar="N",
        help="numbers of the queries, from 1, as contact sheets have them",
    )
    option("--count", type=int, default=10, help="queries where none are named, default: %(default)s")
    option("--answers", type=int, default=1, help="of each system, default: %(default)s")
    options, changes = parser.parse_known_args(arguments)
    names = options.names or [path.name for path in options.workdirs]
    if len(set(names)) != len(options.workdirs):
        raise ConfigError(f"--names: wanted is one name, each another, for {len(options.workdirs)} trainings")
    searches: dict[str, SearchResult] = {}
    task = None
    for name, workdir in zip(names, options.workdirs, strict=True):
        source, split, its_task, searches[name] = search_by(workdir, changes)
        if task is not None:
            check_same_search(its_task, task, str(workdir), str(options.workdirs[0]))
        task = its_task
    assert task is not None
    if options.queries:
        shown = [number - 1 for number in options.queries]
    else:
        shown = most_different(searches, options.count)
    options.out.mkdir(parents=True, exist_ok=True)
    for number, sheet in enumerate(
        query_sheets(source, split, task, searches, shown, options.answers), start=1
    ):
        write_atomically(options.out / f"queries_{number:02}.png", sheet)
        print(f"written to {options.out / f'queries_{number:02}.png'}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PersonSearchError as error:
        print(f"query_sheets: {error}", file=sys.stderr)
        sys.exit(2)
