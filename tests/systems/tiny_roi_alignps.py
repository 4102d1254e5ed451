"""A ROI-AlignPS small enough for tests."""

from typing import Any

import jax.numpy as jnp
import pytest
import tiny_alignps
from tiny_spnet import tiny_trunk

from ps_jax.systems import System, alignps, build_system


def both_branches_learn(key, count, slots):
    """In place of `random_pairing`: everybody with the next one, and gradients for the embeddings."""
    return jnp.asarray(False), (jnp.arange(slots) + 1) % jnp.maximum(count, 1)


OPTIONS: dict[str, Any] = tiny_alignps.OPTIONS | {
    "anchor_sizes": (16.0, 32.0),
    "train_proposals": (60, 30),
    "proposal_samples": 16,
    "samples_per_image": 8,
    "most_samples": 2,
}
# Everything that the branches may learn from each other, with chances replaced.
MUTUAL: dict[str, Any] = {
    "mutual_information_weight": 0.2,
    "divergence_weight": 0.5,
    "cosine_weight": 0.3,
    "pairing": both_branches_learn,
}


@pytest.fixture
def tiny_roi_alignps(monkeypatch: pytest.MonkeyPatch):
    """Builds a tiny system; keyword arguments change `OPTIONS`."""
    monkeypatch.setattr(alignps, "build_trunk", tiny_trunk)

    def build(**changes: Any) -> System:
        return build_system("roi_alignps", OPTIONS | changes)

    return build
