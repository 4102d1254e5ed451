"""Deformable convolution: every tap of the kernel reads at its own, learned place.

Without `mask` as Dai et al., Deformable Convolutional Networks, 2017; with it as Zhu et al., Deformable
ConvNets v2, 2019.

Layout, with taps = tap_y * tap_x:
  features f[batch, height, width, in_channel]
  kernel f[tap_y, tap_x, in_channel / groups, out_channel]
  offset f32[batch, out_height, out_width, offset_groups * taps * 2]
  mask f32[batch, out_height, out_width, offset_groups * taps]
  bias f[out_channel]
  result f[batch, out_height, out_width, out_channel]
The last axis of `offset` counts, slowest first, offset group, row of the tap, column of the tap, (vertical,
horizontal): PyTorch's channels in PyTorch's order. Group g of the offsets moves the g-th block of
in_channel / offset_groups input channels.

Coordinates: offsets are in cells of the input, added to the place where a plain convolution with the same
stride, padding and dilation reads. Outside the input there are zeros, each of the four neighbours of a sample
on its own.

Numbers: positions, weights and sums are float32 (float64 for float64 features); the result has the type of the
features. Gradients go to all float inputs. Equal to torchvision's `deform_conv2d`.

Memory: output positions are visited in tiles, and their samples drawn again for the gradient, so no more than the
samples of one tile (16 MB in float32) and what their gradient takes are held, however large the map.

Forms: both go through the same tiles and leave the product with the kernel's weights to XLA; the samples are
gathered in plain JAX, or summed by a kernel for NVIDIA GPUs from Hopper on. Upstream: the kernel is written
for Mosaic GPU (`plgpu.kernel`, jax 0.11 or newer), as Pallas' Triton back end is deprecated since jax 0.11.0.
"""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels._bilinear import gather_samples, sum_samples
from kernels._implementation import check_implementation, run_form
from kernels._launch import current_mode
from kernels.deform_conv.tiles import convolve_tiles


def deform_conv(
    features: Float[Array, "batch height width in_channel"],
    offset: Float[Array, "batch out_height out_width offset_channel"],
    kernel: Float[Array, "tap_y tap_x group_channel out_channel"],
    bias: Float[Array, " out_channel"] | None = None,
    mask: Float[Array, "batch out_height out_width mask_channel"] | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    implementation: str | None = None,
) -> Float[Array, "batch out_height out_width out_channel"]:
    """Deformable convolution; the contract stands at the top of this file.

    The number of groups follows from the channels of `features` and `kernel`, the number of offset groups
    from those of `offset`.

    Args:
      features: f[B, H, W, C].
      offset: f32[B, h, w, offset groups * taps * 2].
      kernel: f[tap rows, tap columns, C / groups, O].
      bias: f[O] or None.
      mask: f32[B, h, w, offset groups * taps], factors of the samples, or None.
      stride: (vertical, horizontal), in cells.
      padding: (vertical, horizontal), in cells, on both sides.
      dilation: (vertical, horizontal), in cells.
      implementation: None (the quickest measured form), "xla" (plain JAX) or "pallas" (the kernel).

    Returns:
      f[B, h, w, O].

    Raises:
      ValueError: if the channels or sizes of the arguments do not fit each other, or if the named implementation
        cannot run here.
    """
    check_implementation("deform_conv", implementation)
    rows, columns, group_channels, out_channels = kernel.shape
    channels = features.shape[-1]
    taps = rows * columns
    groups, rest = divmod(channels, group_channels)
    if rest or out_channels % groups:
        raise ValueError(
            f"kernel has {group_channels} input and {out_channels} output channels a group, which does not "
            f"divide the {channels} channels of features into groups"
        )
    offset_groups, rest = divmod(offset.shape[-1], 2 * taps)
    if rest or offset_groups == 0 or channels % offset_groups:
        raise ValueError(
            f"offset has {offset.shape[-1]} channels, wanted {2 * taps} times a divisor of {channels}"
        )
    out_size = tuple(
        (length + 2 * pad - dilate * (tap - 1) - 1) // step + 1
        for length, pad, dilate, tap, step in zip(
            features.shape[1:3], padding, dilation, (rows, columns), stride, strict=True
        )
    )
    if offset.shape[1:3] != out_size:
        raise ValueError(f"offset is of size {offset.shape[1:3]}, wanted the output's, {out_size}")
    wanted = (*offset.shape[:3], offset_groups * taps)
    if mask is not None and mask.shape != wanted:
        raise ValueError(f"mask is of shape {mask.shape}, wanted {wanted}")
    split = (*offset.shape[:3], offset_groups, taps)
    precise = jnp.promote_types(features.dtype, jnp.float32)
    arrays = (
        features.astype(precise),
        offset.astype(precise).reshape(*split, 2),
        None if mask is None else mask.astype(precise).reshape(split),
        kernel.astype(precise),
    )
    convolve = functools.partial(convolve_tiles, stride=stride, padding=padding, dilation=dilation)
    forms = {
        "gather": functools.partial(convolve, sample=gather_samples),
        "pallas": functools.partial(convolve, sample=functools.partial(sum_samples, mode=current_mode())),
    }
    result = run_form("deform_conv", implementation, forms, *arrays)
    if bias is not None:
        result = result + bias.astype(precise)
    return result.astype(features.dtype)
