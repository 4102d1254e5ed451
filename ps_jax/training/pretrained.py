"""What a phase starts from: the phase before it, or another run's work directory."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from input_pipeline.scenes import UNKNOWN, Split
from ps_jax.errors import ConfigError
from ps_jax.training.checkpoints import load_variables
from ps_jax.training.workdir import provenance

_REID_PARTS = ("reid", "classifier")  # as `System.trains` names them


@dataclass(frozen=True)
class Pretrained:
    """Variables that were trained before, for `System.transfer`.

    Attributes:
      name: where they come from, for messages.
      system: the system that trained them.
      variables: {"params", "batch_stats", "memory"}.
      origin: the other run they come from at first, to be kept with all that is made of them: work directory,
        phase, step and configuration; None where the run began by itself.
      trained: the parts that were trained, and on whom; see `System.check_start`.
    """

    name: str
    system: Any
    variables: Mapping[str, Any]
    origin: dict[str, Any] | None
    trained: Mapping[str, str]


@dataclass(frozen=True)
class ReidStart:
    """A re-identification network to start from.

    Attributes:
      network: parts of its variables, for `RDLRSystem.with_reid_network`.
      trained: which parts a training of re-identification made, and on whom; "" where that is not known.
    """

    network: dict[str, Any]
    trained: dict[str, str]


def people_of(split: Split) -> str:
    """A checksum of who is in which scene: two data sets may have equally many people, and not the same."""
    known = [
        (scene.name, [split.labels[person.identity] for person in scene.people if person.identity != UNKNOWN])
        for scene in split.scenes
    ]
    return f"{zlib.crc32(repr(known).encode()):08x}"


def trained_before(pretrained: Pretrained | None, reid: ReidStart | None) -> dict[str, str]:
    """The parts of a start that were trained, and on whom; the network of `reid` takes the place of the one before."""
    trained = dict(pretrained.trained) if pretrained else {}
    if reid:
        trained = {part: people for part, people in trained.items() if part not in _REID_PARTS} | reid.trained
    return trained


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
    return Pretrained(f"config.pretrained ({workdir})", system, variables, origin, meta.get("trained", {}))


def load_reid_start(config: ConfigDict, system: Any, people: str) -> ReidStart:
    """The re-identification network that `config.reid_weights` names: a work directory of its training, or weights.

    Args:
      config: the configuration of the run that starts from there.
      system: the system of its first phase.
      people: checksum of the people of its training set. A classifier is only taken where it was trained on these; a
        file does not say on whom, and its classifier is taken where it is of as many.

    Raises:
      ConfigError: the work directory is of another system, or no such network was trained in it.
      CheckpointError: there is no checkpoint in it, or none can be read.
      PortingError: the file cannot be read, or is of another network.
    """
    path = config.reid_weights
    template = system.reid_network(system.template)
    if not Path(path).is_dir():
        from ps_jax.heads.reid_network import OSNET
        from ps_jax.porting import load_reid_network

        trunk = system.module.reid_trunk
        network = load_reid_network(path, trunk, template)
        params, trained = network["params"], {}
        # OSNet's files are of re-identification and have no more than the trunk; others' trunks have seen ImageNet.
        if trunk == OSNET or "bottleneck" in params:
            trained["reid"] = ""
        if "classifier" in params:
            trained["classifier"] = people
        return ReidStart(network, trained)
    variables, meta = load_variables(path)
    if meta["system"] != "rdlr":
        raise ConfigError(
            f"{path} is the work directory of a {meta['system']}, which has no re-identification network of its "
            "own; name one of an RDLR training"
        )
    trained = {part: whom for part, whom in meta.get("trained", {}).items() if part in _REID_PARTS}
    if "reid" not in trained:
        raise ConfigError(
            f"config.reid_weights: no re-identification network was trained in {path}; name a work directory of "
            "rdlr_reid.py or rdlr.py, or weights"
        )
    logging.info("re-identification network of %s, %s, step %d", path, meta["phase"], meta["step"])
    network = {name: dict(tree["reid"]) for name, tree in variables.items() if "reid" in tree}
    if "classifier" not in template["params"] or trained.get("classifier") != people:
        network["params"].pop("classifier", None)
        trained.pop("classifier", None)
    return ReidStart(network, trained)
