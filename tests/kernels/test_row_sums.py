"""Sums of rows: against einsum, in both interpreters, lowered for a GPU, types, lists of any length, vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels._launch import kernel_mode, launch, why_not
from kernels._row_sums import row_sums

with kernel_mode("interpret"):
    pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


def plainly(table, rows, weights):
    rows = jnp.asarray(rows)
    counted = jnp.where(rows >= 0, weights, 0)
    return jnp.einsum("ptc,pt->pc", jnp.asarray(table)[jnp.maximum(rows, 0)], counted)


def problem(seed, count, sums, taps, channels, *batch):
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((*batch, count, channels)).astype(np.float32)
    rows = rng.integers(-1, count, (*batch, sums, taps)).astype(np.int32)
    return table, rows, rng.standard_normal((*batch, sums, taps)).astype(np.float32)


def by_kernel(mode):
    def sums(table, *others):
        table = jnp.asarray(table)
        return row_sums(table, *map(jnp.asarray, others), dtype=table.dtype, mode=mode)

    return sums


# A channel, less than one unit of 128, more than one block of 1024; three taps are no multiple of what is unrolled.
@pytest.mark.parametrize(("taps", "channels"), [(1, 1), (3, 130), (6, 2200)])
def test_sums_and_gradients(taps, channels):
    table, rows, weights = problem(0, 11, 9, taps, channels)
    rows[4] = -1  # a sum of nothing
    results = []
    for function in (by_kernel("interpret"), plainly):
        result, vjp = jax.vjp(
            jax.jit(lambda table, weights, function=function: function(table, rows, weights)), table, weights
        )
        results.append((result, *vjp(jnp.cos(result))))
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-4 if channels > 1000 else 1e-5)
    assert not np.any(results[0][0][4])


def test_the_interpreter_of_mosaic_agrees_and_finds_no_race():
    """Slow, and so small: what a GPU runs, forward and both gradients, statement by statement."""
    table, rows, weights = problem(1, 4, 3, 5, 2)
    results = []
    for function in (by_kernel("mosaic_interpret"), plainly):
        result, vjp = jax.vjp(lambda *arrays, f=function: f(arrays[0], rows, arrays[1]), table, weights)
        results.append((result, *vjp(jnp.cos(result))))
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_summed_in_float32(dtype):
    table, rows, weights = problem(2, 5, 600, 4, 3)
    table = jnp.asarray(table, dtype)
    result, vjp = jax.vjp(lambda table: by_kernel("interpret")(table, rows, weights), table)
    exact, exact_vjp = jax.vjp(lambda table: plainly(table, rows, weights), table.astype(jnp.float32))
    unit = float(jnp.finfo(dtype).eps)
    assert result.dtype == dtype
    np.testing.assert_allclose(result.astype(jnp.float32), exact, rtol=unit, atol=1e-6)
    (gradient,), (expected,) = vjp(jnp.ones_like(result)), exact_vjp(jnp.ones_like(exact))
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient.astype(jnp.float32), expected, rtol=unit, atol=1e-4)


def test_a_row_beyond_the_table_is_its_last_one():
    table, rows, weights = problem(3, 4, 2, 2, 2)
    rows[0, 0] = 99
    result = by_kernel("interpret")(jnp.asarray(table), rows, weights)
    np.testing.assert_allclose(result, plainly(table, np.minimum(rows, 3), weights), rtol=1e-6)


@pytest.mark.parametrize("axes", [(0, 0, 0), (None, 0, None), (0, None, None), (None, 0, 0)])
def test_vmap_of_the_gradient_and_gradient_of_the_vmap(axes):
    arrays = problem(4, 6, 5, 4, 3, 2)
    arrays = [jnp.asarray(array if axis == 0 else array[0]) for array, axis in zip(arrays, axes, strict=True)]

    def gradient_of_each(function):
        total = jax.grad(lambda *arrays: jnp.sum(function(*arrays) ** 2), argnums=(0, 2))
        return jax.vmap(total, axes)(*arrays)

    def gradient_of_all(function):
        mapped = jax.vmap(function, axes)
        return jax.grad(lambda *arrays: jnp.sum(mapped(*arrays) ** 2), argnums=(0, 2))(*arrays)

    for gradient in (gradient_of_each, gradient_of_all):
        for ours, expected in zip(gradient(by_kernel("interpret")), gradient(plainly), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-4)


def test_the_same_every_time():
    table, rows, weights = problem(5, 3, 200, 4, 5)
    gradient = jax.jit(jax.grad(lambda table: jnp.sum(by_kernel("interpret")(table, rows, weights) ** 2)))
    np.testing.assert_array_equal(gradient(table), gradient(table))


# Channels of SPNet's, SeqNet's, AlignPS's and RDLR's maps, and some that have to be padded or split.
@pytest.mark.parametrize("channels", [1, 96, 128, 192, 256, 384, 768, 1024, 1152, 2048])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_lowers_for_a_gpu(channels, dtype):
    shapes = [((5358, channels), dtype), ((25088, 16), jnp.int32), ((25088, 16), jnp.float32)]
    arrays = [jax.ShapeDtypeStruct(*shape) for shape in shapes]

    def total(*arrays):
        return jnp.sum(by_kernel("lower")(*arrays).astype(jnp.float32) ** 2)

    text = jax.jit(by_kernel("lower")).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("mosaic_gpu_v2") == 1
    gradient = jax.jit(jax.value_and_grad(total, argnums=(0, 2)))
    text = gradient.trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("mosaic_gpu_v2") == 3  # forward, to the table, to the weights


def test_float64_is_refused():
    with (
        jax.enable_x64(True),
        pytest.raises(ValueError, match="a kernel sums in float32, the array is float64"),
    ):
        row_sums(
            jnp.zeros((2, 2), jnp.float64),
            jnp.zeros((1, 1), jnp.int32),
            jnp.zeros((1, 1)),
            dtype=jnp.dtype(jnp.float32),
            mode="interpret",
        )


def test_nothing_to_do():
    empty = jax.ShapeDtypeStruct((0, 3), jnp.float32)
    assert launch(lambda *refs: None, 0, empty, mode="gpu").shape == (0, 3)
    assert by_kernel("gpu")(jnp.ones((2, 3)), jnp.zeros((4, 0), jnp.int32), jnp.zeros((4, 0))).shape == (4, 3)
