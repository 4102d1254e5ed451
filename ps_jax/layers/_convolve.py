"""The convolution behind `Conv`: one definition, computed in the form that the platform runs fastest.

XLA's convolutions on a CPU are slow at five things that trunks are full of (float32, two cores):
- depthwise convolutions and their gradients, mostly 10 to 70 times slower than sums of shifted products;
- the kernel gradient of 1x1 convolutions, 6 times slower than a matrix product;
- the gradients of convolutions of patches that lie side by side;
- wide 3x3 convolutions and their gradients, 2 to 5 times slower than the 16 matrix products of `winograd_convolve`;
- the kernel gradient of other wide convolutions, 2 to 4 times slower than a matrix product a kernel entry.
All forms give the same numbers up to rounding; elsewhere XLA's is used.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ps_jax.layers._depthwise import depthwise_convolve
from ps_jax.layers._windows import shifted_windows
from ps_jax.layers._winograd import winograd_convolve

# Below this many channels on either side matrix products are no faster than XLA.
_WIDE = 128


def convolve(
    x: Float[Array, "batch height width channel"],
    kernel: Float[Array, "kernel_height kernel_width channel_in_group features"],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    implementation: str | None = None,
) -> Float[Array, "batch out_height out_width features"]:
    """Convolves as `torch.nn.functional.conv2d` with zero padding.

    Args:
      x: features [batch, height, width, channel].
      kernel: [kernel_height, kernel_width, channel / groups, features].
      stride: step between output positions, (vertical, horizontal) as all sizes.
      padding: zeros on each side.
      dilation: step between kernel entries.
      groups: groups of channels.
      implementation: "xla" is XLA's convolution, "matrix" the forms for float32 on a CPU; None chooses by
        platform and type.

    Returns:
      [batch, out_height, out_width, features] in the type of `x`.

    Raises:
      ValueError: if `implementation` is none of these.
    """
    if implementation is None:
        on_cpu = jax.default_backend() == "cpu" and x.dtype == jnp.float32
        implementation = "matrix" if on_cpu else "xla"
    if implementation not in ("xla", "matrix"):
        raise ValueError(f"implementation is {implementation!r}, wanted 'xla', 'matrix' or None")
    height, width, in_group, features = kernel.shape
    if implementation == "matrix":
        if groups == x.shape[-1] == features and groups > 1:
            return depthwise_convolve(x, kernel, stride, padding, dilation)
        if groups == 1 and (height, width) == (1, 1) and padding == (0, 0):
            return x[:, :: stride[0], :: stride[1]] @ kernel[0, 0]
        if groups == 1 and (height, width) == stride and padding == (0, 0) and dilation == (1, 1):
            return _convolve_patches(x, kernel)
        if groups == 1 and min(in_group, features) >= _WIDE:
            if (height, width) == (3, 3) and stride == dilation == (1, 1):
                return winograd_convolve(x, kernel, padding)
            return _convolve_wide(x, kernel, stride, padding, dilation)
    return _convolve_xla(x, kernel, stride, padding, dilation, groups)


def _convolve_xla(x, kernel, stride, padding, dilation, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=stride,
        padding=[(p, p) for p in padding],
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _convolve_patches(x, kernel):
    """Patches side by side: one matrix product."""
    height, width, channels, features = kernel.shape
    rows, columns = x.shape[1] // height, x.shape[2] // width
    x = x[:, : rows * height, : columns * width]
    patches = x.reshape(-1, rows, height, columns, width, channels).transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(-1, rows, columns, height * width * channels) @ kernel.reshape(-1, features)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve_wide(x, kernel, stride, padding, dilation):
    return _convolve_xla(x, kernel, stride, padding, dilation)


def _convolve_wide_forward(x, kernel, stride, padding, dilation):
    return _convolve_xla(x, kernel, stride, padding, dilation), (x, kernel)


def _convolve_wide_backward(stride, padding, dilation, saved, grad):
    """XLA's for `x`; for the kernel one matrix product per kernel position."""
    x, kernel = saved
    (grad_x,) = jax.vjp(lambda x: _convolve_xla(x, kernel, stride, padding, dilation), x)[1](grad)
    padded = jnp.pad(x, ((0, 0), *((p, p) for p in padding), (0, 0)))
    rows = [
        jnp.stack(
            [
                jnp.einsum("bhwc,bhwo->co", window, grad, preferred_element_type=jnp.float32)
                for window in window_row
            ]
        )
        for window_row in shifted_windows(padded, kernel.shape[:2], grad.shape[1:3], stride, dilation)
    ]
    return grad_x, jnp.stack(rows).astype(kernel.dtype)


_convolve_wide.defvjp(_convolve_wide_forward, _convolve_wide_backward)
