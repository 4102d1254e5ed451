"""Deformable convolution: equal to a plain one without offsets, moved taps by hand, groups, gradients.

The same tests for the plain form, the kernel in the interpreter, and the kernel on a GPU where there is one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kernels.deform_conv import deform_conv, tiles


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [((1, 1), (1, 1), (1, 1), 1), ((2, 1), (0, 2), (1, 2), 2), ((1, 2), (2, 0), (2, 1), 4)],
)
def test_without_offsets_it_is_a_convolution(implementation, stride, padding, dilation, groups):
    features, kernel, bias = normal(0, 2, 9, 8, 4), normal(1, 3, 2, 4 // groups, 8), normal(2, 8)
    plain = jax.lax.conv_general_dilated(
        features,
        kernel,
        stride,
        [(pad, pad) for pad in padding],
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    offset = jnp.zeros((*plain.shape[:3], 2 * 6))
    result = deform_conv(
        features,
        offset,
        kernel,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        implementation=implementation,
    )
    np.testing.assert_allclose(result, plain + bias, atol=2e-5)
    halved = deform_conv(
        features,
        offset,
        kernel,
        mask=jnp.full((*plain.shape[:3], 6), 0.5),
        stride=stride,
        padding=padding,
        dilation=dilation,
        implementation=implementation,
    )
    np.testing.assert_allclose(halved, 0.5 * plain, atol=2e-5)


def test_offsets_move_taps_down_and_right(implementation):
    features = jnp.arange(25.0).reshape(1, 5, 5, 1)
    kernel = jnp.ones((1, 1, 1, 1))
    offset = jnp.zeros((1, 5, 5, 2)).at[..., 0].set(1.0).at[..., 1].set(0.5)
    result = deform_conv(features, offset, kernel, implementation=implementation)[0, :, :, 0]
    assert float(result[1, 2]) == 5 * 2 + 2.5
    assert float(result[0, 4]) == 0.5 * 9  # half of the cell at the border, half of the zeros outside
    assert float(result[4, 0]) == 0  # the row below the last one


def test_offset_groups_move_their_own_channels(implementation):
    features = jnp.concatenate([jnp.arange(25.0).reshape(1, 5, 5, 1)] * 2, axis=-1)
    kernel = jnp.asarray([[[[1.0], [100.0]]]])
    offset = jnp.zeros((1, 5, 5, 4)).at[..., 3].set(1.0)  # the second group one column to the right
    result = deform_conv(features, offset, kernel, implementation=implementation)
    assert float(result[0, 2, 2, 0]) == 12 + 100 * 13


def test_order_of_the_taps(implementation):
    features = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2, 0].set(1.0)
    kernel = jnp.arange(6.0).reshape(2, 3, 1, 1)
    # With taps moved back to the place of tap (0, 0), every tap reads cell (2, 2) for output (2, 2); only the
    # tap left alone, row 1 column 2, does not.
    rows, columns = np.divmod(np.arange(6), 3)
    back = np.stack([-rows, -columns], axis=1).astype(np.float32)
    back[5] = 0
    offset = jnp.broadcast_to(jnp.asarray(back.ravel()), (1, 4, 3, 12))
    result = deform_conv(features, offset, kernel, implementation=implementation)
    assert float(result[0, 2, 2, 0]) == 0 + 1 + 2 + 3 + 4
    assert float(result[0, 1, 0, 0]) == 5


def test_gradients_by_differences(implementation):
    arguments = (
        normal(0, 1, 5, 4, 2),
        # Whole numbers are kinks of the interpolation: keep away from them.
        jnp.floor(normal(1, 1, 5, 4, 18)) + 0.2 + 0.6 * jax.random.uniform(jax.random.key(2), (1, 5, 4, 18)),
        normal(3, 3, 3, 2, 2),
        normal(4, 2),
        normal(5, 1, 5, 4, 9),
    )
    check_grads(
        jax.jit(lambda *arguments: deform_conv(*arguments, padding=(1, 1), implementation=implementation)),
        arguments,
        order=1,
        modes=["rev"],
        eps=1e-2,
        atol=2e-2,
        rtol=2e-2,
    )


def test_bfloat16_is_computed_in_float32(implementation):
    features = normal(0, 1, 6, 6, 4).astype(jnp.bfloat16)
    kernel = normal(1, 3, 3, 4, 5).astype(jnp.bfloat16)
    offset = normal(2, 1, 4, 4, 18)
    result = deform_conv(features, offset, kernel, implementation=implementation)
    exact = deform_conv(
        features.astype(jnp.float32), offset, kernel.astype(jnp.float32), implementation=implementation
    )
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": jnp.zeros((1, 4, 4, 17))}, "offset has 17 channels"),
        ({"offset": jnp.zeros((1, 6, 6, 18))}, r"offset is of size \(6, 6\), wanted the output's, \(4, 4\)"),
        ({"mask": jnp.zeros((1, 4, 4, 18))}, r"mask is of shape \(1, 4, 4, 18\), wanted \(1, 4, 4, 9\)"),
        ({"kernel": jnp.zeros((3, 3, 3, 5))}, "kernel has 3 input"),
    ],
)
def test_arguments_are_checked(changes, message):
    arguments = {
        "features": jnp.zeros((1, 6, 6, 4)),
        "offset": jnp.zeros((1, 4, 4, 18)),
        "kernel": jnp.zeros((3, 3, 4, 5)),
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        deform_conv(**arguments)


def test_gradients_in_float64_by_differences():
    with jax.enable_x64(True):
        rng = np.random.default_rng(6)
        arguments = [
            rng.standard_normal((2, 4, 5, 4)),
            rng.uniform(-2.5, 2.5, (2, 2, 5, 2 * 2 * 6)),  # two offset groups; also far outside
            rng.standard_normal((3, 2, 2, 6)),  # two groups of channels
            rng.standard_normal(6),
            rng.uniform(0, 1, (2, 2, 5, 2 * 6)),
        ]
        check_grads(
            jax.jit(
                lambda *arguments: deform_conv(*arguments, padding=(1, 1), stride=(2, 1), dilation=(1, 2))
            ),
            [jnp.asarray(argument) for argument in arguments],
            order=1,
            modes=["rev"],
            eps=1e-6,
            atol=1e-6,
            rtol=1e-6,
        )


def test_tiles_do_not_change_the_result(monkeypatch, implementation):
    features, kernel = normal(0, 2, 5, 6, 4), normal(1, 3, 3, 2, 6)
    offset, mask = normal(2, 2, 5, 6, 2 * 18), normal(3, 2, 5, 6, 2 * 9)
    results = []
    for positions in (60, 7):  # one tile; eight and a half
        monkeypatch.setattr(tiles, "TILE_BYTES", positions * 9 * 4 * 4)

        def convolve(*arrays):
            return deform_conv(*arrays[:3], mask=arrays[3], padding=(1, 1), implementation=implementation)

        result, vjp = jax.vjp(jax.jit(convolve), features, offset, kernel, mask)
        results.append([result, *vjp(jnp.cos(result))])
    for in_one, in_many in zip(*results, strict=True):
        np.testing.assert_allclose(in_many, in_one, rtol=1e-5, atol=1e-5)


def test_no_scene():
    result = deform_conv(jnp.zeros((0, 6, 6, 4)), jnp.zeros((0, 4, 4, 18)), jnp.zeros((3, 3, 4, 5)))
    assert result.shape == (0, 4, 4, 5)


def test_samples_of_all_taps_are_never_held_at_once():
    """The map of AlignPS's neck at 1500 x 900: the samples of its nine taps together would be 587 MB."""
    shapes = (1, 113, 188, 768), (1, 113, 188, 18), (3, 3, 768, 256)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def total(*arrays):
        return jnp.sum(deform_conv(*arrays, padding=(1, 1), implementation="xla") ** 2)

    for function, bound in ((total, 60e6), (jax.grad(total, argnums=(0, 1, 2)), 400e6)):
        memory = jax.jit(function).lower(*arrays).compile().memory_analysis()
        assert memory.temp_size_in_bytes < bound
