"""RDLR's commands on a handful of tiny scenes: all phases by one command, one by one, evaluation, gates, pictures."""

import json
import logging
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags
from PIL import Image
from test_whole_run import SCENES

import eval as evaluation
from benchmarks import refined_boxes
from configs import rdlr, rdlr_detector, rdlr_refine, rdlr_reid
from input_pipeline import open_source
from ps_jax import porting
from ps_jax.backbones import ConvNeXt
from ps_jax.errors import ConfigError, TrainingError
from ps_jax.heads import reid_network
from ps_jax.systems import build_system, faster_rcnn
from ps_jax.systems._detector import Found
from ps_jax.training import load_variables, train_and_evaluate

SMALL = [
    "--config.model.reid_trunk=tiny",
    "--config.model.crop_size=(64, 32)",
    "--config.model.detector_options.trunk=tiny",
    "--config.model.detector_options.width=16",
    "--config.model.detector_options.head_width=16",
    "--config.model.detector_options.train_proposals=(40, 20)",
    "--config.model.detector_options.test_proposals=(40, 10)",
    "--config.model.detector_options.samples_per_image=16",
    "--config.eval.score_threshold=0.0",
    "--config.eval.detection_threshold=0.0",
    "--config.eval.pictures=0",
]
PHASES = {
    "detector": ("batch_size=4", "epochs=0.5"),
    "reid": ("batch_size=8", "crop=(64, 32)", "epochs=0.5"),
    "refine": ("batch_size=4", "steps=3", "gates.detection_ap=0.0", "gates.reid_top1=0.0"),
}


def _tiny_trunk(name, stages=4, **options):
    assert name == "tiny"
    return ConvNeXt(depths=(1, 1, 1, 1), widths=(8, 12, 16, 24), **options)


@pytest.fixture(autouse=True)
def tiny_trunks(monkeypatch):
    for module in (faster_rcnn, reid_network):
        monkeypatch.setattr(module, "build_trunk", _tiny_trunk)


def train(directory: Path, module, name: str, *arguments: str) -> Path:
    """Runs a configuration with what the command line would change; returns the work directory."""
    config = module.get_config()
    lengths = [
        f"--config.{phase}.{field}"
        for phase in config.phases
        for field in (*PHASES[phase], "log_every=1", "checkpoint_every=2")
    ]
    changes = [f"--config.data.dir={directory / 'streets'}", *SCENES, *SMALL, *lengths, *arguments]
    return run(config, directory / name, changes)


def run(config, workdir: Path, changes: list[str]) -> Path:
    """Runs a configuration with changes; returns the work directory."""
    values = flags.FlagValues()
    command = ["train.py", *changes]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=command)
    values(command)
    train_and_evaluate(values.config, workdir)
    return workdir


def _same(one, other):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a, b), one, other)))


@pytest.mark.slow
def test_all_phases_by_one_command(tmp_path, caplog, monkeypatch):
    asked = []

    def load(path, trunk, template):
        asked.append((path, trunk))
        return template

    monkeypatch.setattr(porting, "load_trunk_weights", load)
    with caplog.at_level(logging.INFO, logger="absl"):
        workdir = train(tmp_path, rdlr, "run", "--config.weights=trunk.npz")
    assert asked == [("trunk.npz", "tiny")]  # the detector's trunk, in the first phase
    assert "refine: detection_ap" in caplog.text and "refine: reid_top1" in caplog.text
    states = {phase: load_variables(workdir, phase)[0] for phase in PHASES}
    detector = {phase: state["params"]["detector"] for phase, state in states.items()}
    network = {phase: state["params"]["reid"] for phase, state in states.items()}
    assert _same(detector["detector"], detector["reid"]) and not _same(detector["reid"], detector["refine"])
    assert _same(network["reid"], network["refine"]) and not _same(network["detector"], network["reid"])
    assert _same(states["reid"]["batch_stats"]["reid"], states["refine"]["batch_stats"]["reid"])
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="absl"):
        train(tmp_path, rdlr, "run", "--config.weights=trunk.npz")  # finished: nothing is trained again
    assert "refine: at step 3 of 3" in caplog.text

    shutil.rmtree(workdir / "refine" / "checkpoints" / "3")
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="absl"):
        train(tmp_path, rdlr, "run", "--config.weights=trunk.npz")  # goes on within the refinement
    assert "refine: at step 2 of 3" in caplog.text
    again = load_variables(workdir, "refine")[0]
    assert np.any(again["memory"]["proxies_written"])
    for name, tree in states["refine"].items():
        assert _same(again[name], tree), name  # proxies, too

    picture = tmp_path / "boxes.png"
    refined_boxes.main(["--workdir", str(workdir), "--out", str(picture)])
    with Image.open(picture) as drawn:
        assert drawn.width > 100


def _nobody(scenes):
    rows = len(scenes.size)
    return Found(np.zeros((rows, 1, 4), np.float32), np.zeros((rows, 1)), np.zeros((rows, 1), bool))


@pytest.mark.slow
def test_phase_by_phase_with_a_gate(tmp_path, monkeypatch, capsys):
    before = train(tmp_path, rdlr_detector, "detector")
    network = train(tmp_path, rdlr_reid, "reid")
    start = (f"--config.pretrained={before}", f"--config.reid_weights={network}")
    for missing, words in (
        (start[:1], "a re-identification network that was never trained"),
        (start[1:], "a detector that was never trained"),
        (
            (start[0], f"--config.reid_weights={before}"),
            f"no re-identification network was trained in {before}",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            train(tmp_path, rdlr_refine, "refine", *missing)
    others = train(
        tmp_path,
        rdlr_reid,
        "others",
        f"--config.data.dir={tmp_path / 'others'}",
        "--config.data.streets.seed=1",
    )
    foreign = (start[0], f"--config.reid_weights={others}")
    with pytest.raises(ConfigError, match="the softmax loss needs a classifier of the people"):
        train(tmp_path, rdlr_refine, "refine", *foreign)
    for _ in range(2):
        with pytest.raises(TrainingError, match="phase refine does not begin: detection_ap is"):
            train(tmp_path, rdlr_refine, "refine", *start, "--config.refine.gates.detection_ap=1.1")
    refined = train(tmp_path, rdlr_refine, "refine", *start)
    with pytest.raises(ConfigError, match="name the work directory of what was refined, --before_workdir"):
        refined_boxes.main(["--workdir", str(refined)])
    monkeypatch.setattr(refined_boxes, "_detector", lambda *_: _nobody)
    refined_boxes.main(["--workdir", str(refined), "--before_workdir", str(before)])
    assert "nobody is found both before and after" in capsys.readouterr().out
    after = load_variables(refined)[0]
    assert _same(after["params"]["reid"], load_variables(network)[0]["params"]["reid"])
    out = tmp_path / "evaluated"
    evaluation.main(["--workdir", str(refined), "--out", str(out), "--no-true_boxes"])
    results = json.loads((out / "results.json").read_text())
    assert 0 <= results["detection"]["AP"] <= 1 and results["search"]


@pytest.mark.slow
def test_cut_out_people_are_trained_on_and_judged_by_their_own_protocol(tmp_path, capsys):
    rng = np.random.default_rng(0)
    names = {
        "bounding_box_train": [
            f"{who:04}_c{camera}s1_0000{who}_00.jpg" for who in range(2, 6) for camera in (1, 2)
        ],
        "query": [f"{who:04}_c{1 + who % 2}s1_00000{who}_00.jpg" for who in range(7, 13)],
        "bounding_box_test": ["-1_c1s1_000003_00.jpg", "0000_c1s1_000004_00.jpg"]
        + [f"{who:04}_c{camera}s1_00000{who}_01.jpg" for who in range(7, 13) for camera in (1, 2, 3)],
    }
    for folder, files in names.items():
        (tmp_path / "market" / folder).mkdir(parents=True)
        for name in files:
            pixels = rng.integers(0, 256, (128, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "market" / folder / name)
    settings = [
        f"--config.reid.{field}"
        for field in ("batch_size=4", "images_per_person=2", "crop=(64, 32)", "epochs=1.0")
    ]
    arguments = [
        f"--config.data.dir={tmp_path / 'market'}",
        *SMALL,
        *settings,
        "--config.reid.checkpoint_every=1",
    ]
    workdir = run(rdlr_reid.get_config("market1501"), tmp_path / "run", arguments)
    results = json.loads((workdir / "evaluation" / "reid-2" / "results.json").read_text())
    numbers = results["reid"]
    assert (numbers["queries"], numbers["pictures"]) == (6, 20)
    precisions, first = _ranked(workdir)
    assert 0 < np.mean(precisions) < 1
    np.testing.assert_allclose(numbers["mAP"], np.mean(precisions), rtol=1e-9)
    assert numbers["top1"] == np.mean(np.array(first) < 1) and numbers["top5"] == np.mean(np.array(first) < 5)
    assert "market1501 test: 6 queries, 20 pictures" in capsys.readouterr().out


def _ranked(workdir: Path) -> tuple[list[float], list[int]]:
    """Average precision and place of the first right answer of each query, by the saved network, picture by picture."""
    variables, meta = load_variables(workdir)
    system = build_system(meta["system"], meta["model"])
    source = open_source(ConfigDict(meta["config"]["data"]))
    scenes, embed = source.split("test").scenes, jax.jit(system.embed)
    features, who, where, asked = [], [], [], []
    for batch in source.scene_batches("test"):
        for row, index in enumerate(batch.index):
            if index < 0:
                continue
            one = jax.tree.map(lambda leaf, row=row: np.asarray(leaf)[row : row + 1], batch.scenes)
            height, width = one.size[0]
            box = np.array([[[0, 0, width, height]]], np.float32)
            feature = np.asarray(embed(variables, one, box), np.float64).reshape(-1)
            features.append(feature / np.linalg.norm(feature))
            name = Path(scenes[index].path)
            who.append(int(name.name.split("_")[0]))
            where.append(int(name.name.split("_c")[1][0]))
            asked.append(name.parent.name == "query")
    precisions, first = [], []
    for query in np.flatnonzero(asked):
        others = [
            (-features[query] @ features[other], who[other] == who[query])
            for other in np.flatnonzero(~np.array(asked))
            if who[other] >= 0 and (who[other], where[other]) != (who[query], where[query])
        ]
        places = [place for place, (_, right) in enumerate(sorted(others)) if right]
        precisions.append(np.mean([(number + 1) / (place + 1) for number, place in enumerate(places)]))
        first.append(places[0])
    return precisions, first
