"""The work directory belongs to one configuration, kept in its `config.json`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ps_jax.errors import ConfigError

_ABSENT = "absent"


def plain_config(config: ConfigDict) -> dict[str, Any]:
    """The configuration as JSON gives it back: dictionaries, lists, numbers, strings and None."""
    return json.loads(json.dumps(config.to_dict(), default=str))


def provenance(meta: Mapping[str, Any], changes: Sequence[str] = ()) -> dict[str, Any]:
    """What made a checkpoint, to be kept with every result of it.

    Args:
      meta: what is saved beside the variables.
      changes: what the command line changes for the evaluation.
    """
    config = json.dumps(meta["config"], sort_keys=True).encode()
    origin = meta.get("pretrained")
    return {
        "phase": meta["phase"],
        "checkpoint_step": meta["step"],
        "config": hashlib.sha256(config).hexdigest()[:12],
        **({"pretrained": " ".join(map(str, origin.values()))} if origin else {}),
        "changes": " ".join(changes),
    }


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat


def _harmless(key: str, phases: Sequence[str]) -> bool:
    """Keys that leave the trained parameters as they are.

    How often to log, save and evaluate; what a phase demands before it begins; the whole evaluation; and `data.dir`,
    because data may move (other data under it mostly shows by another number of identities, which no checkpoint
    accepts).
    """
    section, _, name = key.partition(".")
    every = name in ("log_every", "checkpoint_every", "evaluate_every")
    gate = name.startswith("gates")
    return section == "eval" or key == "data.dir" or (section in phases and (every or gate))


def claim_workdir(workdir: Path, config: ConfigDict, started: bool) -> None:
    """Writes `<workdir>/config.json`, unless a training under another configuration lives there.

    Args:
      workdir: created where it does not exist.
      config: the configuration about to run.
      started: whether the directory holds checkpoints already; if not, any configuration may take it over.

    Raises:
      ConfigError: names the keys that differ, with both values, and the remedy.
    """
    path = workdir / "config.json"
    plain = plain_config(config)
    if started and path.exists():
        before, now = _flat(json.loads(path.read_text())), _flat(plain)
        differing = [
            f"{key}: {before.get(key, _ABSENT)!r} there, {now.get(key, _ABSENT)!r} here"
            for key in sorted(before.keys() | now.keys())
            if before.get(key, _ABSENT) != now.get(key, _ABSENT) and not _harmless(key, plain["phases"])
        ]
        if differing:
            listed = "\n  ".join(differing)
            raise ConfigError(
                f"{workdir}: this work directory was made by another configuration:\n  {listed}\n"
                "Choose another --workdir, or delete this one to start again."
            )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".json.new")
        temporary.write_text(json.dumps(plain, indent=2) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{workdir}: cannot write here ({error.strerror}); choose another --workdir"
        ) from error
