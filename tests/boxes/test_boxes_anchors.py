"""Anchors: a table worked by hand, order and strides."""

import numpy as np
import pytest

from ps_jax.boxes import cell_anchors, pyramid_anchors


def test_cell_anchors_by_hand():
    # sqrt(0.5) = 0.7071: 32 / 0.7071 = 45.25 wide, 22.63 high; halves rounded to whole numbers.
    expected = [[-23, -11, 23, 11], [-45, -23, 45, 23], [-16, -16, 16, 16], [-32, -32, 32, 32]]
    np.testing.assert_array_equal(cell_anchors((32, 64), (0.5, 1.0)), expected)


def test_halves_round_to_even():
    np.testing.assert_array_equal(cell_anchors((5, 7), (1.0,)), [[-2, -2, 2, 2], [-4, -4, 4, 4]])


def test_order_and_strides_of_a_pyramid():
    anchors = np.asarray(pyramid_anchors((224, 96), [(2, 3), (4, 1)], [(10,), (20, 40)], (1.0,)))
    assert anchors.shape == (2 * 3 + 4 * 2, 4)
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    first_level = [[0, 0], [32, 0], [64, 0], [0, 112], [32, 112], [64, 112]]
    second_level = np.repeat([[0, 0], [0, 56], [0, 112], [0, 168]], 2, axis=0)
    np.testing.assert_array_equal(centre, np.concatenate([first_level, second_level]))
    np.testing.assert_array_equal(anchors[:, 2] - anchors[:, 0], [10] * 6 + [20, 40] * 4)


def test_levels_must_agree():
    with pytest.raises(ValueError, match="sizes has 1 levels, feature_sizes has 2"):
        pyramid_anchors((64, 64), [(8, 8), (4, 4)], [(10,)], (1.0,))
