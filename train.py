"""Trains a person-search system.

    python train.py --config configs/spnet_qc.py [--workdir runs/spnet_qc] [--config.x.y=value ...]

The same command goes on where a run ended. On several machines, or in several processes on one, start the command in
each with --num_processes=N, --process_id=0 .. N-1 and --coordinator_address=HOST:PORT, a free port of the first
process's machine (or set JAX_NUM_PROCESSES, JAX_PROCESS_ID and JAX_COORDINATOR_ADDRESS); all processes need the data,
the first alone the work directory and weights. Exit codes: 0 trained and evaluated, 2 something the user can mend
(one message on stderr), 130 after Ctrl-C and 143 after SIGTERM (the state was saved first).
"""

import logging as python_logging
import os
import sys
import traceback
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from ps_jax.errors import ConfigError, PersonSearchError

CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Work directory; runs/<name of the configuration> by default.")
COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    os.environ.get("JAX_COORDINATOR_ADDRESS"),
    "host:port of the first process, to train in several processes.",
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes",
    os.environ.get("JAX_NUM_PROCESSES"),
    "Number of processes that train together.",
    lower_bound=1,
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", os.environ.get("JAX_PROCESS_ID"), "Number of this process, 0 for the first.", lower_bound=0
)


def default_workdir(config_path: str) -> str:
    """configs/spnet_qc.py -> runs/spnet_qc, configs/spnet_qc.py:prw -> runs/spnet_qc_prw."""
    path, _, variant = config_path.partition(":")
    return str(Path("runs") / "_".join(filter(None, (Path(path).stem, variant))))


def parse_flags(arguments: list[str]) -> list[str]:
    """Parses the command line; an option that the configuration does not have is the user's to mend."""
    try:
        return app.parse_flags_with_usage(arguments)
    except (AttributeError, KeyError) as error:
        if "get_config" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]:
            raise  # a mistake in the configuration file itself
        reason = error
        while isinstance(reason, (AttributeError, KeyError)):
            reason = reason.args[0]
        given = " ".join(argument for argument in arguments if argument.startswith("--config."))
        raise ConfigError(f"the configuration has no such option ({given}): {reason}") from error


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(arguments[1:])}")
    from ps_jax.training import enable_compilation_cache, joined, train_and_evaluate

    logging.set_verbosity(logging.INFO)
    python_logging.getLogger("jax").setLevel(python_logging.WARNING)
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    if not Path(path.partition(":")[0]).is_file():
        raise ConfigError(f"--config {path}: there is no such file; the configurations lie in configs/")
    enable_compilation_cache()
    with joined(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value):
        train_and_evaluate(CONFIG.value, WORKDIR.value or default_workdir(path))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's greetings
    os.environ.setdefault(
        "TF_ENABLE_ONEDNN_OPTS", "0"
    )  # and its note on a library that decoding does not use
    flags.mark_flag_as_required("config")
    try:
        app.run(main, flags_parser=parse_flags)
    except PersonSearchError as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(2)
