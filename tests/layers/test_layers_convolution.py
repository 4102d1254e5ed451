"""Conv and Linear against sums written out in float64, in every form and with gradients; initialisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.layers import Conv, Linear, convolve, kaiming_normal_fan_out, kaiming_uniform, normal


def by_hand(x, kernel, stride, padding, dilation, groups):
    """The definition: every output is a sum over the kernel, in float64."""
    x = np.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    height, width, in_group, features = kernel.shape
    out = [(x.shape[1 + a] - dilation[a] * (kernel.shape[a] - 1) - 1) // stride[a] + 1 for a in (0, 1)]
    result = np.zeros((x.shape[0], *out, features))
    out_group = features // groups
    for i in range(out[0]):
        for j in range(out[1]):
            for group in range(groups):
                window = x[
                    :,
                    i * stride[0] : i * stride[0] + dilation[0] * (height - 1) + 1 : dilation[0],
                    j * stride[1] : j * stride[1] + dilation[1] * (width - 1) + 1 : dilation[1],
                    group * in_group : (group + 1) * in_group,
                ]
                outputs = slice(group * out_group, (group + 1) * out_group)
                result[:, i, j, outputs] = np.einsum("bhwc,hwco->bo", window, kernel[..., outputs])
    return result


# Channels, features, kernel, stride, padding, dilation, groups.
CASES = {
    "dense": (5, 6, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "dense even kernel": (5, 6, (4, 2), (2, 1), (0, 1), (1, 1), 1),
    "pointwise": (5, 6, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "pointwise strided": (5, 6, (1, 1), (2, 3), (0, 0), (1, 1), 1),
    "pointwise padded": (5, 6, (1, 1), (1, 1), (1, 2), (1, 1), 1),
    "patches": (5, 6, (2, 4), (2, 4), (0, 0), (1, 1), 1),
    "wide": (128, 130, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "wide, whole tiles, uneven padding": (128, 128, (3, 3), (1, 1), (0, 2), (1, 1), 1),
    "wide strided dilated": (128, 128, (3, 2), (2, 1), (2, 1), (2, 1), 1),
    "grouped": (6, 4, (3, 3), (2, 2), (1, 1), (1, 1), 2),
    "depthwise": (6, 6, (3, 3), (1, 1), (1, 1), (1, 1), 6),
    "depthwise strided": (6, 6, (3, 3), (2, 2), (1, 1), (1, 1), 6),
    "depthwise 7x7": (6, 6, (7, 7), (1, 1), (3, 3), (1, 1), 6),
    "depthwise uneven": (6, 6, (2, 3), (1, 2), (1, 0), (2, 1), 6),
    "depthwise wide padding": (6, 6, (3, 3), (1, 1), (3, 3), (1, 1), 6),
    "depthwise multiplied": (3, 6, (3, 3), (1, 1), (1, 1), (1, 1), 3),
}


@pytest.mark.parametrize("implementation", ["xla", "matrix"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_form_is_the_sum_over_the_kernel(case, implementation):
    channels, features, size, stride, padding, dilation, groups = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 8, 9, channels))
    kernel = rng.normal(size=(*size, channels // groups, features))
    want = by_hand(x, kernel, stride, padding, dilation, groups)
    weight = rng.normal(size=want.shape)

    def objective(x, kernel):
        result = convolve(
            x,
            kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            implementation=implementation,
        )
        return jnp.sum(result * jnp.asarray(weight, jnp.float32)), result

    arguments = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
    (grad_x, grad_kernel), result = jax.jit(jax.grad(objective, (0, 1), has_aux=True))(*arguments)
    np.testing.assert_allclose(result, want, atol=2e-6 * np.abs(want).max())

    # The convolution is linear in each argument, so a finite difference of any length is exact.
    step_x, step_kernel = rng.normal(size=x.shape), rng.normal(size=kernel.shape)
    along_x = np.sum(by_hand(step_x, kernel, stride, padding, dilation, groups) * weight)
    along_kernel = np.sum(by_hand(x, step_kernel, stride, padding, dilation, groups) * weight)
    scale = np.linalg.norm(grad_x) * np.linalg.norm(step_x)
    assert abs(np.vdot(grad_x, step_x) - along_x) < 1e-6 * scale
    scale = np.linalg.norm(grad_kernel) * np.linalg.norm(step_kernel)
    assert abs(np.vdot(grad_kernel, step_kernel) - along_kernel) < 1e-6 * scale


@pytest.mark.parametrize(
    "name",
    [
        "patches",
        "wide",
        "wide, whole tiles, uneven padding",
        "depthwise",
        "depthwise strided",
        "pointwise strided",
    ],
)
def test_the_forms_have_equal_gradients(name):
    channels, features, size, stride, padding, dilation, groups = CASES[name]
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(2, 8, 9, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*size, channels // groups, features)), jnp.float32)

    def gradients(implementation):
        def f(x, kernel):
            options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
            return convolve(x, kernel, implementation=implementation, **options)

        result, pull = jax.vjp(f, x, kernel)
        return pull(jnp.sin(jnp.arange(result.size, dtype=jnp.float32)).reshape(result.shape))

    for ours, theirs in zip(gradients("matrix"), gradients("xla"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-6 * np.abs(theirs).max())


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="'cudnn', wanted 'xla', 'matrix' or None"):
        convolve(jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 1, 1, 1)), implementation="cudnn")


def test_conv_adds_its_bias_and_computes_in_its_type():
    x = jnp.ones((1, 4, 4, 2))
    layer = Conv(3, 2, stride=2, dtype=jnp.bfloat16)
    variables = {
        "params": {
            "kernel": jnp.ones((2, 2, 2, 3), jnp.float32),
            "bias": jnp.asarray([0.0, 1.0, -2.0], jnp.float32),
        }
    }
    result = layer.apply(variables, x)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result.astype(jnp.float32), np.broadcast_to([8.0, 9.0, 6.0], (1, 2, 2, 3)))


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="groups is 3, wanted a divisor of the 4 input and 6 output"):
        Conv(6, 1, groups=3).init(jax.random.key(0), jnp.zeros((1, 2, 2, 4)))


def test_linear_is_a_matrix_product_with_bias():
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    kernel = np.random.default_rng(1).normal(size=(4, 5))
    variables = {"params": {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.arange(5.0)}}
    result = Linear(5).apply(variables, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(result, x @ kernel + np.arange(5.0), atol=1e-5)


def test_default_initialisation_is_pytorchs():
    """Kernel and bias uniform in +-1/sqrt(fan_in): bound kept, and the variance that belongs to it."""
    conv = Conv(64, 3, groups=2).init(jax.random.key(0), jnp.zeros((1, 4, 4, 32)))["params"]
    linear = Linear(256).init(jax.random.key(1), jnp.zeros((1, 400)))["params"]
    for params, fan_in in ((conv, 9 * 16), (linear, 400)):
        bound = fan_in**-0.5
        for values, tolerance in ((params["kernel"], 0.03), (params["bias"], 0.25)):
            assert np.abs(values).max() <= bound
            assert np.abs(values).max() > 0.9 * bound
            np.testing.assert_allclose(np.var(values), bound**2 / 3, rtol=tolerance)


def test_named_initialisers_have_their_spread():
    key, shape = jax.random.key(0), (3, 3, 32, 64)
    np.testing.assert_allclose(np.std(kaiming_normal_fan_out()(key, shape)), (2 / (9 * 64)) ** 0.5, rtol=0.03)
    np.testing.assert_allclose(
        np.abs(kaiming_uniform(1.0)(key, shape)).max(), (3 / (9 * 32)) ** 0.5, rtol=1e-3
    )
    np.testing.assert_allclose(np.std(normal(0.01)(key, shape, jnp.float32)), 0.01, rtol=0.03)
