"""Where RoIAlign reads: the cells around all samples of a bin and their weights, axis by axis.

A sample lies between two cells of each axis, and the validity of a sample is a matter of each axis as well, so
a bin is the weighted sum over (vertical tap, horizontal tap) with the product of their weights.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Taps(NamedTuple):
    """What each bin reads, in rows of all levels and images laid end to end.

    Without offsets all bins of a row share their vertical taps and all of a column their horizontal ones: the
    axis named 1 below then has length 1, and else that of the bins.

    Attributes:
      rows_y: i32[roi, out_height, 1, tap], first row of the table that belongs to a row of cells.
      rows_x: i32[roi, 1, out_width, tap], what to add for the column.
      weights_y, weights_x: f32 of the same shapes, 0 where a tap does not count.
      counts_y, counts_x: bool of the same shapes, whether a tap belongs to a sample that counts.
    """

    rows_y: Int[Array, "roi bin_y #bin_x tap"]
    rows_x: Int[Array, "roi #bin_y bin_x tap"]
    weights_y: Float[Array, "roi bin_y #bin_x tap"]
    weights_x: Float[Array, "roi #bin_y bin_x tap"]
    counts_y: Bool[Array, "roi bin_y #bin_x tap"]
    counts_x: Bool[Array, "roi #bin_y bin_x tap"]


class Sampling(NamedTuple):
    """How bins are sampled.

    Attributes:
      output_size: (height, width) in bins.
      max_samples: samples per bin and direction, or their upper bound.
      adaptive: whether their number follows the size of a bin.
      aligned: whether cell centres lie at half cells.
    """

    output_size: tuple[int, int]
    max_samples: int
    adaptive: bool
    aligned: bool


def find_taps(
    shapes: Sequence[tuple[int, ...]],
    boxes: Float[Array, "roi 4"],
    batch_index: Int[Array, " roi"],
    levels: Int[Array, " roi"],
    offsets: Float[Array, "roi bin_y bin_x 2"] | None,
    valid: Bool[Array, " roi"] | None,
    spatial_scales: Sequence[float],
    sampling: Sampling,
) -> Taps:
    """The taps of every bin of every box, with gradients to boxes and offsets through the weights.

    Args:
      shapes: (batch, height, width, ...) of each level.
      boxes: f32[R, 4], `xyxy` in pixels of the image.
      batch_index: i32[R].
      levels: i32[R].
      offsets: f32[R, h, w, 2], pixels (down, right) that each bin is moved by, or None.
      valid: bool[R]; nothing counts for the others. None: all are.
      spatial_scales: feature cells per pixel of each level.
      sampling: how bins are sampled.

    Returns:
      The taps, 2 * max_samples an axis.
    """
    if valid is not None:
        # Whatever stands in padding, also what is no number, must not get into a gradient.
        boxes = jnp.where(valid[:, None], boxes, 0)
        batch_index, levels = jnp.where(valid, batch_index, 0), jnp.where(valid, levels, 0)
        offsets = None if offsets is None else jnp.where(valid[:, None, None, None], offsets, 0)
    first = [sum(math.prod(shape[:3]) for shape in shapes[:level]) for level in range(len(shapes))]
    of_level = [[shape[1] for shape in shapes], [shape[2] for shape in shapes], first]
    height, width, begin = (jnp.asarray(values, jnp.int32)[levels] for values in of_level)
    scale = jnp.asarray(spatial_scales, boxes.dtype)[levels]

    # The barrier keeps the scaled corners rounded before they are subtracted from each other: one bit more or
    # less decides how many samples an adaptive bin has.
    corners = jax.lax.optimization_barrier(boxes * scale[:, None])
    corners = corners - 0.5 if sampling.aligned else corners
    start, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
    size = size if sampling.aligned else jnp.maximum(size, 1.0)
    axes = []
    for xy, length, bins in ((1, height, sampling.output_size[0]), (0, width, sampling.output_size[1])):
        bin_starts, step, count = _bins(start[:, xy], size[:, xy], bins, sampling)
        # Vertical bins vary along axis 1, horizontal ones along axis 2.
        bin_starts = jnp.expand_dims(bin_starts, 2 if xy == 1 else 1)
        if offsets is not None:
            bin_starts = bin_starts + offsets[..., 1 - xy] * scale[:, None, None]
        axes.append((*_axis_taps(bin_starts, step, count, length, sampling.max_samples), count))
    (cells_y, weights_y, counts_y, count_y), (cells_x, weights_x, counts_x, count_x) = axes
    weights_y = weights_y / jnp.maximum(count_y * count_x, 1)[:, None, None, None]
    if valid is not None:
        counts_y = counts_y & valid[:, None, None, None]
        weights_y = jnp.where(counts_y, weights_y, 0)
    first_row = begin + batch_index * height * width
    rows_y = first_row[:, None, None, None] + cells_y * width[:, None, None, None]
    return Taps(rows_y, cells_x, weights_y, weights_x, counts_y, counts_x)


def _bins(start, size, bins, sampling):
    """Of one axis: where each bin begins, [roi, bins]; [roi] distance between samples and their number."""
    # A constant divisor would be turned into a product with its rounded inverse, and the ceiling of 21 / 7
    # would be 4. The compiler cannot see that this one is constant.
    divisor = jnp.where(jnp.isnan(size), 1, jnp.asarray(bins, size.dtype))
    bin_size = size / divisor
    if sampling.adaptive:
        count = jnp.clip(jnp.ceil(jax.lax.stop_gradient(bin_size)), 0, sampling.max_samples)
    else:
        count = jnp.full_like(size, sampling.max_samples)
    starts = start[:, None] + jnp.arange(bins, dtype=size.dtype) * bin_size[:, None]
    return starts, bin_size / jnp.maximum(count, 1), count


def _axis_taps(bin_starts, step, count, length, max_samples):
    """Of one axis: cells, weights and whether they count, [roi, bin_y, bin_x, 2 * max_samples] each."""
    step, count, length = (values[:, None, None, None] for values in (step, count, length))
    sample = jnp.arange(max_samples, dtype=step.dtype)
    position = bin_starts[..., None] + (sample + 0.5) * step
    counts = (position >= -1) & (position <= length) & (sample < count)
    position = jnp.clip(jnp.where(counts, position, 0), 0, (length - 1).astype(step.dtype))
    low = jnp.floor(jax.lax.stop_gradient(position))
    fraction = position - low
    low = low.astype(jnp.int32)
    cells = jnp.concatenate([low, jnp.minimum(low + 1, length - 1)], axis=-1)
    weights = jnp.concatenate([jnp.where(counts, 1 - fraction, 0), jnp.where(counts, fraction, 0)], axis=-1)
    return cells, weights, jnp.concatenate([counts, counts], axis=-1)
