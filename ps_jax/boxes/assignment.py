"""The cheapest one-to-one assignment (Kuhn 1955, "The Hungarian Method for the Assignment Problem")."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

NOBODY = -1
_LARGEST = 1e30  # costs beyond, and what is no number, count as this: sums of costs stay finite


class _Assignment(NamedTuple):
    """What the rows looked at so far have, and the potentials that prove it to be cheapest.

    Attributes:
      row_of: i32[column], its row, or NOBODY.
      column_of: i32[row], its column, or NOBODY.
      row_potential: f32[row].
      column_potential: f32[column]; cost >= sum of both potentials, with equality where they are assigned.
    """

    row_of: Array
    column_of: Array
    row_potential: Array
    column_potential: Array


def assign_one_to_one(cost: Float[Array, "row column"], row_valid: Bool[Array, " row"]) -> Int[Array, " row"]:
    """Gives each valid row a column of its own so that the sum of costs is least.

    Rows are added one after the other by shortest augmenting paths (Crouse 2016, "On Implementing 2D Rectangular
    Assignment Algorithms"). With n valid rows and m columns: at most n^2 steps that each look at all m columns at
    once, O(n^2 m) in all; usually little more than n steps, for most rows find a free column at once. Rows that are
    not valid cost nothing. Under `vmap` all problems step together, as long as the slowest needs.

    The result is that of `scipy.optimize.linear_sum_assignment` on the valid rows, up to ties and the rounding of
    float32. It has no gradient.

    Args:
      cost: f32[row, column]; not finite: as bad as can be.
      row_valid: bool[row], false for padding, anywhere.

    Returns:
      i32[row], the column of each row, -1 for rows that are not valid.

    Raises:
      ValueError: if there are more rows than columns.
    """
    rows, columns = cost.shape
    if rows > columns:
        raise ValueError(
            f"cost has {rows} rows and {columns} columns, wanted at least one column for each row"
        )
    cost = lax.stop_gradient(cost).astype(jnp.float32)
    cost = jnp.clip(jnp.nan_to_num(cost, nan=_LARGEST), -_LARGEST, _LARGEST)
    order = jnp.argsort(~row_valid, stable=True)  # valid rows first: the loop ends after them
    start = _Assignment(
        jnp.full(columns, NOBODY, jnp.int32),
        jnp.full(rows, NOBODY, jnp.int32),
        jnp.zeros(rows, jnp.float32),
        jnp.zeros(columns, jnp.float32),
    )
    count = jnp.sum(row_valid, dtype=jnp.int32)
    return lax.fori_loop(0, count, lambda turn, state: _add_row(cost, order[turn], state), start).column_of


class _Search(NamedTuple):
    """Shortest paths from a new row to all columns, column by column (Dijkstra).

    Attributes:
      row: i32[], whose costs are looked at next.
      distance: f32[], of that row.
      shortest: f32[column], shortest distance known.
      before: i32[column], the row that it comes from.
      reached: bool[column], where that is final.
      column: i32[], the column reached last.
    """

    row: Array
    distance: Array
    shortest: Array
    before: Array
    reached: Array
    column: Array


def _add_row(cost: Array, new_row: Array, state: _Assignment) -> _Assignment:
    """The cheapest assignment with one row more."""
    columns = cost.shape[1]

    def look(search):
        reduced = (
            search.distance + cost[search.row] - state.row_potential[search.row] - state.column_potential
        )
        nearer = ~search.reached & (reduced < search.shortest)
        shortest = jnp.where(nearer, reduced, search.shortest)
        column = jnp.argmin(jnp.where(search.reached, jnp.inf, shortest)).astype(jnp.int32)
        return _Search(
            state.row_of[column],
            shortest[column],
            shortest,
            jnp.where(nearer, search.row, search.before),
            search.reached.at[column].set(True),
            column,
        )

    search = lax.while_loop(
        lambda search: search.row != NOBODY,
        look,
        _Search(
            new_row.astype(jnp.int32),
            jnp.zeros((), jnp.float32),
            jnp.full(columns, jnp.inf, jnp.float32),
            jnp.full(columns, NOBODY, jnp.int32),
            jnp.zeros(columns, bool),
            jnp.zeros((), jnp.int32),
        ),
    )
    ahead = jnp.where(search.reached, search.distance - search.shortest, 0.0)
    # The free column at the end of the path lies 0 ahead; what its missing row would get is dropped.
    owner = jnp.where(search.reached & (state.row_of != NOBODY), state.row_of, cost.shape[0])
    row_potential = state.row_potential.at[owner].add(ahead, mode="drop").at[new_row].add(search.distance)

    def pass_on(walk):
        column, row_of, column_of = walk
        row = search.before[column]
        return column_of[row], row_of.at[column].set(row), column_of.at[row].set(column)

    # Back along the path: each row takes the column behind it; the new row had none.
    _, row_of, column_of = lax.while_loop(
        lambda walk: walk[0] != NOBODY, pass_on, (search.column, state.row_of, state.column_of)
    )
    return _Assignment(row_of, column_of, row_potential, state.column_potential - ahead)
