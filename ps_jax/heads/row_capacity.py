"""Expensive work on the rows that exist, not on the padding.

Boxes come in arrays of fixed size of which often only a small part is real. The rows that exist are moved to
the front. Where they do not depend on one another the work is done chunk by chunk, as far as there are any, else (batch
normalisation in training) on the smallest of a few sizes that holds them all: exact, without recompilation, and far
cheaper than working on every slot.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, PyTree

from ps_jax.heads.row_chunks import apply_in_chunks

FRACTIONS = (1 / 4, 1 / 2, 1)  # each costs compilation; training rarely needs more than half
SMALLEST = 16  # below this many rows there is nothing to save
CHUNK = {"cpu": 32}  # rows of a chunk by platform
CHUNK_ELSEWHERE = 128  # fewer would leave an accelerator idle


def capacities(rows: int) -> tuple[int, ...]:
    """The sizes that work on `rows` slots is compiled for: `FRACTIONS` of them, ascending, the last is `rows`."""
    return tuple(sorted({min(rows, max(SMALLEST, int(rows * fraction))) for fraction in FRACTIONS}))


def apply_to_existing_rows(
    function: Callable[..., PyTree],
    module: nn.Module,
    shared: PyTree,
    rows: PyTree,
    valid: Bool[Array, " row"],
    axis_name: str | None = None,
    independent: bool = False,
    sparse: bool = True,
) -> PyTree:
    """Applies a function of a module to the rows that exist.

    The forward pass is repeated in the backward pass, so that memory holds no activations of the work.

    Args:
      function: `function(module, shared, rows, valid)`, pure but for the module's variables, returning a pytree of
        arrays with one entry a row. Rows that are not valid must have no influence on those that are.
      module: the bound Linen module whose submodules `function` calls.
      shared: pytree of arrays that all rows look at.
      rows: pytree of arrays with one entry a row.
      valid: rows that exist.
      axis_name: device axis. Where given, all devices work at the same size, so that `function` may
        communicate over it, unless rows are independent.
      independent: no row's result depends on another row, and no variables are changed; see
        `ps_jax.heads.row_chunks`.
      sparse: often only a part of the rows exist; False spares the compilation for fewer than all of them.

    Returns:
      What `function` returns, in the order of the given rows, zeros where not valid.
    """
    total = valid.shape[0]
    sizes = capacities(total) if sparse else (total,)
    order = jnp.argsort(~valid, stable=True)
    sorted_rows = jax.tree.map(lambda x: x[order], rows)
    sorted_valid = valid[order]

    def at_size(size):
        @nn.remat
        def work(module, shared, rows, valid):
            return function(module, shared, rows, valid)

        def branch(module, shared, rows, valid):
            result = work(module, shared, jax.tree.map(lambda x: x[:size], rows), valid[:size])
            return jax.tree.map(lambda x: jnp.pad(x, ((0, total - size),) + ((0, 0),) * (x.ndim - 1)), result)

        return branch

    if module.is_initializing():  # parameters must be made outside of branches
        result = function(module, shared, sorted_rows, sorted_valid)
    elif independent:
        size = min(total, CHUNK.get(jax.default_backend(), CHUNK_ELSEWHERE))
        result = apply_in_chunks(function, module, shared, sorted_rows, sorted_valid, jnp.sum(valid), size)
    else:
        count = jnp.sum(valid)
        if axis_name is not None:
            count = jax.lax.pmax(count, axis_name)
        choice = jnp.sum(count > jnp.asarray(sizes[:-1]), dtype=jnp.int32)
        branches = [at_size(size) for size in sizes]
        if len(branches) == 1:
            result = branches[0](module, shared, sorted_rows, sorted_valid)
        else:
            result = nn.switch(choice, branches, module, shared, sorted_rows, sorted_valid)
    back = jnp.argsort(order)
    return jax.tree.map(lambda x: jnp.where(valid.reshape((-1,) + (1,) * (x.ndim - 1)), x[back], 0), result)
