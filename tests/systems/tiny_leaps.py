"""A LEAPS small enough for tests."""

from typing import Any

import pytest
from tiny_spnet import tiny_trunk

from ps_jax.systems import System, build_system, leaps

OPTIONS: dict[str, Any] = {
    "num_identities": 6,
    "trunk": "tiny",
    "frozen_stages": -1,
    "width": 16,
    "num_proposals": 8,
    "num_stages": 2,
    "heads": 2,
    "dynamic_width": 4,
    "perceptron_width": 24,
    "regression_layers": 1,
    "side": 3,
    "queue_size": 40,
    "score_threshold": 0.0,
}


@pytest.fixture
def tiny_leaps(monkeypatch: pytest.MonkeyPatch):
    """Builds a tiny system; keyword arguments change `OPTIONS`."""
    monkeypatch.setattr(leaps, "build_trunk", tiny_trunk)

    def build(**changes: Any) -> System:
        return build_system("leaps", OPTIONS | changes)

    return build
