"""How long a query takes in galleries of 10^3 to 10^6 people, and what an index misses.

    python -m benchmarks.gallery_search [--sizes 1000,10000,100000,1000000] [--width 256] [--out DIR]

Features are drawn like those of people: a centre for each of many identities with noise around it, so that every query
has neighbours. Exact search by numpy (one query) and JAX (batches of 100), and the folder's store by its index
(IVF_SQ), whose recall is the share of the exact first ten that it finds. Prints a table: of times the median and the
least, which on an idle machine are nearly the same. The largest size needs about 6 GB of memory and 3 GB of disk.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from ps_jax.markdown import markdown_table
from ps_jax.search.exact import ExactSearch
from ps_jax.search.records import EVERYBODY, Part, People
from ps_jax.search.stores import Store, make_store

PEOPLE_A_PART = 1000
IDENTITY_SIZE = 20  # boxes of one person
NOISE = 0.7  # length of the noise beside a centre of length one
QUERIES, BATCH, FIRST = 50, 100, 10


def features(rows: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """f32[rows, width] of length one, `IDENTITY_SIZE` around each centre."""
    centres = rng.standard_normal((-(-rows // IDENTITY_SIZE), width), np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    made = np.repeat(centres, IDENTITY_SIZE, axis=0)[:rows]
    made += NOISE / np.sqrt(width) * rng.standard_normal(made.shape, np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def milliseconds(function: Callable[[int], object], times: int, queries: int = 1) -> str:
    """Median and least milliseconds a query of `function(number)`, after one call that does not count."""
    function(0)
    seconds = []
    for number in range(times):
        start = time.perf_counter()
        function(number)
        seconds.append(time.perf_counter() - start)
    return " / ".join(f"{1e3 * value / queries:.2f}" for value in (np.median(seconds), min(seconds)))


def measure(rows: int, width: int, folder: Path) -> list[str]:
    """One line of the table."""
    rng = np.random.default_rng(0)
    feature = features(rows, width, rng)
    chosen = feature[rng.integers(rows, size=BATCH)] + NOISE / np.sqrt(width) * rng.standard_normal(
        (BATCH, width)
    )
    queries = (chosen / np.linalg.norm(chosen, axis=1, keepdims=True)).astype(np.float32)
    exact = ExactSearch(feature)
    one = milliseconds(lambda number: exact.search(queries[number : number + 1], FIRST), QUERIES)
    batch = milliseconds(lambda number: exact.search(queries, FIRST), 5, BATCH)

    store = make_store(str(folder / str(rows)), {"width": width})
    start = time.perf_counter()
    add(store, feature)
    inserted = rows / (time.perf_counter() - start)
    start = time.perf_counter()
    store.optimize(index=True)
    built = time.perf_counter() - start
    stored = milliseconds(
        lambda number: store.search(queries[number : number + 1], FIRST, EVERYBODY, exact=False), QUERIES
    )
    right = exact.search(queries, FIRST)
    found = store.search(queries, FIRST, EVERYBODY, exact=False)
    # A row's number lies in its time.
    shared = [
        len(set(row) & set(hits.people.time.astype(int))) for (_, row), hits in zip(right, found, strict=True)
    ]
    recall = sum(shared) / (BATCH * min(FIRST, rows))
    return [
        f"{rows:,}",
        one,
        batch,
        stored,
        f"{recall:.3f}",
        f"{inserted:,.0f}",
        f"{built:.1f}",
    ]


def add(store: Store, feature: np.ndarray) -> None:
    """Adds features as people of parts."""
    for start in range(0, len(feature), 50 * PEOPLE_A_PART):
        some = feature[start : start + 50 * PEOPLE_A_PART]
        number = np.arange(start, start + len(some))
        people = People(
            number // PEOPLE_A_PART,
            np.zeros(len(some)),
            number.astype(np.float64),
            np.zeros((len(some), 4), np.float32),
            np.ones(len(some), np.float32),
            some,
        )
        parts = [
            Part(int(part), f"{part}.jpg", 1, 1, 0, 1, True, 0.0, 1, 1, PEOPLE_A_PART)
            for part in np.unique(people.part)
        ]
        store.add(parts, people)


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="1000,10000,100000,1000000")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--out", type=Path, help="folder for the galleries (default: a temporary one)")
    options = parser.parse_args(arguments)
    head = [
        "people",
        "numpy, ms",
        f"JAX in {BATCH}, ms a query",
        "index, ms",
        f"its recall of {FIRST}",
        "rows/s in",
        "index, s",
    ]
    lines = []
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    for rows in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory(dir=options.out) as folder:
            lines.append(measure(rows, options.width, Path(folder)))
            print("  ".join(lines[-1]), file=sys.stderr, flush=True)
    print(f"{os.cpu_count()} CPU cores, {jax.default_backend()}, width {options.width}\n")
    print(markdown_table(head, lines))


if __name__ == "__main__":
    main(sys.argv[1:])
