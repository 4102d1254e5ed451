"""One-to-one assignment against SciPy's, on random problems with padding, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from ps_jax.boxes import assign_one_to_one

solve = jax.jit(assign_one_to_one)
solve_all = jax.jit(jax.vmap(assign_one_to_one))


def test_the_dearest_row_is_not_served_first():
    """Row 0 gives up its best column to row 1, which gives up its own to row 2: 1 + 2 + 3, not 0 + 1 + 9."""
    cost = jnp.array([[0.0, 1.0, 9.0, 9.0], [1.0, 9.0, 2.0, 9.0], [3.0, 9.0, 9.0, 9.0]])
    np.testing.assert_array_equal(solve(cost, jnp.ones(3, bool)), [1, 2, 0])
    np.testing.assert_array_equal(solve(cost, jnp.array([True, False, False])), [0, -1, -1])
    np.testing.assert_array_equal(solve(cost, jnp.array([True, False, True])), [1, -1, 0])
    np.testing.assert_array_equal(solve(cost, jnp.zeros(3, bool)), [-1, -1, -1])


def test_more_rows_than_columns_are_refused():
    with pytest.raises(ValueError, match="cost has 3 rows and 2 columns"):
        assign_one_to_one(jnp.zeros((3, 2)), jnp.ones(3, bool))


def test_costs_that_are_no_numbers_end_the_search_all_the_same():
    cost = jnp.full((3, 4), jnp.nan).at[1, 2].set(1.0).at[2].set(-jnp.inf)
    columns = np.asarray(solve(cost, jnp.ones(3, bool)))
    assert columns[1] == 2 and len(set(columns.tolist())) == 3


def test_many_problems_step_together_and_have_no_gradient():
    cost = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 6)), jnp.float32)
    valid = jnp.arange(4) < jnp.array([[0], [4], [2]])
    together = solve_all(cost, valid)
    for row in range(3):
        np.testing.assert_array_equal(together[row], solve(cost[row], valid[row]))

    def total(cost):
        columns = assign_one_to_one(cost[1], valid[1])
        return jnp.sum(jnp.take_along_axis(cost[1], columns[:, None], axis=1))

    assert jnp.sum(jax.grad(total)(cost)) == 4  # of the chosen entries alone


def _problems(rng, count, rows, columns):
    """Costs of four kinds, with padding anywhere that holds whatever it likes."""
    kinds = [
        rng.normal(size=(count, rows, columns)),
        rng.uniform(0, 1e3, (count, rows, columns)),
        rng.integers(-3, 4, (count, rows, columns)),  # many ties
        rng.uniform(0, 1, (count, rows, 1)) * rng.uniform(0, 1, (count, 1, columns)),  # long paths
    ]
    cost = np.choose(np.arange(count)[:, None, None] % 4, kinds).astype(np.float32)
    valid = rng.random((count, rows)) < rng.random((count, 1))
    return np.where(valid[..., None], cost, rng.choice([np.nan, -1e9, 0.0], cost.shape)), valid


def _check(seed, count, rows, columns):
    cost, valid = _problems(np.random.default_rng(seed), count, rows, columns)
    found = np.asarray(solve_all(jnp.asarray(cost, jnp.float32), jnp.asarray(valid)))
    for one, own, columns_found in zip(cost, valid, found, strict=True):
        assert np.all(columns_found[~own] == -1)
        theirs = one[own].astype(np.float64)
        best = theirs[linear_sum_assignment(theirs)].sum()
        chosen = columns_found[own]
        assert len(set(chosen.tolist())) == own.sum() and np.all(chosen >= 0)
        ours = theirs[np.arange(own.sum()), chosen].sum()
        np.testing.assert_allclose(ours, best, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(theirs).max(initial=0)))


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (8, 30), (1, 1)])
def test_sums_of_costs_are_scipys(rows, columns):
    _check(0, 200, rows, columns)


@pytest.mark.slow
def test_sums_of_costs_are_scipys_on_ten_thousand_problems():
    for turn in range(10):
        _check(turn + 1, 1000, *[(16, 30), (32, 100), (12, 12), (5, 40), (20, 21)][turn % 5])
