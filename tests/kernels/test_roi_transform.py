"""ROI transform: crops worked by hand, against a plain loop in float64, u8, borders, padding, gradients to boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kernels.roi_transform import grid_sample, roi_transform

COUNTING = jnp.arange(20, dtype=jnp.float32).reshape(1, 4, 5, 1)  # value = 5 * row + column


def crop(implementation, image, boxes, batch_index=None, output_size=(2, 2), **options):
    boxes = jnp.asarray(boxes, jnp.float32).reshape(-1, 4)
    batch_index = jnp.zeros(boxes.shape[0], jnp.int32) if batch_index is None else jnp.asarray(batch_index)

    @jax.jit
    def cropped(image, boxes, batch_index):
        return roi_transform(
            *(image, boxes, batch_index), output_size=output_size, implementation=implementation, **options
        )

    return cropped(image, boxes, batch_index)


def slowly(image, boxes, batch_index, output_size, sizes, outside):
    """The contract, pixel by pixel, in float64."""
    result = np.zeros((len(boxes), *output_size, image.shape[3]))
    for roi, i, j in np.ndindex(len(boxes), *output_size):
        left, top, right, bottom = np.asarray(boxes[roi], np.float64)
        y = top + (i + 0.5) / output_size[0] * (bottom - top) - 0.5
        x = left + (j + 0.5) / output_size[1] * (right - left) - 0.5
        height, width = sizes[batch_index[roi]]
        for row in (np.floor(y), np.floor(y) + 1):
            for column in (np.floor(x), np.floor(x) + 1):
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                if 0 <= row < height and 0 <= column < width:
                    result[roi, i, j] += weight * image[batch_index[roi], int(row), int(column)]
                else:
                    result[roi, i, j] += weight * outside
    return result


def problem(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-3, 6, (4, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 9, (4, 2))], axis=1).astype(np.float32)
    image = rng.uniform(0, 255, (2, 7, 8, 3)).astype(np.float32)
    return image, boxes, rng.integers(0, 2, 4).astype(np.int32), np.asarray([[7, 8], [5, 6]], np.int32)


def test_worked_by_hand(implementation):
    # Output pixels of one image pixel each: the crop is the image.
    np.testing.assert_allclose(crop(implementation, COUNTING, [1, 1, 3, 3])[0, :, :, 0], [[6, 7], [11, 12]])
    # Of half a pixel each: centres a quarter of a pixel beside the image's.
    expected = np.asarray([[5 * 0.75 + 0.75, 5 * 0.75 + 1.25], [5 * 1.25 + 0.75, 5 * 1.25 + 1.25]])
    np.testing.assert_allclose(crop(implementation, COUNTING, [1, 1, 2, 2])[0, :, :, 0], expected)
    # The whole image as one pixel, mirrored, and a line.
    whole = crop(implementation, COUNTING, [0, 0, 5, 4], output_size=(1, 1))
    assert float(whole[0, 0, 0, 0]) == 9.5
    mirrored = crop(implementation, COUNTING, [3, 1, 1, 3])
    np.testing.assert_allclose(mirrored[0, :, :, 0], [[7, 6], [12, 11]])
    line = crop(implementation, COUNTING, [2.5, 1, 2.5, 3])
    np.testing.assert_allclose(line[0, :, :, 0], [[7, 7], [12, 12]])


def test_outside_counts_as_it_is_told(implementation):
    corner = [-1, -1, 1, 1]  # three of four pixels outside
    np.testing.assert_allclose(crop(implementation, COUNTING + 3, corner)[0, :, :, 0], [[0, 0], [0, 3]])
    filled = crop(implementation, COUNTING + 3, corner, outside=7.0)
    np.testing.assert_allclose(filled[0, :, :, 0], [[7, 7], [7, 3]])
    half = crop(implementation, COUNTING + 3, [-0.5, 0, 0.5, 1], output_size=(1, 1), outside=7.0)
    assert float(half[0, 0, 0, 0]) == 5.0
    assert not np.any(crop(implementation, COUNTING, [[50, 50, 60, 60], [-9, 0, -5, 4]]))


def test_it_is_a_plain_loop_in_float64(implementation):
    image, boxes, batch_index, sizes = problem(0)
    outside = np.asarray([10.0, 20.0, 30.0], np.float32)
    options = {"image_size": jnp.asarray(sizes), "outside": jnp.asarray(outside)}
    result = crop(implementation, jnp.asarray(image), boxes, batch_index, (3, 4), **options)
    expected = slowly(image, boxes, batch_index, (3, 4), sizes, outside)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-3)
    rounded = image.astype(np.uint8)
    result = crop(implementation, jnp.asarray(rounded), boxes, batch_index, (3, 4), **options)
    assert result.dtype == jnp.float32
    expected = slowly(rounded, boxes, batch_index, (3, 4), sizes, outside)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.uint8])
def test_gradient_to_boxes_is_that_of_differences_in_float64(implementation, dtype):
    image, boxes, batch_index, sizes = problem(1)
    image = jnp.asarray(image).astype(dtype)
    weight = np.random.default_rng(2).standard_normal((4, 3, 4, 3))

    def total(boxes):
        return np.sum(slowly(np.asarray(image), boxes, batch_index, (3, 4), sizes, 9.0) * weight)

    gradient = jax.grad(
        lambda boxes: jnp.sum(
            crop(
                *(implementation, image, boxes, batch_index, (3, 4)),
                image_size=jnp.asarray(sizes),
                outside=9.0,
            )
            * weight
        )
    )(jnp.asarray(boxes))
    expected = np.zeros((4, 4))
    for place in np.ndindex(4, 4):
        step = np.zeros((4, 4))
        step[place] = 1e-6
        expected[place] = (total(boxes + step) - total(boxes - step)) / 2e-6
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=0.02)


def test_float64_is_computed_in_float64():
    with jax.enable_x64(True):
        image, boxes, batch_index, sizes = problem(3)
        image, boxes = jnp.asarray(image / 255, jnp.float64), jnp.asarray(boxes, jnp.float64)
        options = {"output_size": (3, 2), "image_size": jnp.asarray(sizes)}
        cropped = jax.jit(lambda *arrays: roi_transform(*arrays, jnp.asarray(batch_index), **options))
        check_grads(cropped, (image, boxes), 1, ["fwd", "rev"], eps=1e-6, atol=1e-7, rtol=1e-7)


def test_gradient_to_a_float_image(implementation):
    image, boxes, batch_index, _ = problem(4)
    image = jnp.asarray(image / 255)
    weight = jax.random.normal(jax.random.key(0), (4, 3, 4, 3))

    def total(image):
        return jnp.sum(crop(implementation, image, boxes, batch_index, (3, 4)) * weight)

    # Linear in the image: the gradient of one pixel is the change of the sum.
    gradient = jax.grad(total)(image)
    for place in ((0, 3, 4, 1), (1, 2, 2, 0)):
        change = total(image.at[place].add(1.0)) - total(image)
        np.testing.assert_allclose(gradient[place], change, atol=1e-4)


def test_a_crop_is_a_grid_sample(implementation):
    image, boxes, _, _ = problem(5)
    image = jnp.asarray(image[:1] / 255)
    x, y = ((np.arange(count) + 0.5) / count for count in (4, 3))
    x, y = (low + part * (high - low) for part, low, high in ((x, *boxes[0, ::2]), (y, *boxes[0, 1::2])))
    grid = jnp.asarray(np.stack(np.meshgrid(x / 8 * 2 - 1, y / 7 * 2 - 1), axis=-1)[None], jnp.float32)
    sampled = grid_sample(image, grid, align_corners=False, implementation=implementation)
    cropped = crop(implementation, image, boxes[:1], output_size=(3, 4))
    np.testing.assert_allclose(cropped, sampled, atol=2e-6)


def test_no_boxes(implementation):
    assert crop(implementation, COUNTING, np.zeros((0, 4))).shape == (0, 2, 2, 1)
