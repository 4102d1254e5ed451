"""Resizing and pooling: PyTorch's coordinates and windows, worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.layers.pooling import adaptive_average_pool, adaptive_max_pool, max_pool
from ps_jax.layers.resize import resize_bilinear, resize_nearest


def row(values):
    return jnp.asarray(values, jnp.float32)[None, None, :, None]


def test_nearest():
    np.testing.assert_array_equal(resize_nearest(row([0, 1, 2]), (1, 5))[0, 0, :, 0], [0, 0, 1, 1, 2])
    np.testing.assert_array_equal(resize_nearest(row([0, 1, 2, 3, 4]), (2, 3))[0, 1, :, 0], [0, 1, 3])


@pytest.mark.parametrize(
    ("align_corners", "expected"), [(False, [0, 0.25, 0.75, 1]), (True, [0, 1 / 3, 2 / 3, 1])]
)
def test_bilinear(align_corners, expected):
    resized = resize_bilinear(row([0, 1]), (1, 4), align_corners)
    np.testing.assert_allclose(resized[0, 0, :, 0], expected, rtol=1e-6)


def test_bilinear_does_not_smooth_when_it_shrinks():
    resized = resize_bilinear(row([0, 8, 0, 0, 0, 0]), (1, 2))
    np.testing.assert_allclose(resized[0, 0, :, 0], [8.0, 0.0])  # PyTorch reads cells 1 and 4 alone


def test_same_size_changes_nothing():
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
    for resized in (resize_nearest(x, (5, 7)), resize_bilinear(x, (5, 7)), resize_bilinear(x, (5, 7), True)):
        np.testing.assert_array_equal(resized, x)


def test_bins_that_do_not_divide_evenly_overlap():
    x = row([1, 2, 6, 4, 5])  # bins over 5 cells: 0..1, 1..3, 3..4
    np.testing.assert_allclose(adaptive_average_pool(x, (1, 3))[0, 0, :, 0], [1.5, 4.0, 4.5], rtol=1e-6)
    np.testing.assert_array_equal(adaptive_max_pool(x, (1, 3))[0, 0, :, 0], [2, 6, 5])


def test_adaptive_pools_to_one_cell():
    x = jax.random.normal(jax.random.key(0), (2, 6, 5, 3))
    np.testing.assert_allclose(adaptive_average_pool(x, (1, 1))[:, 0, 0], x.mean((1, 2)), atol=1e-6)
    np.testing.assert_array_equal(adaptive_max_pool(x, (1, 1))[:, 0, 0], x.max((1, 2)))


def test_gradient_of_the_largest_goes_to_the_first():
    gradient = jax.grad(lambda x: adaptive_max_pool(x, (1, 1)).sum())(row([3, 7, 7, 7]))
    np.testing.assert_array_equal(gradient[0, 0, :, 0], [0, 1, 0, 0])


def test_max_pool_pads_with_minus_infinity():
    x = -jnp.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(max_pool(x, 3, 2, 1)[0, :, :, 0], [[-1, -2], [-5, -6]])
