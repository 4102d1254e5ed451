"""Weighted sums of rows of a table, as a kernel: the one pattern below every sampling operation here.

    sums[p] = sum over t of weights[p, t] * table[rows[p, t]]

RoIAlign, bilinear samples and deformable convolution are this with their own rows and weights. So is the
gradient to the table, summed over who reads a row instead of over what is read: the readings are sorted by row,
and the same kernel runs over the sorted list. No two programs write to the same place: there are no atomics,
the result does not depend on any order of execution, and what an interpreter runs is what a GPU runs. The
gradient to the weights is a product of rows with the incoming gradient, a second kernel; positions, boxes and
masks get theirs through the weights, in plain JAX.

What limits it: for each p the rows that are not in a cache are read once and one row is written, so at best the
time of the copy of the result. A row that very many p read is one long sum in the gradient; padding should
therefore read nothing (row -1) instead of all reading the same place.
"""

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from kernels._launch import LANES, Mode, launch

UNROLLED = 4  # rows on their way at the same time
LARGEST_BLOCK = 1024  # channels that one program holds


def row_sums(
    table: Float[Array, "row channel"],
    rows: Int[Array, "sum tap"],
    weights: Float[Array, "sum tap"],
    *,
    dtype: jnp.dtype,
    mode: Mode,
) -> Float[Array, "sum channel"]:
    """Weighted sums of rows; the pattern stands at the top of this file.

    Args:
      table: f[N, C], float32, bfloat16 or float16; channels that do not fill a multiple of 128 are padded.
      rows: i32[P, T], -1 for none; those that count should come first, as a sum stops behind the last one.
      weights: f32[P, T].
      dtype: type of the result; sums are float32.
      mode: where the kernel runs.

    Returns:
      f[P, C]. Gradients go to `table`, in its type, and to `weights`; both are summed in float32.

    Raises:
      ValueError: if the table is of a type that a GPU kernel does not add up in float32.
    """
    if table.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        raise ValueError(f'a kernel sums in float32, the array is {table.dtype}; use implementation="xla"')
    channels = table.shape[1]
    if rows.size == 0:
        return jnp.zeros((rows.shape[0], channels), dtype)
    table = jnp.pad(table, ((0, 0), (0, -channels % LANES)))
    rows = jnp.minimum(rows.astype(jnp.int32), table.shape[0] - 1)  # a kernel must not read beyond the table
    return _row_sums(dtype, mode)(table, rows, weights.astype(jnp.float32))[:, :channels]


def _row_sums(dtype, mode):
    """The function of arrays with its gradients."""

    @jax.custom_vjp
    def sums(table, rows, weights):
        return _forward(dtype, mode)(table, rows, weights)

    def forward(table, rows, weights):
        return sums(table, rows, weights), (table, rows, weights)

    def backward(saved, gradient):
        table, rows, weights = saved
        to_table = _to_table(table.shape[0], table.dtype, mode)(gradient, rows, weights)
        return to_table, None, _to_weights(mode)(gradient, table, rows)

    sums.defvjp(forward, backward)
    return sums


def _forward(dtype, mode):
    """(table [N, C], rows [P, T], weights [P, T]) -> [P, C]."""

    @custom_vmap
    def sums(table, rows, weights):
        taps = rows.shape[1]
        begin = jnp.arange(rows.shape[0], dtype=jnp.int32) * taps
        last = jnp.max(jnp.where(rows >= 0, jnp.arange(1, taps + 1), 0), axis=1, initial=0)
        return _sum_lists(
            table, rows.ravel(), weights.ravel(), begin, begin + last.astype(jnp.int32), dtype, mode
        )

    @sums.def_vmap
    def batched(size, mapped, table, rows, weights):
        rows, weights = (_spread(size, *pair) for pair in ((mapped[1], rows), (mapped[2], weights)))
        if mapped[0]:
            rows = _rows_of_all(rows, table.shape[1])
            table = table.reshape(-1, table.shape[2])
        result = sums(table, rows.reshape(-1, rows.shape[2]), weights.reshape(-1, weights.shape[2]))
        return result.reshape(size, -1, result.shape[1]), True

    return sums


def _to_table(count, dtype, mode):
    """(gradient [P, C], rows [P, T], weights [P, T]) -> [count, C]."""

    @custom_vmap
    def to_table(gradient, rows, weights):
        taps = rows.shape[1]
        key = jnp.where(rows >= 0, rows, count).ravel()  # those that read nothing go to the end
        sizes = jnp.zeros(count + 1, jnp.int32).at[key].add(1)[:-1]
        end = jnp.cumsum(sizes, dtype=jnp.int32)
        _, order = jax.lax.sort((key, jnp.arange(key.size, dtype=jnp.int32)), num_keys=1)
        return _sum_lists(gradient, order // taps, weights.ravel()[order], end - sizes, end, dtype, mode)

    @to_table.def_vmap
    def batched(size, mapped, gradient, rows, weights):
        gradient, rows, weights = (
            _spread(size, *pair) for pair in zip(mapped, (gradient, rows, weights), strict=True)
        )
        rows = _rows_of_all(rows, count)
        flat = (array.reshape(-1, array.shape[2]) for array in (gradient, rows, weights))
        return _to_table(size * count, dtype, mode)(*flat).reshape(size, count, -1), True

    return to_table


def _to_weights(mode):
    """(gradient [P, C], table [N, C], rows [P, T]) -> [P, T]."""

    @custom_vmap
    def to_weights(gradient, table, rows):
        products = _row_products(gradient, table, rows, mode)
        return jnp.where(rows >= 0, products, 0.0)

    @to_weights.def_vmap
    def batched(size, mapped, gradient, table, rows):
        gradient, rows = (_spread(size, *pair) for pair in ((mapped[0], gradient), (mapped[2], rows)))
        if mapped[1]:
            rows = _rows_of_all(rows, table.shape[1])
            table = table.reshape(-1, table.shape[2])
        flat = gradient.reshape(-1, gradient.shape[2]), table, rows.reshape(-1, rows.shape[2])
        return to_weights(*flat).reshape(rows.shape), True

    return to_weights


def _spread(size, mapped, array):
    """An array with the mapped axis in front, whether it had one or not."""
    return array if mapped else jnp.broadcast_to(array, (size, *array.shape))


def _rows_of_all(rows, count):
    """Rows [B, P, T] of B tables of `count` rows each, as rows of one long table."""
    first = jnp.arange(rows.shape[0], dtype=rows.dtype)[:, None, None] * count
    return jnp.where(rows >= 0, rows + first, -1)


def _block(channels):
    """Channels of one program: the largest part of them, in whole 128s, that it can hold."""
    units, most = channels // LANES, LARGEST_BLOCK // LANES
    return LANES * max(unit for unit in range(1, most + 1) if units % unit == 0)


def _sum_lists(source, rows, weights, begin, end, dtype, mode):
    """sums[p] = sum of weights[k] * source[rows[k]] for k in begin[p] .. end[p] - 1, one program a block of p."""
    channels = source.shape[1]
    block = _block(channels)
    blocks = channels // block

    def body(program, source, rows, weights, begin, end, sums):
        place, part = program // blocks, program % blocks
        channel = pl.ds(part * block, block)
        first, last = begin[place], end[place]

        def add(step, total):
            for offset in range(UNROLLED):
                k = first + UNROLLED * step + offset
                inside = k < last
                k = jnp.where(inside, k, first)
                row = rows[k]
                weight = jnp.where(inside & (row >= 0), weights[k], 0.0)
                total += weight * source[jnp.maximum(row, 0), channel].astype(jnp.float32)
            return total

        steps = (last - first + UNROLLED - 1) // UNROLLED
        total = jax.lax.fori_loop(0, steps, add, jnp.zeros((block,), jnp.float32))
        sums[place, channel] = total.astype(sums.dtype)

    count = begin.shape[0]
    result = jax.ShapeDtypeStruct((count, channels), dtype)
    return launch(body, count * blocks, result, source, rows, weights, begin, end, mode=mode)


def _row_products(gradient, table, rows, mode):
    """products[p, t] = sum over channels of gradient[p] * table[rows[p, t]], one program a p."""
    (count, taps), channels = rows.shape, table.shape[1]
    block = _block(channels)

    def body(place, gradient, table, rows, products):
        def multiply(tap, nothing):
            row = jnp.maximum(rows[place, tap], 0)
            total = jnp.zeros((), jnp.float32)
            for start in range(0, channels, block):
                channel = pl.ds(start, block)
                pair = gradient[place, channel].astype(jnp.float32), table[row, channel].astype(jnp.float32)
                total += jnp.sum(pair[0] * pair[1])
            products[place, tap] = total
            return nothing

        jax.lax.fori_loop(0, taps, multiply, 0)

    result = jax.ShapeDtypeStruct((count, taps), jnp.float32)
    return launch(body, count, result, gradient, table, rows, mode=mode)
