"""Carries PyTorch checkpoints to work directories, and back. Needs no PyTorch.

    python -m ps_jax.porting CHECKPOINT --system spnet --out DIR [--config FILE.py[:DATASET]] [--config.x.y=value ...]
    python -m ps_jax.porting export WORKDIR FILE.pth [--phase PHASE] [--checkpoint best]

CHECKPOINT is a .pth, .pt, .ckpt, .safetensors or .npz file. What its names and shapes tell of the model is taken from
it; the rest, and data and evaluation, come from --config, by default the system's configuration of the data set that
the checkpoint was trained on. With --config the two must agree. Afterwards:

    python eval.py --workdir DIR --config.data.dir=PATH
    python train.py --config FILE.py:DATASET --config.pretrained=DIR

`export` writes a state dict for `torch.load` and a strict `load_state_dict`. Exit code 2: something the user can mend
(one message on stderr).
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from ps_jax.errors import ConfigError, PersonSearchError


def load_config(file: str, system: str, changes: list[str]) -> ConfigDict:
    """The configuration of a file, with what the command line changes.

    Args:
      file: path, with :DATASET.
      system: the system that it must be of.
      changes: arguments of the form --config.x.y=value.

    Raises:
      ConfigError: there is no such file, it is of another system, or it has no such option.
    """
    path, _, dataset = file.partition(":")
    spec = importlib.util.spec_from_file_location(f"config_{Path(path).stem}", path)
    if not Path(path).is_file() or spec is None or spec.loader is None:
        raise ConfigError(
            f"{path}: there is no such Python file; name a configuration with --config (those in configs/)"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(dataset) if dataset else module.get_config()
    values = flags.FlagValues()
    command = ["porting", *changes]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=command)
        rest = values(command)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{' '.join([file, *changes])}: {error}") from error
    if rest:
        raise ConfigError(
            f"unknown arguments: {' '.join(rest)}; python -m ps_jax.porting --help lists those there are"
        )
    if values.config.system != system:
        raise ConfigError(f"{file} is a configuration of {values.config.system}, but --system is {system}")
    return values.config


def port(arguments: list[str]) -> str:
    """`CHECKPOINT --system ... --out ...`; returns what to print."""
    parser = _parser("")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--system", required=True, help="whose checkpoint it is")
    parser.add_argument("--out", required=True, type=Path, help="work directory to make")
    parser.add_argument(
        "--config", help="configuration file (default: by what the checkpoint was trained on)"
    )
    options, changes = parser.parse_known_args(arguments)

    from ps_jax.porting import read_tensors
    from ps_jax.porting.sources import source_of
    from ps_jax.porting.workdirs import port_checkpoint

    source = source_of(options.system)
    tensors = read_tensors(options.checkpoint)
    root = Path(__file__).parents[2]
    file = options.config or str(root / source.config(tensors))
    config = load_config(file, options.system, changes)
    changed = [change.partition("=")[0] for change in changes]
    fixed = None if options.config else {name.rpartition(".")[2] for name in changed if ".model." in name}
    system = port_checkpoint(options.checkpoint, config, options.out, fixed, tensors)
    module = system.module
    return (
        f"{options.out}: {options.system} with trunk {module.trunk}, {len(tensors)} tensors of "
        f"{options.checkpoint.name}, configuration {os.path.relpath(file)}\n"
        f"python eval.py --workdir {options.out} --config.data.dir=PATH"
    )


def export(arguments: list[str]) -> str:
    """`export WORKDIR FILE`; returns what to print."""
    parser = _parser(" export")
    parser.add_argument("workdir", type=Path)
    parser.add_argument("file", type=Path, help="the .pth file to write")
    parser.add_argument(
        "--phase", help="phase to take the checkpoint of (default: the last one that has any)"
    )
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    options = parser.parse_args(arguments)

    from ps_jax.porting.workdirs import export_checkpoint

    tensors = export_checkpoint(options.workdir, options.file, options.phase, options.checkpoint)
    return f"{len(tensors)} tensors written to {options.file}"


def _parser(command: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"python -m ps_jax.porting{command}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    print(export(arguments[1:]) if arguments[:1] == ["export"] else port(arguments))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PersonSearchError as error:
        print(f"porting: {error}", file=sys.stderr)
        sys.exit(2)
