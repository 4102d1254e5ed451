"""Runs of the toy configuration, and what is read from them."""

import os
import subprocess
import sys
from pathlib import Path

import toy_training
from toy_training import (
    ToySource,
    ToySystem,
    toy_config,
    toy_evaluate,
)

from ps_jax.training import train_and_evaluate
from ps_jax.training.metric_writers import read_records

ROOT = Path(__file__).resolve().parents[2]


def train(workdir, config=None, **changes):
    arguments = {"source": ToySource(), "build": ToySystem, "evaluate": toy_evaluate} | changes
    return train_and_evaluate(config or toy_config(), workdir, **arguments)


def changed(**changes):
    """The toy configuration with dotted keys changed: changed(**{"pretrain.batch_size": 8})."""
    config = toy_config()
    config.update_from_flattened_dict(changes)
    return config


def run(workdir, *arguments, **environment):
    return subprocess.run(
        [sys.executable, toy_training.__file__, str(workdir), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def numbers(workdir):
    """The metrics on record without the timing, by phase and step."""
    found = {}
    for record in read_records(workdir / "metrics.jsonl"):
        if "evaluation" not in record:
            key = (record.pop("phase"), record.pop("step"))
            assert key not in found, f"{key} is on record twice"
            record.pop("steps_per_second")
            found[key] = record
    return found


def assert_bits_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == b.tobytes()
