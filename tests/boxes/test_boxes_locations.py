import jax.numpy as jnp
import numpy as np

from ps_jax.boxes import (
    BACKGROUND,
    assign_locations,
    boxes_around,
    centerness,
    distances_to_sides,
    level_locations,
)

EVERY_SIZE = (-1.0, np.inf)


def test_locations_lie_in_the_middle_of_their_cells():
    np.testing.assert_array_equal(
        level_locations((2, 3), 8), [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    )


def test_distances_and_boxes_are_each_others_inverse():
    location, box = jnp.array([10.0, 20.0]), jnp.array([4.0, 17.0, 30.0, 25.0])
    distances = distances_to_sides(location, box)
    np.testing.assert_array_equal(distances, [6, 3, 20, 5])
    np.testing.assert_array_equal(boxes_around(location, distances), box)
    np.testing.assert_allclose(centerness(distances), np.sqrt(6 / 20 * 3 / 5), rtol=1e-6)
    np.testing.assert_array_equal(centerness(jnp.array([[2.0, 3.0, 2.0, 3.0], [0.0, 1.0, 5.0, 1.0]])), [1, 0])


def _assigned(boxes, valid=None, radius=12.0, size_range=EVERY_SIZE, cells=(8, 8)):
    boxes = jnp.asarray(boxes, jnp.float32)
    valid = jnp.ones(len(boxes), bool) if valid is None else jnp.asarray(valid)
    matched = assign_locations(level_locations(cells, 8), radius, size_range, boxes, valid)
    return np.asarray(matched).reshape(cells)


def test_a_person_has_nine_locations_around_the_centre():
    matched = _assigned([[4, 2, 44, 62]])  # centre (24, 32)
    rows, columns = np.nonzero(matched == 0)
    # 24 +- 12 takes in the locations at 20 and 28, not those on the border of the open square, 12 and 36.
    assert set(columns) == {2, 3} and set(rows) == {3, 4}
    matched = _assigned([[8, 8, 48, 64]])  # centre (28, 36), where a location is
    rows, columns = np.nonzero(matched == 0)
    assert set(columns) == {2, 3, 4} and set(rows) == {3, 4, 5} and len(rows) == 9
    assert np.all(matched[matched != 0] == BACKGROUND)


def test_a_narrow_box_limits_the_square():
    matched = _assigned([[25, 8, 31, 64]])  # only the column at 28 is inside
    assert set(np.nonzero(matched == 0)[1]) == {3}
    assert np.all(_assigned([[29, 8, 35, 64]]) == BACKGROUND)  # between two columns


def test_the_smaller_of_two_people_has_a_shared_location():
    boxes = [[8, 8, 48, 64], [16, 24, 40, 48]]
    assert _assigned(boxes)[4, 3] == 1 and _assigned(boxes[::-1])[4, 3] == 0
    assert _assigned(boxes, valid=[True, False])[4, 3] == 0
    assert _assigned([boxes[0], boxes[0]])[4, 3] == 0  # of equal ones the first


def test_a_level_takes_people_of_its_sizes():
    box = [[8, 8, 48, 64]]  # from its centre the furthest side is 28 away
    assert (
        _assigned(box, size_range=(-1.0, 28.0)) == 0
    ).sum() == 3  # one row: others are further from one end
    assert (_assigned(box, size_range=(28.5, np.inf)) == 0).sum() == 6
