"""RoIAlign: a table worked by hand, degenerate boxes, padding, precision, gradients, recompilation.

The same tests for the plain form, the kernel in the interpreter, and the kernel on a GPU where there is one.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kernels.roi_align import assign_levels, multiscale_roi_align, roi_align

COUNTING = jnp.arange(25, dtype=jnp.float32).reshape(1, 5, 5, 1)  # value = 5 * row + column
NONE = jnp.zeros(1, jnp.int32)


@pytest.fixture
def pool(implementation):
    return functools.partial(pooled_by, implementation)


def pooled_by(implementation, features, boxes, batch_index=None, **options):
    boxes = jnp.asarray(boxes, jnp.float32).reshape(-1, 4)
    batch_index = jnp.zeros(boxes.shape[0], jnp.int32) if batch_index is None else jnp.asarray(batch_index)
    settings = {
        "output_size": (4, 4),
        "spatial_scale": 1.0,
        "sampling_ratio": 1,
        "aligned": True,
        "max_sampling": None,
        **options,
        "implementation": implementation,
    }
    return jax.jit(lambda *arrays: roi_align(*arrays, **settings))(features, boxes, batch_index)


@pytest.mark.parametrize(("aligned", "shift"), [(False, 0.0), (True, -0.5)])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
def test_counting_image(pool, aligned, shift, sampling_ratio):
    # Box (1, 1)-(3, 3), 4x4 bins of half a cell, centres 1.25, 1.75, 2.25, 2.75; the image is linear, so the
    # mean over any even grid of samples is the value at the centre of the bin.
    centre = np.asarray([1.25, 1.75, 2.25, 2.75]) + shift
    expected = 5 * centre[:, None] + centre[None, :]
    pooled = pool(COUNTING, [1, 1, 3, 3], aligned=aligned, sampling_ratio=sampling_ratio, max_sampling=1)
    np.testing.assert_allclose(pooled[0, :, :, 0], expected, rtol=1e-6)
    if not aligned:
        np.testing.assert_allclose(pooled[0, 0, :, 0], [7.5, 8.0, 8.5, 9.0])


def test_spatial_scale_and_rectangular_output(pool):
    pooled = pool(COUNTING, [2, 4, 6, 8], spatial_scale=0.5, output_size=(1, 2), aligned=False)
    np.testing.assert_allclose(pooled[0, :, :, 0], [[5 * 3 + 1.5, 5 * 3 + 2.5]])


def test_outside_the_map(pool):
    # Samples at -0.9 and 5.0 take the border's value, those at -1.1 and 5.1 count as zero.
    for start, expected in ((-0.9, 1.0), (-1.1, 0.0), (5.0, 1.0), (5.1, 0.0)):
        box = [start - 0.5, 1.5, start + 0.5, 2.5]
        pooled = pool(jnp.ones((1, 5, 5, 1)), box, output_size=(1, 1), aligned=False)
        assert float(pooled[0, 0, 0, 0]) == pytest.approx(expected), start


@pytest.mark.parametrize("box", [[2, 2, 2, 2], [3, 3, 1, 1], [2, 1, 2, 4]])
def test_empty_box_gives_zeros_and_no_gradient(pool, box):
    def total(features):
        return pool(features, box, sampling_ratio=0, max_sampling=3).sum()

    assert float(total(COUNTING)) == 0
    np.testing.assert_array_equal(jax.grad(total)(COUNTING), jnp.zeros_like(COUNTING))


def test_small_box_is_one_cell_in_the_older_form(pool):
    small = pool(COUNTING, [2, 2, 2.1, 2.1], aligned=False)
    np.testing.assert_array_equal(small, pool(COUNTING, [2, 2, 3, 3], aligned=False))


def test_no_boxes(pool):
    pooled, vjp = jax.vjp(lambda features: pool(features, np.zeros((0, 4))), COUNTING)
    assert pooled.shape == (0, 4, 4, 1)
    np.testing.assert_array_equal(vjp(pooled)[0], jnp.zeros_like(COUNTING))


def test_each_box_reads_its_own_image(pool):
    features = jnp.concatenate([COUNTING, COUNTING + 100, COUNTING + 200])
    box = [1, 1, 3, 3]
    pooled = pool(features, [box] * 3, [2, 0, 1])
    expected = pool(COUNTING, [box])[0]
    for row, image in enumerate((2, 0, 1)):
        np.testing.assert_allclose(pooled[row], expected + 100 * image, rtol=1e-6)


def test_adaptive_number_of_samples_follows_each_bin(pool):
    features = jax.random.normal(jax.random.key(0), (1, 20, 20, 3))
    # Bins of 14 / 7 = 2 cells have 2 samples, those of 21 / 7 = 3 cells have 3, not 4.
    options = {"output_size": (7, 7), "aligned": False}
    square = pool(features, [0, 0, 14, 14], sampling_ratio=0, max_sampling=9, **options)
    fixed = pool(features, [0, 0, 14, 14], sampling_ratio=2, **options)
    np.testing.assert_allclose(square, fixed, atol=1e-6)
    large = pool(features, [-1, -1, 20, 20], sampling_ratio=0, max_sampling=9, **options)
    fixed = pool(features, [-1, -1, 20, 20], sampling_ratio=3, **options)
    np.testing.assert_allclose(large, fixed, atol=1e-6)
    # Beyond the bound: the bound's number of samples, evenly spread.
    bounded = pool(features, [-1, -1, 20, 20], sampling_ratio=0, max_sampling=2, **options)
    fixed = pool(features, [-1, -1, 20, 20], sampling_ratio=2, **options)
    np.testing.assert_allclose(bounded, fixed, atol=1e-6)


def test_result_of_a_box_does_not_depend_on_the_others(pool):
    features = jax.random.normal(jax.random.key(1), (2, 9, 9, 4))
    boxes = np.asarray([[1, 2, 7, 8], [0, 0, 0, 0], [3, 3, 5, 9]])
    together = pool(features, boxes, [0, 0, 1])
    np.testing.assert_array_equal(together[:1], pool(features, boxes[:1], [0]))
    np.testing.assert_array_equal(together[2:], pool(features, boxes[2:], [1]))


def test_bfloat16_accumulates_in_float32(pool):
    features = jax.random.normal(jax.random.key(2), (1, 4, 4, 8)).astype(jnp.bfloat16)
    boxes = [[1, 1, 3, 3]] * 300  # each of four cells is a sample of its own
    options = {"output_size": (1, 1), "sampling_ratio": 2}
    pooled = pool(features, boxes, **options)
    assert pooled.dtype == jnp.bfloat16
    exact = pool(features.astype(jnp.float32), boxes, **options)
    np.testing.assert_array_equal(pooled, exact.astype(jnp.bfloat16))
    gradient = jax.grad(lambda features: pool(features, boxes, **options).astype(jnp.float32).sum())(features)
    assert gradient.dtype == jnp.bfloat16
    # 300 quarters; in bfloat16 the sum would stay at 64.
    expected = np.zeros((1, 4, 4, 8))
    expected[0, 1:3, 1:3] = 75
    np.testing.assert_array_equal(gradient.astype(jnp.float32), expected)


def test_gradients_by_differences(pool):
    features = jax.random.normal(jax.random.key(3), (2, 6, 7, 2))
    boxes = [[-1, 0, 4, 5], [1.3, 2.2, 9, 4.1]]
    check_grads(lambda features: pool(features, boxes, [0, 1]), (features,), order=1, modes=["rev"])


def test_no_gradient_to_boxes():
    def total(boxes):
        return roi_align(
            COUNTING, boxes, NONE, output_size=(2, 2), spatial_scale=1.0, sampling_ratio=2, aligned=True
        ).sum()

    np.testing.assert_array_equal(jax.grad(total)(jnp.asarray([[1.0, 1.0, 3.0, 3.0]])), jnp.zeros((1, 4)))


@pytest.mark.parametrize(("platform", "loops"), [("cpu", True), ("cuda", False)])
def test_only_the_cpu_visits_boxes_in_turn(platform, loops):
    boxes, batch_index = jnp.zeros((3, 4)), jnp.zeros(3, jnp.int32)
    settings = {"output_size": (2, 2), "spatial_scale": 1.0, "sampling_ratio": 2, "aligned": True}
    traced = jax.jit(lambda *arrays: roi_align(*arrays, **settings)).trace(COUNTING, boxes, batch_index)
    assert ("stablehlo.while" in traced.lower(lowering_platforms=(platform,)).as_text()) is loops


def test_vmap_is_a_batch(pool):
    features = jax.random.normal(jax.random.key(7), (3, 8, 8, 2))
    boxes = jax.random.uniform(jax.random.key(8), (3, 5, 4), maxval=8.0)
    one_by_one = jax.jit(jax.vmap(lambda features, boxes: pool(features[None], boxes)))(features, boxes)
    batched = pool(features, boxes.reshape(-1, 4), jnp.repeat(jnp.arange(3), 5))
    np.testing.assert_allclose(one_by_one.reshape(batched.shape), batched, atol=1e-6)


def test_no_recompilation(pool):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def compiled(boxes):
        return pool(COUNTING, boxes, sampling_ratio=0, max_sampling=4)

    for side in (1.0, 3.0, 9.0):
        assert np.isfinite(compiled(jnp.asarray([[0.0, 0.0, side, side]]))).all()


def test_levels_follow_the_size_of_a_box():
    boxes = jnp.asarray(
        [[0, 0, side, side] for side in (10, 111, 112, 223, 224, 447, 448, 2000)], jnp.float32
    )
    levels = assign_levels(boxes, (1 / 4, 1 / 8, 1 / 16, 1 / 32))
    np.testing.assert_array_equal(levels, [0, 0, 1, 1, 2, 2, 3, 3])


def test_levels_of_a_pyramid_are_pooled_each_for_itself(pool):
    features = [jax.random.normal(jax.random.key(i), (2, 32 >> i, 48 >> i, 3)) for i in range(3)]
    scales = (1 / 4, 1 / 8, 1 / 16)
    boxes = [[0, 0, 40, 60], [10, 5, 130, 125], [1, 2, 150, 120], [20, 20, 190, 126]]
    boxes = jnp.asarray(boxes, jnp.float32)
    levels = jnp.asarray([0, 1, 2, 1], jnp.int32)
    batch_index = jnp.asarray([1, 0, 1, 1], jnp.int32)
    options = {"output_size": (3, 2), "sampling_ratio": 2, "aligned": True}
    pooled = jax.jit(
        lambda features: multiscale_roi_align(
            features, boxes, batch_index, spatial_scales=scales, levels=levels, **options
        )
    )(features)
    for row, level in enumerate(levels.tolist()):
        alone = pool(
            features[level],
            boxes[row],
            batch_index[row : row + 1],
            spatial_scale=scales[level],
            **options,
        )
        np.testing.assert_allclose(pooled[row], alone[0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling_ratio": 0}, "max_sampling is None"),
        ({"sampling_ratio": 0, "max_sampling": 0}, "max_sampling is 0"),
        ({"sampling_ratio": -1}, "sampling_ratio is -1"),
        ({"offsets": jnp.zeros((1, 3, 4, 2))}, r"offsets is of shape \(1, 3, 4, 2\), wanted two a bin"),
    ],
)
def test_arguments_are_checked(pool, options, message):
    with pytest.raises(ValueError, match=message):
        pool(COUNTING, [0, 0, 1, 1], **options)
