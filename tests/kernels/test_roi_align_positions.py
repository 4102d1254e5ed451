"""RoIAlign's positions: offsets of bins, gradients to boxes and offsets, padding; against a plain loop in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kernels._implementation import only_form
from kernels.roi_align import multiscale_roi_align, roi_align

COUNTING = jnp.arange(25, dtype=jnp.float32).reshape(1, 5, 5, 1)  # value = 5 * row + column


def slowly(features, boxes, batch_index, offsets, *, output_size, scale, sampling, aligned, bound):
    """The contract, sample by sample, in float64."""
    height, width, channels = features.shape[1:]
    result = np.zeros((len(boxes), *output_size, channels))
    for roi, box in enumerate(np.asarray(boxes, np.float64) * scale - (0.5 if aligned else 0)):
        size = box[2:] - box[:2] if aligned else np.maximum(box[2:] - box[:2], 1)
        bin_w, bin_h = size[0] / output_size[1], size[1] / output_size[0]
        counts = [sampling or int(np.clip(np.ceil(length), 0, bound)) for length in (bin_h, bin_w)]
        for i, j in np.ndindex(*output_size):
            down, right = (0, 0) if offsets is None else np.asarray(offsets[roi, i, j], np.float64) * scale
            for a, b in np.ndindex(*counts):
                y = box[1] + i * bin_h + (a + 0.5) * bin_h / counts[0] + down
                x = box[0] + j * bin_w + (b + 0.5) * bin_w / counts[1] + right
                if -1 <= y <= height and -1 <= x <= width:
                    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
                    top, left = int(y), int(x)
                    bottom, end = min(top + 1, height - 1), min(left + 1, width - 1)
                    image = features[batch_index[roi]]
                    upper = image[top, left] * (left + 1 - x) + image[top, end] * (x - left)
                    lower = image[bottom, left] * (left + 1 - x) + image[bottom, end] * (x - left)
                    value = upper * (top + 1 - y) + lower * (y - top)
                    result[roi, i, j] += value / max(counts[0] * counts[1], 1)
    return result


def problem(seed, rois=3, output_size=(2, 3)):
    """Boxes inside, across the border and outside, and offsets of about a cell."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((2, 6, 7, 2)).astype(np.float32)
    corner = rng.uniform(-6, 8, (rois, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 14, (rois, 2))], 1).astype(np.float32)
    offsets = rng.uniform(-2, 2, (rois, *output_size, 2)).astype(np.float32)
    return features, boxes, rng.integers(0, 2, rois).astype(np.int32), offsets


def pool(implementation, features, boxes, batch_index, offsets, setting):
    arrays = [jnp.asarray(array) for array in (features, boxes, batch_index)]

    @jax.jit
    def pooled(features, boxes, batch_index, offsets):
        return roi_align(
            *(features, boxes, batch_index),
            offsets=offsets,
            output_size=setting["output_size"],
            spatial_scale=setting["scale"],
            sampling_ratio=setting["sampling"],
            aligned=setting["aligned"],
            max_sampling=setting["bound"],
            box_gradient=True,
            implementation=implementation,
        )

    return pooled(*arrays, None if offsets is None else jnp.asarray(offsets))


def differences(function, argument, eps=1e-6):
    """Gradient of a function of one float64 array by central differences."""
    argument = np.asarray(argument, np.float64)
    gradient = np.zeros_like(argument)
    for place in np.ndindex(*argument.shape):
        step = np.zeros_like(argument)
        step[place] = eps
        gradient[place] = (function(argument + step) - function(argument - step)) / (2 * eps)
    return gradient


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_value_and_gradients_are_those_of_a_plain_loop_in_float64(implementation, aligned, sampling):
    setting = {"output_size": (2, 3), "scale": 0.5, "sampling": sampling, "aligned": aligned, "bound": 3}
    for seed in range(3):
        features, boxes, batch_index, offsets = problem(seed)
        weight = np.random.default_rng(9).standard_normal((3, 2, 3, 2)).astype(np.float32)

        def total(boxes, offsets, batch_index=batch_index, weight=weight, features=features):
            return np.sum(slowly(features, boxes, batch_index, offsets, **setting) * weight)

        def pooled(boxes, offsets, features=features, batch_index=batch_index):
            return pool(implementation, features, boxes, batch_index, offsets, setting)

        expected = slowly(features, boxes, batch_index, offsets, **setting)
        result, vjp = jax.vjp(pooled, jnp.asarray(boxes), jnp.asarray(offsets))
        np.testing.assert_allclose(result, expected, atol=2e-6)
        to_boxes, to_offsets = vjp(jnp.asarray(weight))
        by_differences = differences(lambda boxes, fixed=offsets: total(boxes, fixed), boxes)
        np.testing.assert_allclose(to_boxes, by_differences, atol=2e-5)
        by_differences = differences(lambda offsets, fixed=boxes: total(fixed, offsets), offsets)
        assert np.abs(by_differences).max() > 0.05
        np.testing.assert_allclose(to_offsets, by_differences, atol=2e-5)


def test_float64_is_computed_in_float64():
    setting = {"output_size": (2, 3), "scale": 0.5, "sampling": 2, "aligned": True, "bound": None}
    with jax.enable_x64(True):
        features, boxes, batch_index, offsets = problem(5)
        features, boxes, offsets = (array.astype(np.float64) for array in (features, boxes, offsets))
        result = pool("xla", features, boxes, batch_index, offsets, setting)
        assert result.dtype == jnp.float64
        expected = slowly(features, boxes, batch_index, offsets, **setting)
        np.testing.assert_allclose(result, expected, atol=1e-14)
        check_grads(
            jax.jit(lambda *arrays: pool("xla", *arrays[:2], batch_index, arrays[2], setting)),
            (features, boxes, offsets),
            order=1,
            modes=["fwd", "rev"],
            eps=1e-6,
            atol=1e-7,
            rtol=1e-7,
        )


def test_an_offset_moves_its_own_bin(implementation):
    offsets = jnp.zeros((1, 2, 2, 2)).at[0, 0, 1].set(jnp.asarray([1.0, 0.5])).at[0, 1, 0, 1].set(-1.0)
    setting = {"output_size": (2, 2), "scale": 1.0, "sampling": 2, "aligned": False, "bound": None}
    box = jnp.asarray([[1.0, 1.0, 3.0, 3.0]])  # bins of one cell, centres at 1.5 and 2.5
    pooled = pool(implementation, COUNTING, box, [0], offsets, setting)[0, :, :, 0]
    np.testing.assert_allclose(
        pooled, [[5 * 1.5 + 1.5, 5 * 2.5 + 3.0], [5 * 2.5 + 0.5, 5 * 2.5 + 2.5]], rtol=1e-6
    )


def test_offsets_are_pixels_and_equal_ones_move_the_box(implementation):
    features, boxes, batch_index, _ = problem(7)
    setting = {"output_size": (2, 3), "scale": 0.25, "sampling": 2, "aligned": True, "bound": None}
    offsets = np.broadcast_to(np.asarray([2.0, -4.0], np.float32), (3, 2, 3, 2))
    moved = boxes + np.asarray([-4, 2, -4, 2], np.float32)
    by_offsets = pool(implementation, features, boxes, batch_index, offsets, setting)
    np.testing.assert_allclose(
        by_offsets, pool(implementation, features, moved, batch_index, None, setting), atol=2e-6
    )


def test_whole_cells_have_the_gradient_of_their_right_side(implementation):
    # The image rises by 1 left of column 2 and by 3 right of it; the sample is at column 2 exactly.
    features = jnp.asarray([0.0, 1.0, 2.0, 5.0, 8.0]).reshape(1, 1, 5, 1)
    setting = {"output_size": (1, 1), "scale": 1.0, "sampling": 1, "aligned": False, "bound": None}
    offsets = jnp.zeros((1, 1, 1, 2))
    box = jnp.asarray([[1.5, -0.5, 2.5, 0.5]])
    gradient = jax.grad(lambda offsets: pool(implementation, features, box, [0], offsets, setting).sum())(
        offsets
    )
    np.testing.assert_allclose(gradient[0, 0, 0], [0.0, 3.0])


def test_padding_gives_zeros_and_no_gradient_whatever_stands_in_it(implementation):
    features, boxes, batch_index, offsets = problem(8, rois=4)
    boxes[1], boxes[3], offsets[1], batch_index[1] = np.nan, [np.inf, 0, 1, -np.inf], np.nan, -7
    valid = jnp.asarray([True, False, True, False])
    options = {"output_size": (2, 3), "spatial_scale": 0.5, "sampling_ratio": 0, "max_sampling": 3}

    @jax.jit
    def pooled(features, boxes, offsets, batch_index, valid):
        return roi_align(
            *(features, boxes, batch_index),
            **options,
            aligned=True,
            offsets=offsets,
            valid=valid,
            box_gradient=True,
            implementation=implementation,
        )

    arrays = [jnp.asarray(array) for array in (features, boxes, offsets)]
    result, vjp = jax.vjp(lambda *arrays: pooled(*arrays, batch_index, valid), *arrays)
    gradients = vjp(jnp.ones_like(result))
    assert not np.any(result[1::2]) and not np.any(gradients[1][1::2]) and not np.any(gradients[2][1::2])
    arrays[1:] = [array[::2] for array in arrays[1:]]
    alone, vjp = jax.vjp(lambda *arrays: pooled(*arrays, batch_index[::2], valid[::2]), *arrays)
    to_features, *others = vjp(jnp.ones_like(alone))
    np.testing.assert_allclose(result[::2], alone, atol=1e-6)
    np.testing.assert_allclose(gradients[0], to_features, atol=1e-6)
    for together, by_itself in zip(gradients[1:], others, strict=True):
        np.testing.assert_allclose(together[::2], by_itself, atol=1e-6)


@pytest.mark.parametrize("box", [[-90, -90, -50, -40], [40, 2, 60, 5], [2, -9, 5, -3], [6, 6, 6, 6]])
def test_boxes_outside_or_without_size_have_no_gradient(implementation, box):
    setting = {"output_size": (2, 2), "scale": 1.0, "sampling": 0, "aligned": True, "bound": 4}

    def total(features, box):
        return pool(implementation, features, box, [0], None, setting).sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1))(COUNTING, jnp.asarray([box], jnp.float32))
    assert value == 0
    assert not np.any(gradients[0]) and not np.any(gradients[1])


@pytest.mark.parametrize("sampling", [0, 2])
def test_all_plain_forms_are_the_same(sampling):
    features = [jax.random.normal(jax.random.key(i), (2, 16 >> i, 24 >> i, 3)) for i in range(3)]
    corner = jax.random.uniform(jax.random.key(4), (6, 2), maxval=60.0)
    boxes = jnp.concatenate([corner, corner + jax.random.uniform(jax.random.key(5), (6, 2), maxval=60.0)], 1)
    levels, batch_index = jnp.asarray([0, 1, 2, 1, 0, 2]), jnp.asarray([1, 0, 1, 1, 0, 0])
    results = {}
    for form in ("one_by_one", "at_once", "separable"):

        def total(features, boxes):
            return multiscale_roi_align(
                *(features, boxes, batch_index),
                output_size=(4, 3),
                spatial_scales=(1 / 4, 1 / 8, 1 / 16),
                sampling_ratio=sampling,
                aligned=True,
                max_sampling=3,
                levels=levels,
                valid=jnp.arange(6) != 3,
                box_gradient=True,
            )

        with only_form(form):
            result, vjp = jax.vjp(jax.jit(total), features, boxes)
        results[form] = [result, *jax.tree.leaves(vjp(jnp.cos(result)))]
    for form in ("at_once", "separable"):
        for ours, theirs in zip(results[form], results["one_by_one"], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5, err_msg=form)
