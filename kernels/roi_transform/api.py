"""Sampling of images: on a grid of any form, and of boxes to one size (the ROI transform).

Jaderberg et al., Spatial Transformer Networks, 2015; for boxes: Han et al., Re-ID Driven Localization Refinement
for Person Search, 2019, equations 2 and 3.

Layout: image [batch, height, width, channel]; grid f32[batch, out_height, out_width, 2] with the horizontal
coordinate first; boxes f32[roi, 4] `xyxy` in pixels of the stored image, `batch_index` i32[roi] says which image
each lies in; the result is f[batch or roi, out_height, out_width, channel].

Coordinates:
- a grid's -1 and 1 are the two ends of the image. With `align_corners` the ends are the centres of the first and
  last pixel, without it their outer edges;
- a box is a continuous region, the image reaching from 0 to its width and height, and is divided evenly into
  output pixels, each of which is one bilinear sample at its centre. There is no low-pass filter: a box shrunk by
  more than two skips pixels.

Outside the image (for boxes: outside `image_size` of it) each of the four neighbours of a sample counts as zero,
or as `outside`, on its own. Box corners may be swapped (the crop is mirrored) or equal (one line everywhere).

Numbers: positions, weights and sums are float32 (float64 for a float64 image). Gradients go to the grid or the
boxes, and to an image of a float type; at whole pixels, where the interpolation has a kink, that of the right
(lower) side. `grid_sample` has the type of the image and equals PyTorch's with bilinear sampling and zero padding;
`roi_transform` is float32 for any image but a float64 one.

Forms: a gather in plain JAX, or the kernel for sums of rows, for NVIDIA GPUs from Hopper on. The kernel moves 128
channels at a time and pads the image to that: made for feature maps, on a picture with 3 channels it is right
and a waste of memory. Upstream: the kernel is written for Mosaic GPU (`plgpu.kernel`, jax 0.11 or newer), as
Pallas' Triton back end is deprecated since jax 0.11.0.
"""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from kernels._bilinear import find_neighbours, gather_samples, sum_samples
from kernels._implementation import check_implementation, run_form
from kernels._launch import current_mode


def grid_sample(
    image: Float[Array, "batch height width channel"],
    grid: Float[Array, "batch out_height out_width 2"],
    *,
    align_corners: bool,
    implementation: str | None = None,
) -> Float[Array, "batch out_height out_width channel"]:
    """Samples an image at the points of a grid; the contract stands at the top of this file.

    Args:
      image: f[B, H, W, C].
      grid: f32[B, h, w, 2], (horizontal, vertical) in -1 .. 1.
      align_corners: whether -1 and 1 are the centres of the outermost pixels or their outer edges.
      implementation: None (the quickest measured form), "xla" (plain JAX) or "pallas" (the kernel).

    Returns:
      f[B, h, w, C].

    Raises:
      ValueError: if the named implementation cannot run here.
    """
    check_implementation("grid_sample", implementation)
    precise = jnp.promote_types(image.dtype, jnp.float32)
    batch, height, width, channels = image.shape
    length = jnp.asarray([width, height], precise)
    grid = grid.astype(precise)
    position = (grid + 1) / 2 * (length - 1) if align_corners else ((grid + 1) * length - 1) / 2
    which = jnp.arange(batch, dtype=jnp.int32)[:, None, None]
    neighbours = find_neighbours(position[..., 1], position[..., 0], which, (height, width))
    # Converted first, so that the gradient to the image is summed in full.
    table = image.astype(precise).reshape(-1, channels)
    return run_form("grid_sample", implementation, _forms(), table, neighbours).astype(image.dtype)


def roi_transform(
    image: Float[Array, "batch height width channel"] | UInt8[Array, "batch height width channel"],
    boxes: Float[Array, "roi 4"],
    batch_index: Int[Array, " roi"],
    *,
    output_size: tuple[int, int],
    image_size: Int[Array, "batch 2"] | None = None,
    outside: float | Float[Array, " channel"] = 0.0,
    implementation: str | None = None,
) -> Float[Array, "roi out_height out_width channel"]:
    """Crops boxes and resizes them to one size; the contract stands at the top of this file.

    Args:
      image: f or u8[B, H, W, C]; u8 stays what it is, 0 .. 255.
      boxes: f32[R, 4], `xyxy` in pixels of the stored image.
      batch_index: i32[R] in 0 .. B-1.
      output_size: (height, width) of the result.
      image_size: i32[B, 2], (height, width) of each image without its padding, which lies right and below; None:
        there is none.
      outside: what pixels outside count as, in the image's units, one number or one a channel.
      implementation: None (the quickest measured form), "xla" (plain JAX) or "pallas" (the kernel).

    Returns:
      f32[R, output height, output width, C], in the image's units.

    Raises:
      ValueError: if the named implementation cannot run here.
    """
    check_implementation("roi_transform", implementation)
    precise = jnp.promote_types(image.dtype, jnp.float32)
    stored = image.shape[1], image.shape[2]
    boxes = boxes.astype(precise)
    x, y = (
        low[:, None] + (jnp.arange(count, dtype=precise) + 0.5) / count * (high - low)[:, None] - 0.5
        for low, high, count in (
            (boxes[:, 0], boxes[:, 2], output_size[1]),
            (boxes[:, 1], boxes[:, 3], output_size[0]),
        )
    )
    y, x = jnp.broadcast_arrays(y[:, :, None], x[:, None, :])
    size = None
    if image_size is not None:
        height, width = image_size[batch_index].T[:, :, None, None]
        size = (height, width)
    neighbours = find_neighbours(y, x, batch_index[:, None, None], stored, size)
    table = image.reshape(-1, image.shape[3])
    if jnp.issubdtype(image.dtype, jnp.floating):
        table = table.astype(precise)
    sampled = run_form("roi_transform", implementation, _forms(), table, neighbours)
    if isinstance(outside, int | float) and outside == 0:
        return sampled
    in_full = jnp.all(neighbours.rows >= 0, axis=-1, keepdims=True)
    missing = jnp.where(in_full, 0, 1 - jnp.sum(neighbours.weights, axis=-1, keepdims=True))
    return sampled + missing * jnp.asarray(outside, precise)


def _forms():
    return {"gather": gather_samples, "pallas": functools.partial(sum_samples, mode=current_mode())}
