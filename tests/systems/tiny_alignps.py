"""An AlignPS small enough for tests."""

from typing import Any

import pytest
from tiny_spnet import tiny_trunk

from ps_jax.systems import System, alignps, build_system

OPTIONS: dict[str, Any] = {
    "num_identities": 6,
    "trunk": "tiny",
    "frozen_stages": -1,
    "freeze_norms": False,
    "width": 32,
    "queue_size": 40,
    "score_threshold": 0.0,
    "detections_per_scene": 20,
}


@pytest.fixture
def tiny_alignps(monkeypatch: pytest.MonkeyPatch):
    """Builds a tiny system; keyword arguments change `OPTIONS`."""
    monkeypatch.setattr(alignps, "build_trunk", tiny_trunk)

    def build(**changes: Any) -> System:
        return build_system("alignps", OPTIONS | changes)

    return build
