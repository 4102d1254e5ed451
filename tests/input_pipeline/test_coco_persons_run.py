"""Pre-training on COCOPersons, then fine-tuning on another data set in another work directory, as commands."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import reader_layouts as layouts

from ps_jax.training import load_variables

ROOT = Path(__file__).parents[2]
SMALL = [
    "--config.model.trunk=mobilenet_v2",
    "--config.model.embedding_dim=32",
    "--config.model.reid_dim=32",
    "--config.data.max_people=4",
    "--config.data.resize=(96, 128)",
]
PRETRAINING = [
    f"--config.pretrain.{field}" for field in ("crop=96", "batch_size=4", "epochs=2.0", "log_every=1")
]
FINETUNING = [
    f"--config.finetune.{field}" for field in ("crop=96", "batch_size=4", "epochs=0.5", "log_every=1")
]
STREETS = [
    f"--config.data.streets.{field}"
    for field in (
        "height=96",
        "width=128",
        "train_scenes=8",
        "test_scenes=8",
        "train_identities=3",
        "test_identities=3",
        "cameras=2",
    )
]


def run(*arguments, code=0):
    command = [sys.executable, *map(str, arguments)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert finished.returncode == code, finished.stderr[-3000:]
    return finished.stderr


@pytest.mark.slow
def test_pretrained_on_coco_persons_and_finetuned_on_streets(tmp_path):
    (tmp_path / "coco").mkdir()
    data = layouts.write_coco_persons(tmp_path / "coco")
    first, second = tmp_path / "first", tmp_path / "second"
    amount = ["--config.data.least_people=1", "--config.data.annotations=200"]
    config = ["--config", "configs/spnet_qc.py:coco_persons"]
    coco = [*config, "--workdir", first, f"--config.data.dir={data}", *amount]
    told = run("train.py", *coco, *SMALL, *PRETRAINING)
    assert "coco_persons test: no queries, so nothing is evaluated" in told
    assert not (first / "evaluation").exists()
    pretrained, meta = load_variables(first)
    assert (meta["phase"], meta["step"]) == ("pretrain", 2)
    assert meta["model"]["num_identities"] == 12  # six people and as many spurious boxes
    lines = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(np.isfinite(line["loss/total"]) for line in lines)
    told = run("eval.py", "--workdir", first, code=2)
    assert told.endswith("coco_persons test: this partition has no queries; evaluate a partition that has\n")

    streets = [
        "--config",
        "configs/spnet_oc.py",
        "--workdir",
        second,
        f"--config.data.dir={tmp_path / 'streets'}",
    ]
    start = [f"--config.pretrained={first}", "--config.eval.galleries=('all',)"]
    run("train.py", *streets, *SMALL, *STREETS, *FINETUNING, *start, "--config.finetune.learning_rate=0.0")
    (results,) = (second / "evaluation").glob("*/results.json")
    versions = json.loads(results.read_text())["versions"]
    assert versions["pretrained"].startswith(f"{first} pretrain 2 ")
    finetuned, meta = load_variables(second)
    assert (meta["phase"], meta["step"]) == ("finetune", 1)
    assert finetuned["memory"]["lookup_table"].shape == (3, 32)
    bridge = finetuned["params"].pop("bridge_0")
    assert not any(leaf.any() for leaf in jax.tree.leaves(bridge))  # the query-centric path does not train it
    del pretrained["params"]["bridge_0"]  # without a learning rate nothing else moves either
    jax.tree.map(np.testing.assert_array_equal, finetuned["params"], pretrained["params"])
