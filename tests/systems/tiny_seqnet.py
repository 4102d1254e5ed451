"""A SeqNet small enough for tests."""

from typing import Any

import pytest
from tiny_spnet import tiny_trunk

from ps_jax.systems import System, build_system, seqnet

OPTIONS: dict[str, Any] = {
    "num_identities": 6,
    "trunk": "tiny",
    "reid_dim": 16,
    "anchor_sizes": (16.0, 32.0),
    "train_proposals": (60, 30),
    "test_proposals": (60, 20),
    "proposal_samples": 16,
    "samples_per_image": 8,
    "queue_size": 5,
    "detections_per_scene": 20,
    "score_threshold": 0.3,
}
NAE: dict[str, Any] = {"sequential": False, "match_low": 0.1, "regression_weight": 10.0}


@pytest.fixture
def tiny_seqnet(monkeypatch: pytest.MonkeyPatch):
    """Builds a tiny system; keyword arguments change `OPTIONS`."""
    monkeypatch.setattr(seqnet, "build_trunk", tiny_trunk)

    def build(**changes: Any) -> System:
        return build_system("seqnet", OPTIONS | changes)

    return build
