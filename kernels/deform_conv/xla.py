"""Deformable convolution in plain JAX: for each tap, sample, weight by the kernel, add."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels._bilinear import sample_with_zeros


def convolve_taps(
    features: Float[Array, "batch height width in_channel"],
    offset: Float[Array, "batch out_height out_width offset_group tap 2"],
    mask: Float[Array, "batch out_height out_width offset_group tap"] | None,
    kernel: Float[Array, "tap_y tap_x group_channel out_channel"],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Float[Array, "batch out_height out_width out_channel"]:
    """The contract of `deform_conv`, arguments checked and in float32, without bias."""
    batch, height, width, channels = features.shape
    out_height, out_width, offset_groups, taps = offset.shape[1:5]
    rows, columns, group_channels, out_channels = kernel.shape
    groups = channels // group_channels

    # Every offset group samples its own block of channels: the block joins the batch axis.
    blocks = features.reshape(batch, height, width, offset_groups, channels // offset_groups)
    blocks = jnp.moveaxis(blocks, 3, 1).reshape(batch * offset_groups, height, width, -1)
    kernels = kernel.reshape(taps, group_channels, groups, out_channels // groups)
    base_y = jnp.arange(out_height, dtype=jnp.float32)[:, None] * stride[0] - padding[0]
    base_x = jnp.arange(out_width, dtype=jnp.float32) * stride[1] - padding[1]

    @jax.checkpoint
    def add_tap(total, tap):
        index, tap_offset, tap_mask, tap_kernel = tap
        tap_offset = jnp.moveaxis(tap_offset, 3, 1).reshape(-1, out_height, out_width, 2)
        y = base_y + (index // columns) * dilation[0] + tap_offset[..., 0]
        x = base_x + (index % columns) * dilation[1] + tap_offset[..., 1]
        sampled = sample_with_zeros(blocks, y, x).reshape(batch, offset_groups, out_height, out_width, -1)
        sampled = jnp.moveaxis(sampled, 1, 3)
        if tap_mask is not None:
            sampled = sampled * tap_mask[..., None]
        sampled = sampled.reshape(batch, out_height, out_width, groups, group_channels)
        part = jnp.einsum("bhwgc,cgo->bhwgo", sampled, tap_kernel)
        return total + part.reshape(total.shape), None

    total = jnp.zeros((batch, out_height, out_width, out_channels), jnp.float32)
    tap_inputs = (
        jnp.arange(rows * columns),
        jnp.moveaxis(offset, 4, 0),
        None if mask is None else jnp.moveaxis(mask, 4, 0),
        kernels,
    )
    return jax.lax.scan(add_tap, total, tap_inputs)[0]
