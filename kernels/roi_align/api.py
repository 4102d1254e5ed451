"""RoIAlign (He et al., Mask R-CNN, 2017): a small feature map for each box, by bilinear sampling.

Layout: features f[batch, height, width, channel], boxes f32[roi, 4] `xyxy` in pixels of the image,
`batch_index` i32[roi] says which image each box lies in; the result is f[roi, height, width, channel].

Coordinates: `spatial_scale` feature cells per pixel. A box is divided evenly into `output_size` bins; every
bin is the mean of s x s samples at the centres of an even s x s grid over it.

- `aligned=True`: the centre of feature cell (0, 0) lies at 0.5 * stride, so half a cell is subtracted from
  the scaled box. `aligned=False`, the older form: nothing is subtracted and boxes smaller than one cell are
  made one cell large.
- `sampling_ratio` s > 0 samples, or 0 for as many as the bin has cells, ceil(bin size), in each direction on
  its own. As shapes are static, 0 needs `max_sampling`, an upper bound of that number; in a bin that would
  have more, `max_sampling` samples are spread evenly over the bin.
- `offsets` move bins one by one (deformable RoI pooling, Dai et al., Deformable Convolutional Networks, 2017,
  and the dynamic RoIAlign of LEAPS): all samples of a bin go as many pixels down and to the right.

Outside: a sample less than one cell outside the map takes the value at the border, one further out counts as
zero. A box without size or with swapped corners gives zeros where s is adaptive, and otherwise what the
formula gives. A box that is not `valid` gives zeros and reads nothing.

Numbers: positions and sums are float32 whatever the type of the features (float64 for float64); the result has
their type. Equal to torchvision's `roi_align` up to rounding. Gradients go to the features and the offsets,
and to the boxes where `box_gradient` says so; they too are summed in float32, with the gradient to the
features rounded once to their type. At whole cells, where the interpolation has a kink, the gradient to a
position is that of its right (lower) side.

Forms, all of the same numbers: `xla.py` gathers, box by box or all at once; `separable.py` multiplies
matrices; `pallas.py` is a kernel for NVIDIA GPUs from Hopper on. Upstream: the kernel is written for Mosaic GPU
(`plgpu.kernel`, jax 0.11 or newer), as Pallas' Triton back end is deprecated since jax 0.11.0.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels._implementation import check_implementation, run_form
from kernels._launch import current_mode
from kernels.roi_align._taps import Sampling, find_taps
from kernels.roi_align.pallas import pool_with_kernel
from kernels.roi_align.separable import pool_separably
from kernels.roi_align.xla import pool_at_once, pool_one_by_one


def roi_align(
    features: Float[Array, "batch height width channel"],
    boxes: Float[Array, "roi 4"],
    batch_index: Int[Array, " roi"],
    *,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    max_sampling: int | None = None,
    offsets: Float[Array, "roi out_height out_width 2"] | None = None,
    valid: Bool[Array, " roi"] | None = None,
    box_gradient: bool = False,
    implementation: str | None = None,
) -> Float[Array, "roi out_height out_width channel"]:
    """Pools the features under each box to one size; the contract stands at the top of this file.

    Args:
      features: f[B, H, W, C].
      boxes: f32[R, 4], `xyxy` in pixels of the image.
      batch_index: i32[R] in 0 .. B-1.
      output_size: (height, width) of the result, in bins.
      spatial_scale: feature cells per pixel, 1 / stride.
      sampling_ratio: samples per bin and direction, 0 for as many as the bin has cells.
      aligned: whether cell centres lie at half cells.
      max_sampling: upper bound of the samples per bin and direction, where `sampling_ratio` is 0.
      offsets: f32[R, output height, output width, 2], pixels (down, right) that each bin is moved by; None: 0.
      valid: bool[R], false for padding; None: all are.
      box_gradient: whether gradients go to the boxes.
      implementation: None (the quickest measured form), "xla" (plain JAX) or "pallas" (the kernel).

    Returns:
      f[R, output height, output width, C].

    Raises:
      ValueError: if `sampling_ratio` is negative, or 0 without a `max_sampling` of at least 1, if `offsets` are
        not two a bin, or if the named implementation cannot run here.
    """
    return multiscale_roi_align(
        [features],
        boxes,
        batch_index,
        output_size=output_size,
        spatial_scales=[spatial_scale],
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        max_sampling=max_sampling,
        levels=jnp.zeros(boxes.shape[0], jnp.int32),
        offsets=offsets,
        valid=valid,
        box_gradient=box_gradient,
        implementation=implementation,
    )


def multiscale_roi_align(
    features: Sequence[jax.Array],
    boxes: Float[Array, "roi 4"],
    batch_index: Int[Array, " roi"],
    *,
    output_size: tuple[int, int],
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
    max_sampling: int | None = None,
    levels: Int[Array, " roi"] | None = None,
    offsets: Float[Array, "roi out_height out_width 2"] | None = None,
    valid: Bool[Array, " roi"] | None = None,
    box_gradient: bool = False,
    implementation: str | None = None,
) -> Float[Array, "roi out_height out_width channel"]:
    """`roi_align` from one level of a pyramid for each box, as torchvision's MultiScaleRoIAlign.

    Args:
      features: the levels, fine to coarse, each f[B, H, W, C] with the same B, C and type.
      boxes: f32[R, 4], `xyxy` in pixels of the image.
      batch_index: i32[R] in 0 .. B-1.
      output_size: (height, width) of the result, in bins.
      spatial_scales: feature cells per pixel of each level.
      sampling_ratio: samples per bin and direction, 0 for as many as the bin has cells.
      aligned: whether cell centres lie at half cells.
      max_sampling: upper bound of the samples per bin and direction, where `sampling_ratio` is 0.
      levels: i32[R], the level of each box; default: `assign_levels(boxes, spatial_scales)`.
      offsets: f32[R, output height, output width, 2], pixels (down, right) that each bin is moved by; None: 0.
      valid: bool[R], false for padding; None: all are.
      box_gradient: whether gradients go to the boxes.
      implementation: None (the quickest measured form), "xla" (plain JAX) or "pallas" (the kernel).

    Returns:
      f[R, output height, output width, C].

    Raises:
      ValueError: as `roi_align`, and if there is not one scale a level.
    """
    check_implementation("roi_align", implementation)
    if len(features) != len(spatial_scales):
        raise ValueError(f"features has {len(features)} levels, spatial_scales has {len(spatial_scales)}")
    if sampling_ratio < 0:
        raise ValueError(f"sampling_ratio is {sampling_ratio}, wanted 0 (adaptive) or a positive number")
    adaptive = sampling_ratio == 0
    max_samples = (max_sampling or 0) if adaptive else sampling_ratio
    if max_samples < 1:
        raise ValueError(
            f"max_sampling is {max_sampling}, wanted 1 or more as sampling_ratio is 0: it bounds the samples"
        )
    if offsets is not None and offsets.shape != (wanted := (boxes.shape[0], *output_size, 2)):
        raise ValueError(f"offsets is of shape {offsets.shape}, wanted two a bin, {wanted}")
    if levels is None:
        levels = assign_levels(boxes, spatial_scales)
    dtype = features[0].dtype
    precise = jnp.promote_types(dtype, jnp.float32)
    taps = find_taps(
        [level.shape for level in features],
        (boxes if box_gradient else jax.lax.stop_gradient(boxes)).astype(precise),
        batch_index,
        levels,
        None if offsets is None else offsets.astype(precise),
        valid,
        spatial_scales,
        Sampling(output_size, max_samples, adaptive, aligned),
    )
    forms: dict[str, Callable[..., jax.Array]] = {
        "one_by_one": lambda features, taps: pool_one_by_one(_table(features, precise), taps),
        "at_once": lambda features, taps: pool_at_once(_table(features, precise), taps),
        "pallas": functools.partial(_pool_with_kernel, mode=current_mode()),
    }
    if offsets is None:
        forms["separable"] = lambda features, taps: pool_separably(
            [level.astype(precise) for level in features], taps
        )
    return run_form("roi_align", implementation, forms, list(features), taps).astype(dtype)


def _table(features, dtype):
    """All levels laid end to end as rows of channels."""
    return jnp.concatenate([level.reshape(-1, level.shape[-1]) for level in features]).astype(dtype)


def _pool_with_kernel(features, taps, mode):
    # The kernel reads the type of the features; a gradient to them is rounded once.
    dtype = features[0].dtype
    return pool_with_kernel(_table(features, dtype), taps, dtype, mode).astype(
        jnp.promote_types(dtype, jnp.float32)
    )


def assign_levels(
    boxes: Float[Array, "roi 4"],
    spatial_scales: Sequence[float],
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> Int[Array, " roi"]:
    """The pyramid level each box is pooled from (Lin et al., Feature Pyramid Networks, 2017, equation 1).

    Args:
      boxes: f32[R, 4], `xyxy` in pixels of the image.
      spatial_scales: feature cells per pixel of each level, falling by factors of two.
      canonical_size: side in pixels of a square box that belongs to `canonical_level`.
      canonical_level: counts in powers of two of the stride: 4 is the level of stride 16.

    Returns:
      i32[R], index into `spatial_scales`.
    """
    finest = round(-math.log2(spatial_scales[0]))
    coarsest = round(-math.log2(spatial_scales[-1]))
    side = jnp.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    # As torchvision: a small number keeps a side that is an exact power of two on its own level.
    level = jnp.floor(canonical_level + jnp.log2(side / canonical_size) + 1e-6)
    return (jnp.clip(level, finest, coarsest) - finest).astype(jnp.int32)
