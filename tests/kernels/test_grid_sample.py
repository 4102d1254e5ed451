"""Grid sampling: at, on and beyond the border, both conventions, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kernels.roi_transform import grid_sample

IMAGE = jnp.arange(12.0).reshape(1, 3, 4, 1) + 1  # value = 4 * row + column + 1


def at(implementation, x, y, align_corners):
    grid = jnp.asarray([[[[x, y]]]], jnp.float32)
    return float(
        grid_sample(IMAGE, grid, align_corners=align_corners, implementation=implementation)[0, 0, 0, 0]
    )


@pytest.mark.parametrize(
    ("x", "y", "corners", "edges"),
    [
        (0, 0, 6.5, 6.5),  # the middle: row 1, between columns 1 and 2
        (-1, -1, 1, 0.25),  # centre of the first pixel; its outer corner, three quarters of which are outside
        (1, 1, 12, 3.0),
        (-1, 0, 5, 2.5),
        (0, 2, 0, 0),  # a row below the last one
        (3, 0, 0, 0),
    ],
)
def test_worked_by_hand(implementation, x, y, corners, edges):
    assert at(implementation, x, y, True) == pytest.approx(corners)
    assert at(implementation, x, y, False) == pytest.approx(edges)


def test_identity(implementation):
    for align_corners in (True, False):
        end = np.asarray([1 - 1 / 4, 1 - 1 / 3]) if not align_corners else np.ones(2)
        x, y = np.meshgrid(np.linspace(-end[0], end[0], 4), np.linspace(-end[1], end[1], 3))
        grid = jnp.asarray(np.stack([x, y], axis=-1)[None], jnp.float32)
        np.testing.assert_allclose(
            grid_sample(IMAGE, grid, align_corners=align_corners, implementation=implementation),
            IMAGE,
            atol=1e-5,
        )


def test_gradients_by_differences(implementation):
    image = jax.random.normal(jax.random.key(0), (2, 4, 5, 2))
    # Away from the kinks at whole cells.
    cells = jnp.floor(jax.random.uniform(jax.random.key(1), (2, 3, 3, 2), minval=-1, maxval=4)) + 0.4
    grid = (2 * cells + 1) / jnp.asarray([5.0, 4.0]) - 1
    sample = jax.jit(
        lambda image, grid: grid_sample(image, grid, align_corners=False, implementation=implementation)
    )
    check_grads(sample, (image, grid), order=1, modes=["rev"], eps=1e-2)


def test_bfloat16_and_vmap(implementation):
    image = jax.random.normal(jax.random.key(2), (3, 4, 5, 2)).astype(jnp.bfloat16)
    grid = jax.random.uniform(jax.random.key(3), (3, 6, 7, 2), minval=-1.2, maxval=1.2)
    sampled = grid_sample(image, grid, align_corners=False, implementation=implementation)
    assert sampled.dtype == jnp.bfloat16
    exact = grid_sample(image.astype(jnp.float32), grid, align_corners=False, implementation=implementation)
    np.testing.assert_array_equal(sampled, exact.astype(jnp.bfloat16))
    one_by_one = jax.vmap(
        lambda image, grid: grid_sample(
            image[None], grid[None], align_corners=False, implementation=implementation
        )[0]
    )
    np.testing.assert_array_equal(one_by_one(image, grid), sampled)
