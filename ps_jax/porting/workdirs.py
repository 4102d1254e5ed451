"""A checkpoint as a work directory that evaluation and fine-tuning take, and a work directory as a checkpoint."""

import dataclasses
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import traverse_util
from ml_collections import ConfigDict

from ps_jax.errors import ConfigError, PortingError
from ps_jax.porting.rules import Rule, match_rules, restore_tensors
from ps_jax.porting.sources import Source, source_of
from ps_jax.porting.tensors import read_tensors
from ps_jax.porting.torch_files import read_state_dict
from ps_jax.porting.torch_writing import write_torch_file
from ps_jax.systems import System, build_system
from ps_jax.training import TrainState, load_variables
from ps_jax.training.checkpoints import Checkpoints, has_checkpoints
from ps_jax.training.workdir import claim_workdir, plain_config

PHASE = "ported"  # of a work directory made here
REST = "rest.pth"  # beside its checkpoints: what the variables do not give back


def port_checkpoint(
    path: str | Path,
    config: ConfigDict,
    workdir: str | Path,
    fixed: Collection[str] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
) -> System:
    """Makes a work directory of a PyTorch checkpoint.

    Args:
      path: the checkpoint, see `read_tensors`.
      config: the configuration to evaluate it with; its `system` says whose checkpoint it is. Options of the model
        that the checkpoint tells replace those of the configuration.
      workdir: the directory; must not hold a training.
      fixed: names of options of the model that must be as the configuration has them, else the checkpoint is not
        the wanted one; None: all.
      tensors: what is in the file, where it was read before.

    Returns:
      The system.

    Raises:
      PortingError: the file cannot be read, is not of that system, or does not fit its model.
      ConfigError: the configuration contradicts the checkpoint, or the directory is taken.
    """
    path, workdir = Path(path), Path(workdir).absolute()
    if any(map(has_checkpoints, workdir.glob("*/checkpoints"))):
        raise ConfigError(f"{workdir}: a training lives here; choose another directory with --out")
    source = source_of(config.system)
    tensors = read_tensors(path) if tensors is None else tensors
    arguments = _model(config, source.options(tensors), fixed)
    system = build_system(config.system, arguments)
    variables = source.port(tensors, system)

    # What the way back needs besides the variables: every tensor that they do not give back bit for bit
    restored = restore_tensors(variables, source.rules(system), tensors)
    rest = {name: x for name, x in tensors.items() if not _same(x, restored.get(name))}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin = {"checkpoint": path.name, "sha256": digest[:12]}
    config = _ported_config(config, arguments)
    meta = {
        "phase": PHASE,
        "phase_index": 0,
        "total_steps": 0,
        "seed": config.seed,
        "system": config.system,
        "model": arguments,
        "config": plain_config(config),
        "pretrained": origin,
        "names": {name: str(tensor.dtype) for name, tensor in tensors.items()},
    }
    claim_workdir(workdir, config, started=False)
    if rest:
        write_torch_file(workdir / PHASE / REST, rest)
    with Checkpoints(workdir / PHASE / "checkpoints") as checkpoints:
        checkpoints.save(_state(variables, config.seed), meta)
    return system


def export_checkpoint(
    workdir: str | Path, path: str | Path, phase: str | None = None, which: str = "last"
) -> dict[str, np.ndarray]:
    """Writes the variables of a work directory as a PyTorch state dict.

    Of a work directory that `port_checkpoint` made these are the checkpoint's tensors bit for bit, in its order, the
    prefix of a wrapper left out. Of any other they are all that the authors' module loads strictly.

    Args:
      workdir: work directory of a training, or ported.
      path: the file to write.
      phase, which: see `load_variables`.

    Returns:
      The tensors.

    Raises:
      CheckpointError: there is no such checkpoint.
      PortingError: some variables have no place in the PyTorch model, or the file cannot be written.
      ConfigError: checkpoints of that system cannot be ported.
    """
    variables, meta = load_variables(workdir, phase, which)
    source = source_of(meta["system"])
    system = build_system(meta["system"], meta["model"])
    rules = source.rules(system)
    if "names" in meta:
        tensors = restore_tensors(variables, rules, meta["names"])
        rest = Path(workdir) / meta["phase"] / REST
        tensors |= read_state_dict(rest) if rest.is_file() else {}
        lacking = [name for name in meta["names"] if name not in tensors]
        if lacking:
            raise PortingError(f"{rest} is missing or another one: {', '.join(lacking[:5])} should be in it.")
        tensors = {name: tensors[name].astype(dtype) for name, dtype in meta["names"].items()}
    else:
        tensors = restore_tensors(variables, rules)
        _check_all_written(variables, match_rules(tensors, rules), source)
        tensors = source.complete(tensors, system)
    write_torch_file(path, tensors)
    return tensors


def _model(config: ConfigDict, found: Mapping[str, Any], fixed: Collection[str] | None) -> dict[str, Any]:
    """Keyword arguments of the module: those of the phase that fits the checkpoint best, and what it tells itself.

    Raises:
      ConfigError: lists the options that are fixed and otherwise in the checkpoint.
    """
    phases = [dict(config.model.to_dict())]
    for name in config.phases:
        changes = config[name].get("model") or ConfigDict()
        phases.append({**config.model.to_dict(), **changes.to_dict()})
    defaults = _defaults(config.system, {**phases[-1], **found})

    def differing(model: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        values = {**defaults, **model}
        return {key: (values[key], x) for key, x in found.items() if key in values and values[key] != x}

    model = min(reversed(phases[1:] or phases), key=lambda model: len(differing(model)))
    wrong = {key: pair for key, pair in differing(model).items() if fixed is None or key in fixed}
    if wrong:
        lines = [
            f"{key}: {here!r} in the configuration, {there!r} in it" for key, (here, there) in wrong.items()
        ]
        listed = "\n  ".join(lines)
        raise ConfigError(
            f"The checkpoint is of another model than the configuration:\n  {listed}\n"
            "Leave out --config to take what the checkpoint says, or change these (--config.model.NAME=VALUE)."
        )
    return (
        {"num_identities": 1} | model | dict(found)
    )  # pre-training knows nobody; the number is not used there


def _defaults(system: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the module that have a default, with it."""
    fields = dataclasses.fields(build_system(system, {"num_identities": 1, **model}).module_class)
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


def _ported_config(config: ConfigDict, arguments: Mapping[str, Any]) -> ConfigDict:
    """The configuration of the work directory: one phase, in which nothing is trained."""
    plain = {name: value for name, value in config.to_dict().items() if name not in config.phases}
    model = {name: value for name, value in arguments.items() if name != "num_identities"}
    plain |= {"phases": (PHASE,), PHASE: {"model": {}}, "model": model, "weights": "", "pretrained": ""}
    return ConfigDict(plain)


def _state(variables: Mapping[str, Any], seed: int) -> TrainState:
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        memory=variables["memory"],
        opt_state={},
        rng=jax.random.key(seed),
    )


def _same(tensor: np.ndarray, restored: np.ndarray | None) -> bool:
    """Whether the way back gives a tensor bit for bit."""
    if restored is None or restored.shape != tensor.shape:
        return False
    return restored.astype(tensor.dtype).tobytes() == tensor.tobytes()


def _check_all_written(variables: Mapping[str, Any], placed: Mapping[str, Rule], source: Source) -> None:
    """Raises PortingError, listing the variables that no PyTorch checkpoint has a name for."""
    written = {rule.ours for rule in placed.values()} | set(source.own)
    paths = traverse_util.flatten_dict(dict(variables), sep="/")
    left = sorted(path for path in paths if path not in written)
    if left:
        listed = "\n  ".join(left)
        raise PortingError(f"The PyTorch model has no place for {len(left)} variables:\n  {listed}")
    logging.info("%d tensors for %d variables", len(placed), len(paths))
