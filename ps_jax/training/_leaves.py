"""A training state as a flat table of named arrays, and back, with a checksum for each."""

import zlib
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from ps_jax.errors import CheckpointError
from ps_jax.training.state import TrainState

SEPARATOR = "/"
LISTED_LEAVES = 20  # differing leaves an error names

Description = dict[str, tuple[tuple[int, ...], str]]  # name -> (shape, dtype)


def _plain(state: TrainState) -> TrainState:
    return state.replace(rng=jax.random.key_data(state.rng))


def _names(tree: Any) -> list[str]:
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [jax.tree_util.keystr(path, simple=True, separator=SEPARATOR) for path, _ in paths]


def flatten_state(state: TrainState) -> dict[str, np.ndarray]:
    """Every leaf of the state on the host, by its path: "params/trunk/conv1/kernel"."""
    plain = _plain(state)
    return dict(zip(_names(plain), jax.device_get(jax.tree.leaves(plain)), strict=True))


def describe(tree: Any) -> Description:
    """Name -> (shape, dtype) of every leaf of a tree of arrays or of their shapes."""
    return {
        name: (tuple(leaf.shape), str(leaf.dtype))
        for name, leaf in zip(_names(tree), jax.tree.leaves(tree), strict=True)
    }


def describe_template(template: TrainState) -> Description:
    """Name -> (shape, dtype) of every leaf a state like `template` (arrays or their shapes) has."""
    return describe(jax.eval_shape(_plain, template))


def check_same_leaves(saved: Description, wanted: Description, problem: str, remedy: str) -> None:
    """Raises CheckpointError, listing the leaves that differ, unless `saved` has exactly those `wanted`."""
    differences = []
    for name in sorted(saved.keys() | wanted.keys()):
        if name not in wanted:
            differences.append(f"{name}: only in the checkpoint")
        elif name not in saved:
            differences.append(f"{name}: only in the model")
        elif saved[name] != wanted[name]:
            (shape, dtype), (own_shape, own_dtype) = saved[name], wanted[name]
            there, here = f"{dtype}{list(shape)}", f"{own_dtype}{list(own_shape)}"
            differences.append(f"{name}: {there} in the checkpoint, {here} in the model")
    if differences:
        listed = "\n  ".join(differences[:LISTED_LEAVES])
        more = len(differences) - LISTED_LEAVES
        raise CheckpointError(
            f"{problem}:\n  {listed}" + (f"\n  and {more} more" if more > 0 else "") + f"\n{remedy}"
        )


def unflatten_state(leaves: dict[str, np.ndarray], template: TrainState) -> TrainState:
    """Puts named leaves back into a state built like `template`."""
    plain = jax.eval_shape(_plain, template)
    state = jax.tree.unflatten(jax.tree.structure(plain), [leaves[name] for name in _names(plain)])
    return state.replace(rng=jax.random.wrap_key_data(state.rng))


def unflatten_variables(leaves: dict[str, Any]) -> dict[str, Any]:
    """The collections a system takes, as nested dictionaries, from a state's named leaves."""
    variables = {
        name: leaf
        for name, leaf in leaves.items()
        if name.split(SEPARATOR)[0] in ("params", "batch_stats", "memory")
    }
    return {"batch_stats": {}, "memory": {}} | traverse_util.unflatten_dict(variables, sep=SEPARATOR)


def checksum(leaf: np.ndarray) -> int:
    """crc32 of an array's bytes in C order."""
    return zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))
