"""A trained model as one folder to pass on: weights as safetensors, all that is needed to use them, checksums.

    config.json          the configuration of the training
    model.safetensors    every variable under its path ("params/backbone/...")
    package.json         system, options of its module, preprocessing, thresholds, licence, provenance
    LICENSE              the licence of the weights
    SHA256SUMS           of all of these, for `sha256sum --check`
    programs/            StableHLO, where exported (`ps_jax.export`)

Every command that takes a work directory takes a package.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from ps_jax.errors import CheckpointError, ConfigError
from ps_jax.training._leaves import SEPARATOR, unflatten_variables

FORMAT = 1
WEIGHTS, RECORD, CONFIG, SUMS = "model.safetensors", "package.json", "config.json", "SHA256SUMS"


def is_package(directory: str | os.PathLike) -> bool:
    """Whether a folder is a model package."""
    return all((Path(directory) / name).is_file() for name in (RECORD, SUMS))


def named_leaves(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every variable by its path: "params/backbone/conv1/kernel"."""
    flat = traverse_util.flatten_dict(dict(variables), sep=SEPARATOR)
    return {name: np.asarray(leaf, order="C") for name, leaf in flat.items()}


def write_package(
    directory: str | os.PathLike,
    variables: Mapping[str, Any],
    meta: Mapping[str, Any],
    record: Mapping[str, Any],
    licence: str,
    programs: Mapping[str, bytes],
) -> None:
    """Writes a package; it appears under its name when it is whole.

    Args:
      directory: the folder to make; a package that is there is replaced.
      variables: {"params", "batch_stats", "memory"}.
      meta: what is saved beside them, see `load_variables`.
      record: more for `package.json`: what users read there.
      licence: text of the licence of the weights.
      programs: file name -> content, for `programs/`.

    Raises:
      ConfigError: the folder holds something else, cannot be written, or the package `safetensors` is missing.
    """
    safetensors = _safetensors()
    directory = Path(directory).absolute()
    foreign = _foreign_files(directory)
    if foreign:
        raise ConfigError(f"{directory}: there is something else here ({foreign[0]}); choose another --out")
    meta = {name: value for name, value in meta.items() if name != "leaves"}
    unfinished, before = (
        directory.with_name(f".{directory.name}.{word}") for word in ("unfinished", "before")
    )
    try:
        for folder in (unfinished, before):
            shutil.rmtree(folder, ignore_errors=True)
        unfinished.mkdir(parents=True)
        (unfinished / WEIGHTS).write_bytes(safetensors.save(named_leaves(variables)))
        (unfinished / CONFIG).write_text(json.dumps(meta["config"], indent=2) + "\n")
        (unfinished / RECORD).write_text(
            json.dumps({"format": FORMAT, **record, "training": meta}, indent=2) + "\n"
        )
        (unfinished / "LICENSE").write_text(licence.rstrip() + "\n")
        for name, content in programs.items():
            path = unfinished / "programs" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        files = sorted(path for path in unfinished.rglob("*") if path.is_file())
        sums = [f"{_sha256(path)}  {path.relative_to(unfinished).as_posix()}\n" for path in files]
        (unfinished / SUMS).write_text("".join(sums))
        if directory.exists():
            directory.replace(before)
        unfinished.replace(directory)
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"{directory}: cannot write here ({error.strerror}); choose another --out"
        ) from error


def read_package(directory: str | os.PathLike) -> tuple[dict[str, Any], dict]:
    """The variables of a package and what was saved beside them, as `load_variables` gives them.

    Raises:
      CheckpointError: it is damaged, of a later format, or the package `safetensors` is missing.
    """
    directory = Path(directory)
    damaged = f"{directory}: this model package is damaged"
    try:
        lines = [line.split("  ", 1) for line in (directory / SUMS).read_text().splitlines()]
        sums = {name: digest for digest, name in lines}
        record = json.loads((directory / RECORD).read_text())
        for name in (WEIGHTS, RECORD, CONFIG):  # all that is read, CONFIG by the evaluation
            if sums[name] != _sha256(directory / name):
                raise CheckpointError(f"{damaged}: the checksum of {name} does not match; fetch it again")
        if record["format"] != FORMAT:
            raise CheckpointError(f"{directory}: this package is of format {record['format']}; update ps_jax")
        leaves = _safetensors().load((directory / WEIGHTS).read_bytes())
        return unflatten_variables(leaves), record["training"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{damaged} ({error}); fetch it again") from error


def _foreign_files(directory: Path) -> list[str]:
    """What lies in a folder and is no part of a model package, so that replacing it would lose it."""
    if not directory.exists():
        return []
    if not is_package(directory):
        return [f"no {RECORD} with {SUMS}"]
    sums = (directory / SUMS).read_text(errors="replace").splitlines()
    own = {SUMS, *(line.partition("  ")[2] for line in sums)}
    files = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())
    return sorted(set(files) - own)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise CheckpointError(
            "model packages need the package safetensors: pip install safetensors"
        ) from error
    return safetensors.numpy
