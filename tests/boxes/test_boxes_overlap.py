"""Overlap of boxes: worked by hand, boxes without area, and the last bit."""

import jax
import jax.numpy as jnp
import numpy as np

from ps_jax.boxes import area, elementwise_giou, elementwise_iou, pairwise_giou, pairwise_iou

A = jnp.asarray([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 4.0, 5.0]])
B = jnp.asarray([[5.0, 0.0, 15.0, 10.0], [20.0, 0.0, 30.0, 10.0], [0.0, 0.0, 10.0, 10.0]])


def test_worked_by_hand():
    np.testing.assert_array_equal(area(A), [100.0, 20.0])
    np.testing.assert_allclose(pairwise_iou(A, B), [[1 / 3, 0, 1], [0, 0, 0.2]], rtol=1e-6)
    # Hulls of the first row: 150, 300, 100; of the second: 150, 300, 100.
    expected = [[1 / 3, -1 / 3, 1.0], [-30 / 150, -180 / 300, 0.2]]
    np.testing.assert_allclose(pairwise_giou(A, B), expected, rtol=1e-6)


def test_boxes_without_area_overlap_nothing():
    empty = jnp.zeros((1, 4))
    np.testing.assert_array_equal(pairwise_iou(empty, jnp.concatenate([empty, A])), [[0.0, 0.0, 0.0]])
    assert float(elementwise_giou(empty, empty)[0]) == 0.0
    for overlap in (elementwise_iou, elementwise_giou):
        gradient = jax.grad(lambda a, overlap=overlap: overlap(a, empty).sum())(empty)
        assert np.isfinite(gradient).all()


def test_no_boxes():
    assert pairwise_iou(jnp.zeros((0, 4)), B).shape == (0, 3)


def test_bits_are_those_of_a_plain_float32_loop():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 300, (200, 2)).astype(np.float32)
    boxes = np.concatenate([corner, corner + rng.uniform(5, 200, (200, 2)).astype(np.float32)], axis=1)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    size = np.maximum(np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - low, np.float32(0))
    common = size[..., 0] * size[..., 1]
    expected = common / (areas[:, None] + areas[None] - common)
    compiled = jax.jit(pairwise_iou)(jnp.asarray(boxes), jnp.asarray(boxes))
    np.testing.assert_array_equal(compiled, expected)
