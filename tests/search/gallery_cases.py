"""Parts and people with features that can be told apart, for tests of stores and search."""

import numpy as np

from ps_jax.search.records import Part, People, part_id

WIDTH = 16
ABOUT = {"width": WIDTH, "fingerprint": "f00d", "fps": 1.0}


def make_part(number: int, people: int, **changes) -> Part:
    path = f"/pictures/{number:04d}.jpg"
    values = {
        "id": part_id(path, 1000, 7, 0),
        "path": path,
        "size": 1000,
        "modified": 7,
        "first": 0,
        "frames": 1,
        "finished": True,
        "taken": 1000.0 + number,
        "height": 240,
        "width": 320,
        "people": people,
    }
    return Part(**{**values, **changes})


def make_people(part: Part, seed: int | None = None) -> People:
    """People of a picture; their features are of length one and their own."""
    count = part.people
    rng = np.random.default_rng(part.id % 2**32 if seed is None else seed)
    feature = rng.standard_normal((count, WIDTH))
    corner = rng.uniform(0, 100, (count, 2))
    return People(
        np.full(count, part.id),
        np.zeros(count),
        np.full(count, part.taken),
        np.concatenate([corner, corner + 40], axis=1).astype(np.float32),
        np.sort(rng.uniform(0.5, 1, count))[::-1].astype(np.float32),
        (feature / np.linalg.norm(feature, axis=1, keepdims=True)).astype(np.float32),
    )
