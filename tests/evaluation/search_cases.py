"""Small search tasks whose numbers can be worked out by hand."""

import numpy as np

from input_pipeline.scenes import Gallery, GalleryItem, Person, Query, Scene, Split
from ps_jax.evaluation.protocols import search_task
from ps_jax.evaluation.search import evaluate_search
from ps_jax.evaluation.table import make_table

BOX = (0.0, 0.0, 100.0, 200.0)
FAR = (500.0, 500.0, 600.0, 700.0)
LOW = (0.0, 0.0, 100.0, 120.0)  # overlaps BOX by 0.6
POOR = (0.0, 0.0, 100.0, 90.0)  # overlaps BOX by 0.45


def scene(name: str, *people: int, **known) -> Scene:
    return Scene(name, name, 720, 1280, tuple(Person(BOX, person) for person in people), **known)


def split_of(scenes, *galleries: Gallery) -> Split:
    return Split("made", "test", tuple(scenes), {g.name: g for g in galleries}, galleries[0].name)


def listed(*items: tuple[str, bool], query: str = "q") -> Gallery:
    boxes = tuple(GalleryItem(name, BOX if positive else None) for name, positive in items)
    return Gallery("listed", (Query(query, BOX, 1),), (boxes,))


def table_of(*scenes: list[tuple[tuple, float]]):
    """Table of [(box, similarity), ...] for each scene; the embedding of one number is the similarity."""
    return make_table(
        (
            np.array([box for box, _ in found], np.float64).reshape(-1, 4),
            np.full(len(found), 0.9),
            np.array([[value] for _, value in found], np.float64).reshape(-1, 1),
        )
        for found in scenes
    )


def search(task, table, iou="variable"):
    return evaluate_search(task, [(table, table.embedding[:, 0])] * len(task.queries), iou).rankings[0]


# Context matching. Features are two-dimensional: the query looks along x, its companion along y.


def context_case(*scenes: list[tuple[float, float]]):
    """A query in scene 0, scenes whose detections have the given features; items, table, similarity, feature."""
    names = [f"s{i}" for i in range(len(scenes))]
    split = split_of(
        [scene("q", 1), *(scene(name) for name in names)], listed(*((name, False) for name in names))
    )
    features = [np.array(found, np.float64).reshape(-1, 2) for found in scenes]
    table = make_table(
        [(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 2)))]
        + [(np.tile(BOX, (len(f), 1)), np.full(len(f), 0.9), f) for f in features]
    )
    return search_task(split, "listed").items[0], table, table.embedding[:, 0], table.embedding


CONTEXT = np.array([[1.0, 0.0], [0.0, 1.0]])  # the query and its companion
