"""RoIAlign in plain JAX: a gather of the cells around all samples of a box, weighted and summed."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def _axis_taps(start, size, length, bins: int, max_samples: int, adaptive: bool):
    """Cells and weights of one axis.

    Args:
      start: f32[roi], where the box begins, in cells.
      size: f32[roi], its extent in cells.
      length: i32[roi], cells of the map its values come from.
      bins: bins along this axis.
      max_samples: samples per bin, or their upper bound.
      adaptive: whether the number of samples follows the size of a bin.

    Returns:
      i32[roi, bins, 2 * max_samples] cells; f32 weights of the same shape, 0 where a sample does not count;
      f32[roi], the number of samples per bin.
    """
    # A constant divisor would be turned into a product with its rounded inverse, and the ceiling of 21 / 7
    # would be 4. The compiler cannot see that this one is constant.
    divisor = jnp.where(jnp.isnan(size), 1.0, jnp.float32(bins))
    bin_size = size / divisor
    if adaptive:
        count = jnp.clip(jnp.ceil(bin_size), 0, max_samples)
    else:
        count = jnp.full_like(size, max_samples)
    sample = jnp.arange(max_samples, dtype=jnp.float32)
    step = bin_size / jnp.maximum(count, 1)
    position = (
        start[:, None, None]
        + jnp.arange(bins, dtype=jnp.float32)[:, None] * bin_size[:, None, None]
        + (sample + 0.5) * step[:, None, None]
    )
    length = length[:, None, None]
    counts = (position >= -1) & (position <= length) & (sample < count[:, None, None])
    position = jnp.clip(jnp.where(counts, position, 0.0), 0.0, length - 1)
    low = jnp.floor(position).astype(jnp.int32)
    high = jnp.minimum(low + 1, length - 1)
    fraction = position - low
    cells = jnp.concatenate([low, high], axis=-1)
    weights = jnp.concatenate([jnp.where(counts, 1 - fraction, 0), jnp.where(counts, fraction, 0)], axis=-1)
    return cells, weights, count


def _pool_one(flat, cells_y, cells_x, weights_y, weights_x):
    """One box: [cell, channel] features, [bins, taps] cells and weights an axis -> [bins, bins, channel]."""
    patch = flat[cells_y[:, :, None, None] + cells_x]
    weights = weights_y[:, :, None, None] * weights_x
    return jnp.sum(patch * weights[..., None], axis=(1, 3))


def pool_levels(
    features: Sequence[jax.Array],
    boxes: Float[Array, "roi 4"],
    batch_index: Int[Array, " roi"],
    levels: Int[Array, " roi"],
    output_size: tuple[int, int],
    spatial_scales: Sequence[float],
    max_samples: int,
    adaptive: bool,
    aligned: bool,
) -> Float[Array, "roi out_height out_width channel"]:
    """The contract of `multiscale_roi_align`, arguments checked: every box from its own level and image.

    All levels are laid end to end as rows of channels; a box knows where its map begins and how wide it is.
    """
    dtype = features[0].dtype
    channels = features[0].shape[-1]
    flat = jnp.concatenate([level.reshape(-1, channels) for level in features]).astype(jnp.float32)
    rows = [math.prod(level.shape[:3]) for level in features]
    begins = [sum(rows[:index]) for index in range(len(rows))]
    heights, widths = [level.shape[1] for level in features], [level.shape[2] for level in features]
    height, width, begin = (jnp.asarray(values, jnp.int32)[levels] for values in (heights, widths, begins))
    scale = jnp.asarray(spatial_scales, jnp.float32)[levels]

    # The barrier keeps the scaled corners rounded to float32 before they are subtracted from each other: one
    # bit more or less decides how many samples an adaptive bin has.
    corners = jax.lax.optimization_barrier(boxes.astype(jnp.float32) * scale[:, None])
    corners = corners - 0.5 if aligned else corners
    start, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
    size = size if aligned else jnp.maximum(size, 1.0)
    cells_y, weights_y, count_y = _axis_taps(
        start[:, 1], size[:, 1], height, output_size[0], max_samples, adaptive
    )
    cells_x, weights_x, count_x = _axis_taps(
        start[:, 0], size[:, 0], width, output_size[1], max_samples, adaptive
    )
    weights_y = weights_y / jnp.maximum(count_y * count_x, 1)[:, None, None]
    first_row = begin + batch_index * height * width
    cells_y = first_row[:, None, None] + cells_y * width[:, None, None]
    taps = (cells_y, cells_x, weights_y, weights_x)

    def one_by_one(flat, *taps):
        return jax.lax.map(lambda box: _pool_one(flat, *box), taps)

    def all_at_once(flat, *taps):
        return jax.vmap(_pool_one, in_axes=(None, 0, 0, 0, 0))(flat, *taps)

    pooled = jax.lax.platform_dependent(flat, *taps, cpu=one_by_one, default=all_at_once)
    return pooled.astype(dtype)
