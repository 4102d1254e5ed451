"""Bilinear samples at fractional cells, zeros outside: the four neighbours of a point and their weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from kernels._launch import Mode
from kernels._row_sums import row_sums


class Neighbours(NamedTuple):
    """The cells around each point.

    Attributes:
      rows: i32[..., 4], in the images' cells laid end to end; -1 where the neighbour lies outside.
      weights: f32[..., 4], with gradients to the position of the point; 0 outside.
    """

    rows: Int[Array, "*point 4"]
    weights: Float[Array, "*point 4"]


def find_neighbours(
    y: Float[Array, "*point"],
    x: Float[Array, "*point"],
    image: Int[Array, "*#point"],
    stored: tuple[int, int],
    size: tuple[int | Int[Array, "*#point"], int | Int[Array, "*#point"]] | None = None,
) -> Neighbours:
    """The four cells around each point; each of them that lies outside counts for nothing.

    Args:
      y: f32[...], rows; cell centres are whole numbers.
      x: f32[...], columns.
      image: i32[...], the image that a point lies in, broadcast to the points.
      stored: (height, width) of all images.
      size: (height, width) in which cells count, numbers or broadcast to the points; None: as stored.

    Returns:
      Rows and weights.
    """
    height, width = size or stored
    top, left = jnp.floor(jax.lax.stop_gradient(y)), jnp.floor(jax.lax.stop_gradient(x))
    fraction_y, fraction_x = y - top, x - left
    rows, weights = [], []
    for row, weight_y in ((top, 1 - fraction_y), (top + 1, fraction_y)):
        for column, weight_x in ((left, 1 - fraction_x), (left + 1, fraction_x)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            # Whole numbers before they are multiplied: float32 cannot count the cells of many large images.
            cell = (image * stored[0] + jnp.where(inside, row, 0).astype(jnp.int32)) * stored[1]
            cell += jnp.where(inside, column, 0).astype(jnp.int32)
            rows.append(jnp.where(inside, cell, -1))
            weights.append(jnp.where(inside, weight_y * weight_x, 0))
    return Neighbours(jnp.stack(rows, axis=-1), jnp.stack(weights, axis=-1))


def gather_samples(
    table: Num[Array, "row channel"], neighbours: Neighbours
) -> Float[Array, "*point channel"]:
    """Values at the points, in plain JAX.

    Args:
      table: [N, C], cells of all images; of any type, read before it is converted.
      neighbours: of the points.

    Returns:
      f[..., C], in the type of the weights.
    """
    total = jnp.zeros((), neighbours.weights.dtype)
    for corner in range(4):
        value = table[jnp.maximum(neighbours.rows[..., corner], 0)].astype(total.dtype)
        total = total + value * neighbours.weights[..., corner, None]
    return total


def sum_samples(
    table: Num[Array, "row channel"], neighbours: Neighbours, mode: Mode
) -> Float[Array, "*point channel"]:
    """`gather_samples` by the kernel for sums of rows; whole numbers are converted before."""
    if not jnp.issubdtype(table.dtype, jnp.floating):
        table = table.astype(jnp.float32)
    flat = neighbours.rows.reshape(-1, 4), neighbours.weights.reshape(-1, 4)
    sums = row_sums(table, *flat, dtype=jnp.dtype(jnp.float32), mode=mode)
    return sums.reshape(*neighbours.rows.shape[:-1], table.shape[1])
