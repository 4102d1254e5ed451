"""Matching of anchors with boxes: a table worked by hand, ties, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.boxes import BACKGROUND, IGNORED, match_anchors

IOU = jnp.asarray(
    [
        [0.8, 0.5, 0.2, 0.0, 0.6],
        [0.1, 0.6, 0.25, 0.25, 0.5],
    ]
)
BOTH = jnp.asarray([True, True])


def test_thresholds():
    matched = match_anchors(IOU, BOTH, 0.7, 0.3, False)
    np.testing.assert_array_equal(matched, [0, IGNORED, BACKGROUND, BACKGROUND, IGNORED])
    matched = match_anchors(IOU, BOTH, 0.6, 0.6, False)  # reaching a threshold is enough
    np.testing.assert_array_equal(matched, [0, 1, BACKGROUND, BACKGROUND, 0])


def test_every_box_keeps_its_best_anchors():
    matched = match_anchors(IOU, BOTH, 0.9, 0.3, True)
    np.testing.assert_array_equal(matched, [0, 1, BACKGROUND, BACKGROUND, IGNORED])


def test_all_anchors_that_tie_for_the_best_are_kept_with_their_own_best_box():
    iou = jnp.asarray([[0.3, 0.3, 0.1], [0.0, 0.4, 0.0]])
    matched = match_anchors(iou, BOTH, 0.7, 0.3, True)
    # Anchor 1 ties for the best of box 0, but its own best box is 1.
    np.testing.assert_array_equal(matched, [0, 1, BACKGROUND])


def test_padded_boxes_change_nothing():
    expected = match_anchors(IOU, BOTH, 0.7, 0.3, True)
    padded = jnp.concatenate([IOU, jnp.full((3, 5), 0.95)])
    matched = match_anchors(padded, jnp.asarray([True, True, False, False, False]), 0.7, 0.3, True)
    np.testing.assert_array_equal(matched, expected)
    # Zero overlap of padding must not count as the best overlap of a box that does not exist.
    padded = jnp.concatenate([IOU, jnp.zeros((1, 5))])
    matched = match_anchors(padded, jnp.asarray([True, True, False]), 0.7, 0.3, True)
    np.testing.assert_array_equal(matched, expected)


@pytest.mark.parametrize("low_quality", [False, True])
def test_without_boxes_everything_is_background(low_quality):
    for iou, valid in ((IOU, jnp.asarray([False, False])), (IOU[:0], jnp.zeros(0, bool))):
        matched = match_anchors(iou, valid, 0.7, 0.3, low_quality)
        np.testing.assert_array_equal(matched, [BACKGROUND] * 5)


def test_jit_and_vmap():
    def match(iou, valid):
        return match_anchors(iou, valid, 0.7, 0.3, True)

    valid = jnp.asarray([[True, True], [True, False]])
    together = jax.jit(jax.vmap(match))(jnp.stack([IOU, IOU]), valid)
    np.testing.assert_array_equal(together[0], match(IOU, valid[0]))
    np.testing.assert_array_equal(together[1], match(IOU, valid[1]))


def test_thresholds_in_the_wrong_order():
    with pytest.raises(ValueError, match=r"low is 0\.5, larger than high"):
        match_anchors(IOU, BOTH, 0.3, 0.5, False)
