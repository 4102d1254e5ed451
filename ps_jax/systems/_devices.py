"""Sums, gathers and numbering over the devices that share a batch; without an axis name, nothing to do."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree


def sum_over_devices(value: Float[Array, "..."], axis_name: str | None) -> Float[Array, "..."]:
    """The sum of every device's value."""
    return value if axis_name is None else jax.lax.psum(value, axis_name)


def gather_rows(tree: PyTree, axis_name: str | None) -> PyTree:
    """The rows of all devices, one after the other in the order of the global batch."""
    if axis_name is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), tree)


def device_count(axis_name: str | None) -> int:
    """How many devices share the batch."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def global_numbers(count: int, axis_name: str | None) -> Int[Array, " count"]:
    """Numbers of this device's `count` scenes in the global batch."""
    local = jnp.arange(count)
    return local if axis_name is None else jax.lax.axis_index(axis_name) * count + local


def numbered_keys(key: Key[Array, ""], count: int, axis_name: str | None = None) -> Key[Array, " count"]:
    """A random key for each of this device's `count` scenes that does not depend on the number of devices.

    Without an axis name one for each of `count` things that have the same number on all devices.
    """
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(global_numbers(count, axis_name))


def mean_over_devices(tree: PyTree, axis_name: str | None) -> PyTree:
    """Means of all leaves over all devices."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)
