"""An RDLR small enough for tests, and batches for it."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_spnet

from ps_jax.heads import reid_network
from ps_jax.interface import People, Scenes
from ps_jax.systems import System, build_system, faster_rcnn, retinanet

DETECTORS: dict[str, dict[str, Any]] = {
    "faster_rcnn": {
        "width": 16,
        "head_width": 16,
        "anchor_sizes": (8.0, 16.0, 24.0, 32.0, 48.0),
        "train_proposals": (60, 30),
        "test_proposals": (60, 20),
        "proposal_samples": 16,
        "samples_per_image": 16,
    },
    "retinanet": {"width": 16, "anchor_sizes": (8.0, 16.0, 24.0, 32.0, 48.0), "top_anchors": 50},
}
OPTIONS: dict[str, Any] = {
    "num_identities": 6,
    "reid_trunk": "tiny",
    "crop_size": (64, 32),
    "boxes_per_scene": 4,
    "detections_per_scene": 20,
    "score_threshold": 0.3,
}


@pytest.fixture
def tiny_rdlr(monkeypatch: pytest.MonkeyPatch):
    """Builds a tiny system; keyword arguments change `OPTIONS`."""
    for module in (faster_rcnn, retinanet, reid_network):
        monkeypatch.setattr(module, "build_trunk", tiny_spnet.tiny_trunk)

    def build(detector: str = "faster_rcnn", options: dict[str, Any] | None = None, **changes: Any) -> System:
        detector_options = {"trunk": "tiny", "frozen_stages": 0, **DETECTORS[detector], **(options or {})}
        own = {"detector_name": detector, "detector_options": detector_options}
        return build_system("rdlr", OPTIONS | own | changes)

    return build


def batch(counts: tuple[int, ...] = (2, 3), **options: Any) -> tuple[Scenes, People]:
    """As `tiny_spnet.batch`, with original pictures twice as large."""
    scenes, people = tiny_spnet.batch(counts, **options)
    raw = np.repeat(np.repeat(np.asarray(scenes.image), 2, axis=1), 2, axis=2)
    return scenes._replace(raw=jnp.asarray(raw), raw_size=2 * scenes.size), people
