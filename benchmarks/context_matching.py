"""What context matching (CBGM) adds to the search of one query, by gallery size: SeqNet's table 5.

    python -m benchmarks.context_matching [--sizes 100,500,1000,2000,4000] [--k1 10] [--k2 3] [--rounds N]

Detections are made up, about six a scene with features of length 256; a few scenes show the query's person in company.
Timed are the similarities to all detections of the gallery and the ranking, without the matching and with it, in
turns. The paper's times hold the network's pass over the query's scene too, so only the difference compares.
"""

import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.timing import Clock, in_turns, summarise
from input_pipeline.scenes import Box
from ps_jax.evaluation.cbgm import CANDIDATES, ContextMatching, context_features
from ps_jax.evaluation.protocols import SearchItems
from ps_jax.evaluation.search import rank, similarity_rows
from ps_jax.evaluation.similarity import gallery_features, unit_rows
from ps_jax.evaluation.table import DetectionTable, make_table
from ps_jax.markdown import markdown_row, markdown_table

WIDTH = 256
PEOPLE = (3, 9)  # fewest and most detections of a scene, six on average
SHOWN = 4  # scenes of a gallery that show the query's person, about CUHK-SYSU's share
PAPER = {100: 2, 500: 2, 1000: 2, 2000: 2, 4000: 1}  # ms that CBGM adds in SeqNet's table 5
HEAD = (
    "scenes",
    "detections",
    "search, ms a query",
    "with CBGM",
    "CBGM adds, ms (lowest - highest)",
    "paper adds, ms",
)


class Made(NamedTuple):
    """Made-up detections and queries.

    Attributes:
      table: detections of the queries' scenes, which come first, and of the gallery's.
      vectors: f64[queries, width], unit features.
      boxes: box of each query in its own scene.
      items: gallery of each query.
    """

    table: DetectionTable
    vectors: np.ndarray
    boxes: tuple[Box, ...]
    items: tuple[SearchItems, ...]


def made_up(size: int, queries: int, seed: int = 0) -> Made:
    """Detections of `queries` scenes and a gallery of `size` scenes.

    In `SHOWN` scenes of its gallery the person of a query walks with the others of the query's scene.
    """
    random = np.random.default_rng(seed)
    scenes = []
    for _ in range(queries + size):
        count = int(random.integers(PEOPLE[0], PEOPLE[1] + 1))
        left, top = random.uniform(0, 1100, count), random.uniform(0, 500, count)
        box = np.stack([left, top, left + 60, top + 150], axis=1)
        score = np.sort(random.uniform(0.5, 1, count))[::-1]
        scenes.append((box, score, random.normal(size=(count, WIDTH)).astype(np.float32)))
    items = []
    for query in range(queries):
        company = scenes[query][2]
        shown = np.sort(random.permutation(size)[:SHOWN])
        for place in shown:
            there = scenes[queries + place][2]
            both = min(len(company), len(there))
            there[:both] = company[:both] + 0.8 * there[:both]
        boxes = np.array([scenes[queries + place][0][0] for place in shown])
        items.append(SearchItems(np.arange(queries, queries + size), shown, boxes, np.ones(SHOWN, np.int64)))
    return Made(
        make_table(scenes),
        unit_rows(np.stack([scenes[query][2][0] for query in range(queries)])),
        tuple(tuple(scenes[query][0][0].tolist()) for query in range(queries)),
        tuple(items),
    )


def search_clock(made: Made, matching: ContextMatching | None) -> Clock:
    """Times the search of all queries; seconds of one."""
    table = made.table
    feature = gallery_features(table.embedding, table.score, "score_cosine")
    # Of the gallery alone: the queries' own scenes are only there for the context.
    gallery = feature[table.start[len(made.items)] :]

    def clock() -> float:
        start = time.perf_counter()
        rows = similarity_rows(made.vectors, gallery)
        for number, (items, row) in enumerate(zip(made.items, rows, strict=True)):
            similarity = np.concatenate([np.zeros(len(feature) - len(gallery)), row])
            if matching is not None:
                context = context_features(
                    made.vectors[number], made.boxes[number], table, number, matching.k2
                )
                similarity = matching.rematch(items, table, similarity, feature, context)
            rank(items, table, similarity, "variable")
        return (time.perf_counter() - start) / len(made.items)

    return clock


def row(size: int, matching: ContextMatching, queries: int, rounds: int) -> list[str]:
    """The line of one gallery size."""
    made = made_up(size, queries)
    seconds = in_turns({"without": search_clock(made, None), "with": search_clock(made, matching)}, rounds)
    added = [after - before for before, after in zip(seconds["without"], seconds["with"], strict=True)]
    detections = int(made.table.start[-1] - made.table.start[queries])
    return [
        str(size),
        str(detections),
        f"{1e3 * summarise(seconds['without']).median:.3g}",
        f"{1e3 * summarise(seconds['with']).median:.3g}",
        summarise(added).milliseconds,
        str(PAPER.get(size, "")),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.context_matching",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("--sizes", default=",".join(map(str, PAPER)), help="galleries, default: %(default)s")
    option("--k1", type=int, default=10, help="candidates looked at again, default: %(default)s")
    option("--k2", type=int, default=3, help="people around the query, default: %(default)s")
    option("--candidates", choices=CANDIDATES, default=CANDIDATES[0], help="default: %(default)s")
    option("--queries", type=int, default=64, help="default: %(default)s")
    option("--rounds", type=int, default=9, help="default: %(default)s")
    options = parser.parse_args(arguments)
    matching = ContextMatching(options.k1, options.k2, options.candidates)
    print(f"`{shlex.join(['python', '-m', 'benchmarks.context_matching', *arguments])}`\n")
    print(
        f"numpy {np.__version__}, python {platform.python_version()}, {platform.machine()}, load "
        f"{os.getloadavg()[0]:.1f} at the start; {matching.words}\n"
    )
    print(markdown_table(HEAD, []), flush=True)
    for size in map(int, options.sizes.split(",")):
        print(markdown_row(row(size, matching, options.queries, options.rounds)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
