"""The configuration of an evaluation: that of the training, with what the command line changes."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from ps_jax.errors import ConfigError
from ps_jax.evaluation.cbgm import CANDIDATES
from ps_jax.evaluation.similarity import SIMILARITIES

# Sections that can be changed for an evaluation; the rest belongs to the checkpoint.
CHANGEABLE = ("--config.eval.", "--config.data.", "--config.precision")
# Of the command line, what replaces an entry of config.eval.
CHANGES = (
    "mode",
    "galleries",
    "min_frame_gap",
    "cross_camera",
    "true_boxes",
    "similarity",
    "cbgm",
    "cbgm_grid",
    "cbgm_candidates",
)


def parse_arguments(description: str, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The named options of `eval.py`, and the remaining arguments (--config.x.y=value).

    Args:
      description: help text of the command.
      arguments: the command line without the program's name.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    option = parser.add_argument
    option("--workdir", required=True, type=Path, help="work directory of a training")
    option("--phase", help="phase to take the checkpoint of (default: the last one that has any)")
    option("--checkpoint", choices=("last", "best"), default="last")
    option("--partition", choices=("train", "test"), default="test")
    option("--out", type=Path, help="default: <workdir>/evaluation/<phase>-<step> and the options")
    option("--mode", choices=("oc", "qc"), help="object-centric or query-centric")
    option("--galleries", type=lambda text: tuple(text.split(",")), help='names, or "all"')
    option("--min_frame_gap", type=int, help="leave out scenes of the query's recording closer than this")
    option("--cross_camera", action=argparse.BooleanOptionalAction, help="only scenes of other cameras")
    option("--true_boxes", action=argparse.BooleanOptionalAction, help="also search the annotated boxes")
    option("--similarity", choices=SIMILARITIES, help="cosine, or the cosine times the detection's score")
    option("--cbgm", type=two_numbers, metavar="K1,K2", help="context bipartite graph matching")
    option("--cbgm_grid", type=_grid, metavar="K1,..xK2,..", help="the same for all pairs: 10,20,30x2,3,4")
    option("--cbgm_candidates", choices=CANDIDATES, help="k1 counts detections (released) or scenes (paper)")
    option("--detector", type=Path, help="work directory of another training, whose detections are embedded")
    option(
        "--beside", type=Path, help="work directory of another training, whose embeddings lie beside these"
    )
    return parser.parse_known_args(arguments)


def evaluation_config(options: argparse.Namespace, changes: list[str]) -> ConfigDict:
    """The configuration of the training in `options.workdir`, changed by the command line.

    Args:
      options: from `parse_arguments`.
      changes: arguments of the form --config.x.y=value; only entries that exist can be changed.

    Raises:
      ConfigError: there is no training, an argument is unknown, or a value has the wrong type.
    """
    path = options.workdir / "config.json"
    if not path.is_file():
        raise ConfigError(
            f"{path}: there is no such file; name the work directory of a training with --workdir"
        )
    for change in changes:
        if change.startswith("--config.") and not change.startswith(CHANGEABLE):
            raise ConfigError(
                f"{change}: only --config.eval.*, --config.data.* and --config.precision can be changed here; the "
                "model is that of the checkpoint"
            )
    values = flags.FlagValues()
    command = ["eval.py", *changes]
    try:
        config_flags.DEFINE_config_dict(
            "config",
            ConfigDict(_changeable(json.loads(path.read_text()))),
            flag_values=values,
            sys_argv=command,
        )
        rest = values(command)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{' '.join([str(path), *changes])}: {error}") from error
    if rest:
        raise ConfigError(f"unknown arguments: {' '.join(rest)}; python eval.py --help lists those there are")
    config = values.config
    with config.eval.unlocked():  # trainings of earlier versions have fewer options
        for name in CHANGES:
            value = getattr(options, name)
            if value is not None and name == "cbgm_candidates":
                config.eval.update({"cbgm": {"candidates": value}})
            elif value is not None:
                config.eval.update({name: value})
    context, grid = (config.eval.get(name, {}) for name in ("cbgm", "cbgm_grid"))
    if options.cbgm_candidates and not any((context.get("k1"), context.get("k2"), grid.get("k1"))):
        raise ConfigError("--cbgm_candidates: there is nothing to count them for; give --cbgm or --cbgm_grid")
    return config


def _changeable(value: Any) -> Any:
    """JSON's values as the command line can change them: lists are tuples, what is not set may become anything."""
    if isinstance(value, dict):
        return {key: _changeable(entry) for key, entry in value.items()}
    if value is None:
        return placeholder(object)
    return tuple(map(_changeable, value)) if isinstance(value, list) else value


def output_directory(options: argparse.Namespace, meta: dict[str, Any], changes: list[str]) -> Path:
    """Where the results go: `--out`, or a folder named after the checkpoint and what the command line changes."""
    if options.out is not None:
        return options.out
    words = [meta["phase"], str(meta["step"])]
    for name in CHANGES:
        value = getattr(options, name)
        if value is not None:
            words.append(f"{name}_{_word(value)}")
    for name in ("detector", "beside"):
        other = getattr(options, name)
        if other is not None:
            place = hashlib.sha256(str(other.resolve()).encode()).hexdigest()[:8]
            words.append(f"{name}_{other.name}_{place}")
    if options.partition != "test":
        words.append(options.partition)
    if options.checkpoint != "last":
        words.append(options.checkpoint)
    moved = ("--config.data.dir", "--config.data.source")  # the same scenes elsewhere give the same results
    changes = [change for change in changes if not change.startswith(moved)]
    if changes:
        words.append(hashlib.sha256(" ".join(changes).encode()).hexdigest()[:8])
    return options.workdir / "evaluation" / "-".join(words).replace(":", "_")


def _word(value: Any) -> str:
    """An option's value as part of a folder's name."""
    if isinstance(value, dict):
        grid = any(isinstance(part, tuple) for part in value.values())
        return ("x" if grid else "_").join(map(_word, value.values()))
    return "_".join(map(str, value)) if isinstance(value, tuple) else str(value)


def two_numbers(text: str) -> dict[str, int]:
    """'10,3' -> {"k1": 10, "k2": 3}."""
    try:
        k1, k2 = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers such as 10,3") from None
    return {"k1": k1, "k2": k2}


def _grid(text: str) -> dict[str, tuple[int, ...]]:
    try:
        k1, k2 = (tuple(int(part) for part in half.split(",")) for half in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no grid such as 10,20,30x2,3,4") from None
    return {"k1": k1, "k2": k2}
