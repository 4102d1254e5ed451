"""What a training has made, ready to be used."""

import os
from collections.abc import Mapping
from typing import Any

from ps_jax.systems import System, build_system
from ps_jax.training._leaves import check_same_leaves, describe
from ps_jax.training.checkpoints import load_variables
from ps_jax.training.phases import compute_dtype

_COLLECTIONS = ("params", "batch_stats")


def load_system(
    workdir: str | os.PathLike, phase: str | None = None, which: str = "last", **options: Any
) -> tuple[System, dict[str, Any], dict]:
    """The system of a training with its variables, for evaluation and search.

    Args:
      workdir: work directory of a training run, or a model package.
      phase, which: see `load_variables`.
      options: of the system's module, in place of those it was trained with. Without `dtype` it computes as
        `config.precision` of its training says.

    Returns:
      The system, its variables {"params", "batch_stats", "memory"} in host memory, and what was saved beside them.

    Raises:
      CheckpointError: there is no such checkpoint, none can be read, or it is of another version of the model.
      ConfigError: there is no such system or option.
    """
    variables, meta = load_variables(workdir, phase, which)
    dtype = compute_dtype(meta["config"]["precision"])
    system = build_system(meta["system"], {**meta["model"], "dtype": dtype, **options})
    check_same_leaves(
        *(describe(_parts(variables)), describe(_parts(system.template))),
        problem=f"{workdir}: its variables are of another version of the model",
        remedy="Train again, or use the version of ps_jax that made it.",
    )
    return system, variables, meta


def _parts(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {name: variables.get(name, {}) for name in _COLLECTIONS}
