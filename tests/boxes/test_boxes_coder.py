"""Offsets from anchors, and limits on boxes: worked by hand, round trip, padding."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.boxes import clip_boxes, decode, encode, large_enough


def random_boxes(count, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 100, (count, 2))
    return jnp.asarray(np.concatenate([corner, corner + rng.uniform(5, 80, (count, 2))], axis=1), jnp.float32)


def test_worked_by_hand():
    anchor = jnp.asarray([[0.0, 0.0, 10.0, 20.0]])
    box = jnp.asarray([[5.0, 10.0, 25.0, 50.0]])  # centre (15, 30), size 20 x 40
    expected = [[1.0, 1.0, math.log(2), math.log(2)]]
    np.testing.assert_allclose(encode(box, anchor), expected, rtol=1e-6)
    weighted = encode(box, anchor, (10.0, 5.0, 3.0, 2.0))
    np.testing.assert_allclose(weighted, [[10.0, 5.0, 3 * math.log(2), 2 * math.log(2)]], rtol=1e-6)
    np.testing.assert_allclose(decode(weighted, anchor, (10.0, 5.0, 3.0, 2.0)), box, rtol=1e-6)


def test_round_trip_with_broadcast_anchors():
    boxes = jnp.stack([random_boxes(20, 1), random_boxes(20, 2)])
    anchors = random_boxes(20, 3)
    np.testing.assert_allclose(decode(encode(boxes, anchors), anchors), boxes, atol=2e-4)


def test_growth_is_limited():
    anchor = jnp.asarray([[0.0, 0.0, 16.0, 32.0]])
    box = decode(jnp.asarray([[0.0, 0.0, 50.0, 50.0]]), anchor)
    np.testing.assert_allclose(box[:, 2:] - box[:, :2], [[1000.0, 2000.0]], rtol=1e-5)
    box = decode(jnp.asarray([[0.0, 0.0, 50.0, 50.0]]), anchor, clip=math.log(2))
    np.testing.assert_allclose(box[:, 2:] - box[:, :2], [[32.0, 64.0]], rtol=1e-6)


def test_padding_gives_finite_offsets_and_gradients():
    zeros = jnp.zeros((3, 4))
    anchors = random_boxes(3).at[1].set(0.0)
    assert np.isfinite(encode(zeros, anchors)).all()
    gradient = jax.grad(lambda boxes: jnp.sum(encode(boxes, anchors)))(zeros)
    assert np.isfinite(gradient).all()


def test_clip_to_each_image():
    boxes = jnp.asarray([[[-5.0, -6.0, 30.0, 40.0], [1.0, 2.0, 3.0, 4.0]]] * 2)
    clipped = clip_boxes(boxes, jnp.asarray([[20, 10], [50, 25]]))
    expected = [[[0, 0, 10, 20], [1, 2, 3, 4]], [[0, 0, 25, 40], [1, 2, 3, 4]]]
    np.testing.assert_array_equal(clipped, expected)


@pytest.mark.parametrize(("side", "kept"), [(1.0, [True, True, False]), (2.0, [True, False, False])])
def test_large_enough_includes_the_limit(side, kept):
    boxes = jnp.asarray([[0.0, 0.0, 2.0, 9.0], [3.0, 3.0, 12.0, 4.0], [0.0, 0.0, 50.0, 0.5]])
    np.testing.assert_array_equal(large_enough(boxes, side), kept)
