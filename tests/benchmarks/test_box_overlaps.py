import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from benchmarks.box_overlaps import count_overlaps, overlap_picture, overlap_table
from ps_jax.errors import ConfigError
from ps_jax.interface import Batch, People, Scenes

PERSON = [10.0, 10.0, 30.0, 50.0]


def shifted(share):
    """The person's box moved to the right by a share of its width: overlap (1 - share) / (1 + share)."""
    return [PERSON[0] + 20 * share, PERSON[1], PERSON[2] + 20 * share, PERSON[3]]


class Given(nn.Module):
    """Makes the same boxes of every scene."""

    sequential: bool = True

    def detect(self, scenes):
        rows = scenes.image.shape[0]
        self.sow("intermediates", "first_valid", jnp.tile(jnp.array([[True, True, False]]), (rows, 1)))
        for name, shares in (("proposals", (0.3, 0.0, 2.0)), ("first_boxes", (0.1, 0.1, 0.3))):
            box = jnp.asarray([shifted(share) for share in shares])
            self.sow("intermediates", name, jnp.tile(box[None], (rows, 1, 1)))


class GivenSystem:
    def __init__(self, sequential=True):
        self.module = Given(sequential)

    def normalise(self, scenes):
        return scenes


def test_boxes_are_counted_by_their_overlap_with_labelled_people():
    scenes = Scenes(np.zeros((2, 64, 64, 3), np.float32), np.full((2, 2), 64))
    box = np.array([[PERSON, [0, 0, 0, 0]], [PERSON, [0, 0, 0, 0]]], np.float32)
    people = People(
        box, np.array([[3, -1], [-1, -1]]), np.array([[3, -1], [9, -1]]), np.array([[True, False]] * 2)
    )
    batches = [Batch(scenes, people, np.array([0, 1])), Batch(scenes, people, np.array([2, -1]))]
    counts = count_overlaps(GivenSystem(), {}, iter(batches))
    # Two scenes show a labelled person; the second row is unlabelled, then a filler.
    assert counts["proposals"].tolist() == [2, 0, 0, 0, 2]  # overlaps 0.54 and 1
    assert counts["first_boxes"].tolist() == [0, 0, 0, 4, 0]  # 0.82
    table = overlap_table(counts)
    assert "| proposals | 50.0 | 0.0 | 0.0 | 0.0 | 50.0 | 4 |" in table
    assert overlap_picture(counts)[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ConfigError, match="needs a SeqNet with a first head"):
        count_overlaps(GivenSystem(sequential=False), {}, iter([]))
