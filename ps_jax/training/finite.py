"""Training stops before a value that is not finite reaches a checkpoint."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ps_jax.errors import TrainingError


def check_finite(phase: str, step: int, metrics: Mapping[str, float], last_good: str) -> None:
    """Checks the losses and the gradient norm of a step.

    Args:
      phase: name of the phase, for the message.
      step: number of the step the metrics belong to.
      metrics: its metrics.
      last_good: what to go back to, for the message.

    Raises:
      TrainingError: names step, values and the last good checkpoint.
    """
    bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        _stop(phase, step, bad, last_good)


def check_finite_state(phase: str, step: int, variables: Any, last_good: str) -> None:
    """Checks every variable, as `check_finite` does the metrics; for the moment before a save."""
    bad = [
        f"{jax.tree_util.keystr(path, simple=True, separator='/')} has values that are not finite"
        for path, leaf in jax.tree_util.tree_flatten_with_path(jax.device_get(variables))[0]
        if not np.isfinite(leaf).all()
    ]
    if bad:
        _stop(phase, step, bad[:5], last_good)


def _stop(phase, step, bad, last_good):
    raise TrainingError(
        f"{phase}, step {step}: {'; '.join(bad)}. This state was not saved; {last_good}. "
        f"A lower --config.{phase}.learning_rate, a longer warm-up or --config.precision=float32 may help, "
        "in another --workdir."
    )
