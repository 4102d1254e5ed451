"""How much of a trunk is trained: all of it, nothing, its normalisation, or low-rank changes of its linear layers.

Low-rank adaptation (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022) keeps each kernel W
and trains a product A B beside it. The factors are parameters under the name `lora`, in the trunk's own tree, and the
modules know nothing of them: they are applied with W + A B, which is also what the merged trunk holds.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Key, PyTree

from ps_jax.errors import ConfigError

BACKBONE, LORA = "backbone", "lora"  # names in `params`
TUNINGS = ("full", "frozen", "norm", "lora", "lora_linear")
RANK = 1


def check_tuning(tuning: str, variables: Mapping[str, Any]) -> None:
    """Checks that there is such a tuning and that the trunk has what it trains.

    Args:
      tuning: one of `TUNINGS`.
      variables: of the system, arrays or shapes.

    Raises:
      ConfigError: names the option and what would do.
    """
    if tuning not in TUNINGS:
        raise ConfigError(f"backbone_tuning is {tuning!r}. Use one of: {', '.join(TUNINGS)}.")
    if tuning in ("norm", "lora", "lora_linear") and not _linear_kernels(variables["params"][BACKBONE]):
        raise ConfigError(
            f"backbone_tuning is {tuning!r}, but the trunk has neither linear layers nor layer normalisation. "
            "Use a ConvNeXt or Swin trunk, or backbone_tuning 'full' or 'frozen'."
        )


def trained_trunk(tuning: str, trunk: PyTree) -> PyTree:
    """Which parameters of the trunk itself are trained: a tree of bool.

    "full" all, "frozen" and "lora" none, "norm" scale and bias of every layer normalisation, and "lora_linear" the
    linear layers (together with their factors, as SPNet's released code does).
    """
    flat = traverse_util.flatten_dict(trunk)
    norms = {path[:-1] for path in flat if path[-1] == "scale"}
    linears = {path[:-1] for path in _linear_kernels(trunk)}
    trained = {"full": {path[:-1] for path in flat}, "norm": norms, "lora_linear": linears}.get(tuning, set())
    return traverse_util.unflatten_dict({path: path[:-1] in trained for path in flat})


def low_rank_factors(key: Key[Array, ""], trunk: PyTree) -> PyTree:
    """New factors "a" f32[in, 1] and "b" f32[1, out] of every linear kernel, whose product is zero.

    As Microsoft's loralib starts them: a uniform in +-1/sqrt(in), b zero.
    """
    kernels = _linear_kernels(trunk)
    factors = {}
    for number, (path, kernel) in enumerate(kernels.items()):
        features, out = kernel.shape
        bound = features**-0.5
        own_key = jax.random.fold_in(key, number)
        factors[(*path[:-1], "a")] = jax.random.uniform(own_key, (features, RANK), jnp.float32, -bound, bound)
        factors[(*path[:-1], "b")] = jnp.zeros((RANK, out), jnp.float32)
    return traverse_util.unflatten_dict(factors)


def merge_lora(params: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """The parameters with the product of the factors added to the trunk's kernels, and without factors."""
    merged = {part: tree for part, tree in params.items() if part != LORA}
    if LORA in params:
        trunk = traverse_util.flatten_dict(params[BACKBONE])
        factors = traverse_util.flatten_dict(params[LORA])
        for path in (path for path in factors if path[-1] == "a"):
            product = factors[path] @ factors[(*path[:-1], "b")]
            trunk[(*path[:-1], "kernel")] = trunk[(*path[:-1], "kernel")] + product
        merged[BACKBONE] = traverse_util.unflatten_dict(trunk)
    return merged


def _linear_kernels(trunk: PyTree) -> dict[tuple[str, ...], Any]:
    """Kernels [in, out] by their path; those of convolutions have four axes."""
    flat = traverse_util.flatten_dict(trunk)
    return {path: leaf for path, leaf in flat.items() if path[-1] == "kernel" and len(leaf.shape) == 2}
