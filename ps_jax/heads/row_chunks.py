"""Work on the rows that exist, a fixed number at a time."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Int, PyTree

RNG_STREAM = "stochastic_depth"  # the only one that is drawn from


def apply_in_chunks(
    function: Callable[..., PyTree],
    module: nn.Module,
    shared: PyTree,
    rows: PyTree,
    valid: Bool[Array, " row"],
    count: Int[Array, ""],
    size: int,
) -> PyTree:
    """Applies a function of a module to the first `count` rows, in a loop of as many turns as they need.

    Only for rows that do not depend on one another, and for a function that changes no variables. The forward pass
    is repeated in the backward pass, chunk by chunk; there is no gradient to `rows`. All chunks have the same random
    key: what is drawn for a row must follow from a number among `rows`.

    Args:
      function, module, shared: see `ps_jax.heads.row_capacity.apply_to_existing_rows`.
      rows: pytree of arrays with one entry a row, those that exist in front.
      valid: rows that exist.
      count: how many do.
      size: rows of a chunk.

    Returns:
      What `function` returns, zeros in chunks without a row that exists.
    """
    unbound = module.clone(parent=None)

    def work(variables, shared, rows, valid, key):
        rngs = None if key is None else {RNG_STREAM: key}
        return unbound.apply(variables, shared, rows, valid, method=function, rngs=rngs)

    total = valid.shape[0]
    padding = -total % size
    rows, valid = jax.tree.map(
        lambda x: jnp.pad(x, ((0, padding),) + ((0, 0),) * (x.ndim - 1)), (rows, valid)
    )
    key = module.make_rng(RNG_STREAM) if module.has_rng(RNG_STREAM) else None
    chunks = -(-count // size)
    result = _loop(work, size, module.variables, shared, rows, valid, key, chunks)
    return jax.tree.map(lambda x: x[:total], result)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loop(work, size, variables, shared, rows, valid, key, chunks):
    def at(number):
        return work(variables, shared, *_chunk((rows, valid), number, size), key)

    def turn(number, result):
        return jax.tree.map(
            lambda all_rows, chunk: jax.lax.dynamic_update_slice_in_dim(all_rows, chunk, number * size, 0),
            result,
            at(number),
        )

    empty = jax.tree.map(
        lambda chunk: jnp.zeros((valid.shape[0], *chunk.shape[1:]), chunk.dtype), jax.eval_shape(at, 0)
    )
    return jax.lax.fori_loop(0, chunks, turn, empty)


def _forward(work, size, *arguments):
    return _loop(work, size, *arguments), arguments


def _backward(work, size, arguments, grad):
    variables, shared, rows, valid, key, chunks = arguments

    def turn(number, total):
        def at(variables, shared):
            return work(variables, shared, *_chunk((rows, valid), number, size), key)

        pull = jax.vjp(at, variables, shared)[1]
        return jax.tree.map(jnp.add, total, pull(_chunk(grad, number, size)))

    start = jax.tree.map(jnp.zeros_like, (variables, shared))
    return (*jax.lax.fori_loop(0, chunks, turn, start), None, None, None, None)


_loop.defvjp(_forward, _backward)


def _chunk(tree, number, size):
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, number * size, size), tree)
