"""An SPNet small enough for tests, and batches for it."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.backbones import ConvNeXt
from ps_jax.interface import People, Scenes
from ps_jax.systems import System, build_system, spnet

OPTIONS: dict[str, Any] = {
    "num_identities": 6,
    "trunk": "tiny",
    "embedding_dim": 16,
    "reid_dim": 16,
    "samples_per_image": 16,
    "samples_per_pair": 16,
    "pairs_per_batch": 6,
    "queue_size": 5,
    "top_anchors": 100,
    "query_top_anchors": 20,
    "detections_per_scene": 40,
}
LARGE: dict[str, Any] = {"num_cascade_steps": 2, "separate_location_heads": True, "reid_dim": 32}


def tiny_trunk(name: str, **options: Any) -> ConvNeXt:
    assert name == "tiny"
    return ConvNeXt(depths=(1, 1, 1, 1), widths=(8, 12, 16, 24), **options)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch):
    """Builds a tiny system; keyword arguments change `OPTIONS`."""
    monkeypatch.setattr(spnet, "build_trunk", tiny_trunk)

    def build(**changes: Any) -> System:
        return build_system("spnet", OPTIONS | changes)

    return build


def batch(
    counts: tuple[int, ...] = (2, 3), slots: int = 4, side: int = 64, seed: int = 0
) -> tuple[Scenes, People]:
    """Scenes of `side` pixels with so many people each; everybody is somebody else, every third unknown."""
    rng = np.random.default_rng(seed)
    scenes = len(counts)
    image = rng.integers(0, 256, (scenes, side, side, 3), dtype=np.uint8)
    corner = rng.uniform(0, side / 2, (scenes, slots, 2))
    box = np.concatenate([corner, corner + rng.uniform(16, side / 2, (scenes, slots, 2))], axis=-1)
    valid = np.arange(slots) < np.asarray(counts)[:, None]
    number = np.arange(scenes * slots).reshape(scenes, slots)
    identity = np.where(number % 3 == 2, -1, number % 6)
    return (
        Scenes(jnp.asarray(image), jnp.full((scenes, 2), side)),
        People(
            jnp.asarray(np.where(valid[..., None], box, 0.0), jnp.float32),
            jnp.asarray(np.where(valid, identity, -1), jnp.int32),
            jnp.asarray(np.where(identity >= 0, identity, 100 + number), jnp.int32),
            jnp.asarray(valid),
        ),
    )


def two_views(counts: tuple[int, ...] = (3,), missing_in_second: int = 1) -> tuple[Scenes, People]:
    """Two views of each picture: the same people at the same places, the last ones missing in the second."""
    scenes, people = batch(counts)
    scenes = Scenes(*(jnp.repeat(x, 2, axis=0) for x in (scenes.image, scenes.size)))
    people = People(*(jnp.repeat(x, 2, axis=0) for x in people))
    left = jnp.asarray(np.repeat(counts, 2)) - missing_in_second * (jnp.arange(2 * len(counts)) % 2)
    return scenes, people._replace(valid=jnp.arange(people.valid.shape[1]) < left[:, None])
