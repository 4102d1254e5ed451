"""What a run refuses to begin with, and how the user is told."""

import json
import subprocess
import sys

import pytest
from toy_runs import ROOT, changed, run, train
from toy_training import (
    ToySource,
)

from ps_jax.errors import CheckpointError, ConfigError, DataError


def test_another_configuration_is_refused_by_its_keys(tmp_path):
    config = changed(**{"pretrain.epochs": 0.3, "finetune.epochs": 0.3})
    train(tmp_path, config)
    other = changed(
        **{
            "pretrain.epochs": 0.3,
            "finetune.epochs": 0.5,
            "seed": 3,
            "data.dir": "there",
            "pretrain.log_every": 2,
        }
    )
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(ConfigError) as error:
        train(tmp_path, other)
    message = str(error.value)
    assert "seed: 0 there, 3 here" in message and "finetune.epochs: 0.3 there, 0.5 here" in message
    assert "data.dir" not in message and "log_every" not in message
    assert "Choose another --workdir, or delete" in message
    assert (tmp_path / "config.json").read_text() == before


def test_a_directory_without_checkpoints_takes_another_configuration(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 9}')
    train(tmp_path, changed(**{"pretrain.epochs": 0.1, "finetune.epochs": 0.1}))
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    class Narrower(ToySource):
        def split(self, partition):
            split = super().split(partition)
            scene = split.scenes[0]
            return type(split)("toy", partition, (type(scene)("a", "a", 4, 4, scene.people[:3]),))

    short = changed(**{"pretrain.epochs": 0.3, "finetune.epochs": 0.3})
    train(tmp_path, short)
    with pytest.raises(CheckpointError, match=r"params/head/kernel: float32\[8, 5\] in the checkpoint"):
        train(tmp_path, short, source=Narrower())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrain.batch_size": 0}, "config.pretrain.batch_size is 0"),
        (
            {"pretrain.batch_size": 6, "pretrain.accumulate_steps": 4},
            r"config.pretrain.batch_size is 6.*in 4 micro-batches.*--config.pretrain.batch_size=8",
        ),
        ({"finetune.accumulate_steps": -1}, "config.finetune.accumulate_steps is -1; it must be at least 1"),
        (
            {"finetune.batch_size": 5, "finetune.views": 2},
            r"config.finetune.batch_size is 5.*groups of 2 views.*--config.finetune.batch_size=6",
        ),
        ({"phases": ("pretrain", "third")}, "names 'third', but there is no config.third"),
        ({"precision": "half"}, "config.precision is 'half'"),
    ],
)
def test_configurations_that_cannot_run(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, changed(**changes))


def test_a_batch_the_devices_cannot_share(tmp_path):
    result = run(tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=3")
    assert result.returncode == 1
    assert "config.pretrain.batch_size is 4, which 3 device(s) cannot share evenly" in result.stderr
    assert "--config.pretrain.batch_size=6" in result.stderr
    assert not (tmp_path / "config.json").exists()


def test_the_main_tells_the_user_in_one_message(tmp_path):
    config = tmp_path / "broken.py"
    config.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        "    return ConfigDict({'phases': ('pretrain',), 'seed': 0})\n"
    )
    command = [sys.executable, "train.py", "--config", str(config), "--workdir", str(tmp_path / "run")]

    def main(*arguments):
        return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)

    result = main()
    assert result.returncode == 2
    assert result.stderr == "train.py: config.phases names 'pretrain', but there is no config.pretrain\n"
    assert not (tmp_path / "run").exists()
    result = main("--config.sed=1")
    assert result.returncode == 2
    assert result.stderr.startswith("train.py: the configuration has no such option (--config.sed=1): 'sed'")
    assert 'Did you mean "seed"' in result.stderr


def test_missing_data_leave_no_work_directory(tmp_path):
    class Missing(ToySource):
        def split(self, partition):
            raise DataError("there is no such directory")

    with pytest.raises(DataError):
        train(tmp_path / "run", source=Missing())
    assert not (tmp_path / "run").exists()
