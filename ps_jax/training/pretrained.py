"""What a phase starts from: the phase before it, or another run's work directory."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from ps_jax.errors import ConfigError
from ps_jax.training.checkpoints import load_variables
from ps_jax.training.workdir import provenance


@dataclass(frozen=True)
class Pretrained:
    """Variables that were trained before, for `System.transfer`.

    Attributes:
      name: where they come from, for messages.
      system: the system that trained them.
      variables: {"params", "batch_stats", "memory"}.
      origin: the other run they come from at first, to be kept with all that is made of them: work directory,
        phase, step and configuration; None where the run began by itself.
    """

    name: str
    system: Any
    variables: Mapping[str, Any]
    origin: dict[str, Any] | None


def load_pretrained(config: ConfigDict, build: Callable[..., Any], dtype: Any) -> Pretrained:
    """What the last phase trained in the work directory that `config.pretrained` names.

    Args:
      config: the configuration of the run that starts from there.
      build: (name, keyword arguments) -> system.
      dtype: of the computation.

    Raises:
      ConfigError: the work directory is of another system, or `config.weights` names a start, too.
      CheckpointError: there is no checkpoint in it, or none can be read.
    """
    workdir = config.pretrained
    if config.weights:
        raise ConfigError(
            f"config.pretrained ({workdir}) and config.weights ({config.weights}) both say what to start from, and "
            "the first has the whole trunk; name one of them"
        )
    variables, meta = load_variables(workdir)
    if meta["system"] != config.system:
        raise ConfigError(
            f"config.pretrained: {workdir} is the work directory of a {meta['system']}, but config.system is "
            f"{config.system}; name one of a {config.system}"
        )
    phase, step, total = meta["phase"], meta["step"], meta["total_steps"]
    logging.info("starting from %s, %s, step %d of %d", workdir, phase, step, total)
    made = provenance(meta)
    origin = {"workdir": str(workdir)} | {key: made[key] for key in ("phase", "checkpoint_step", "config")}
    system = build(meta["system"], {**meta["model"], "dtype": dtype, "axis_name": None})
    return Pretrained(f"config.pretrained ({workdir})", system, variables, origin)


def reid_network_of(workdir: str | os.PathLike, template: Mapping[str, Any]) -> dict[str, Any]:
    """The re-identification network that an RDLR training made.

    Args:
      workdir: its work directory.
      template: the network's variables {"params", "batch_stats"}, or their shapes.

    Returns:
      Its parts, by collection; the classifier only where it is of as many people.

    Raises:
      ConfigError: the work directory is of another system.
      CheckpointError: there is no checkpoint in it, or none can be read.
    """
    variables, meta = load_variables(workdir)
    if meta["system"] != "rdlr":
        raise ConfigError(
            f"{workdir} is the work directory of a {meta['system']}, which has no re-identification network of its "
            "own; name one of an RDLR training"
        )
    network = {name: dict(tree["reid"]) for name, tree in variables.items() if "reid" in tree}
    wanted, found = (params.get("classifier") for params in (template["params"], network["params"]))
    if not (wanted and found and wanted["kernel"].shape == found["kernel"].shape):
        network["params"].pop("classifier", None)
    return network
