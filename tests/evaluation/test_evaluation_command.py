"""The command line of the evaluation, with the training's parts replaced by fakes."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_fakes import ColorSystem, DrawnSource, make_split, perfect_variables

from ps_jax.errors import ConfigError
from ps_jax.evaluation import Settings
from ps_jax.evaluation.cbgm import ContextMatching
from ps_jax.evaluation.cbgm_grid import ContextGrid
from ps_jax.evaluation.options import evaluation_config, output_directory, parse_arguments

ROOT = Path(__file__).parents[2]
CONFIG = {
    "system": "color",
    "seed": 0,
    "precision": "auto",
    "data": {"source": "arrays", "dir": "elsewhere", "resize": [100, 160]},
    "eval": {
        "mode": "oc",
        "galleries": ["default"],
        "min_frame_gap": 0,
        "true_boxes": True,
        "cbgm": {"k1": 0, "k2": 0},
        "pictures": 2,
    },
}


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def options_of(*arguments: str):
    return parse_arguments("help", list(arguments))


@pytest.fixture
def command():
    spec = importlib.util.spec_from_file_location("evaluation_command", ROOT / "eval.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_configuration_with_changes(workdir):
    options, changes = options_of(
        *("--workdir", str(workdir), "--galleries", "TestG50,TestG100:full", "--min_frame_gap", "125"),
        *("--cbgm", "10,3", "--no-true_boxes", "--config.data.dir=data/arrays", "--config.eval.pictures=0"),
    )
    config = evaluation_config(options, changes)
    assert tuple(config.eval.galleries) == ("TestG50", "TestG100:full")
    assert (config.eval.min_frame_gap, config.eval.mode, config.eval.true_boxes) == (125, "oc", False)
    assert config.eval.cbgm.to_dict() == {"k1": 10, "k2": 3}
    assert (config.data.dir, config.eval.pictures) == ("data/arrays", 0)
    folder = output_directory(options, {"phase": "finetune", "step": 700}, [])
    assert folder == workdir / "evaluation" / (
        "finetune-700-galleries_TestG50_TestG100_full-min_frame_gap_125-true_boxes_False-cbgm_10_3"
    )
    plain, _ = options_of("--workdir", str(workdir))
    assert output_directory(plain, {"phase": "finetune", "step": 700}, []).name == "finetune-700"
    # Other trainings of one name from two places do not share a folder.
    for role in ("detector", "beside"):
        folders = set()
        for place in ("a", "b"):
            other, _ = options_of("--workdir", str(workdir), f"--{role}", f"{place}/seqnet")
            folders.add(output_directory(other, {"phase": "finetune", "step": 700}, []).name)
        assert len(folders) == 2 and all(name.startswith(f"finetune-700-{role}_seqnet_") for name in folders)
    changed = output_directory(plain, {"phase": "finetune", "step": 700}, ["--config.eval.iou=fixed"]).name
    assert changed.startswith("finetune-700-") and len(changed) == 21


def test_what_the_training_left_open_can_be_set(workdir):
    """Options of the model for testing alone, which the configuration keeps as null."""
    config = CONFIG | {"eval": CONFIG["eval"] | {"model": {"branch": None, "first_score": None}}}
    (workdir / "config.json").write_text(json.dumps(config))
    options, changes = options_of("--workdir", str(workdir))
    assert Settings.of(evaluation_config(options, changes).eval).model == {}
    changes = ["--config.eval.model.branch=roi", "--config.eval.model.first_score=False"]
    settings = Settings.of(evaluation_config(options, changes).eval)
    assert settings.model == {"branch": "roi", "first_score": False}


def test_context_matching_on_the_command_line(workdir):
    # The stored configuration is of an earlier version, without "candidates" and "cbgm_grid".
    options, changes = options_of(
        *("--workdir", str(workdir), "--cbgm", "10,3", "--cbgm_grid", "10,20,30x2,3,4"),
        *("--cbgm_candidates", "scenes", "--similarity", "score_cosine"),
    )
    config = evaluation_config(options, changes)
    assert config.eval.cbgm.to_dict() == {"k1": 10, "k2": 3, "candidates": "scenes"}
    assert config.eval.cbgm_grid.to_dict() == {"k1": (10, 20, 30), "k2": (2, 3, 4)}
    settings = Settings.of(config.eval)
    assert settings.context == ContextMatching(10, 3, "scenes")
    assert settings.context_grid == ContextGrid((10, 20, 30), (2, 3, 4), "scenes")
    assert settings.similarity == "score_cosine"
    assert output_directory(options, {"phase": "finetune", "step": 700}, []).name == (
        "finetune-700-similarity_score_cosine-cbgm_10_3-cbgm_grid_10_20_30x2_3_4-cbgm_candidates_scenes"
    )
    alone, changes = options_of("--workdir", str(workdir), "--cbgm_candidates", "scenes")
    with pytest.raises(ConfigError, match="--cbgm_candidates: there is nothing to count them for"):
        evaluation_config(alone, changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.data.sorce=arrays"], "config.data.sorce"),
        (["--config.eval.pictures=many"], "pictures"),
        (["--galeries", "all"], "galeries"),
        (["all"], "unknown arguments: all; python eval.py --help"),
    ],
)
def test_unknown_arguments(workdir, arguments, message):
    options, changes = options_of("--workdir", str(workdir), *arguments)
    with pytest.raises(ConfigError) as error:
        evaluation_config(options, changes)
    assert message in str(error.value)


def test_bad_numbers_are_refused_by_the_parser(workdir, capsys):
    with pytest.raises(SystemExit):
        options_of("--workdir", str(workdir), "--cbgm", "10")
    assert "'10' is not two numbers such as 10,3" in capsys.readouterr().err
    for grid in ("10,20", "10x2x3", "10,x2", "tenx2"):
        with pytest.raises(SystemExit):
            options_of("--workdir", str(workdir), "--cbgm_grid", grid)
        assert f"'{grid}' is no grid such as 10,20,30x2,3,4" in capsys.readouterr().err


def test_no_training_there(tmp_path):
    command = [sys.executable, str(ROOT / "eval.py"), "--workdir", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    message = "there is no such file; name the work directory of a training with --workdir"
    assert done.stderr.strip() == f"eval.py: {tmp_path / 'none' / 'config.json'}: {message}"
    assert list(tmp_path.iterdir()) == []


def test_everything_the_command_needs_imports_without_tensorflow():
    code = (
        "import sys; sys.modules['tensorflow'] = None; import input_pipeline, ps_jax.systems;"
        "import ps_jax.training, ps_jax.evaluation.evaluator, ps_jax.evaluation.options;"
        "import ps_jax.evaluation.contact_sheets, ps_jax.evaluation.curves"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_main(workdir, command, monkeypatch, capsys):
    split = make_split()
    meta = {"phase": "finetune", "step": 700, "system": "color", "model": {"width": 3}, "config": CONFIG}
    asked = {}

    def load_system(*arguments, dtype):
        asked["checkpoint"] = (*arguments, str(dtype))
        return ColorSystem(), perfect_variables(split), meta

    def open_source(data):
        asked["data"] = data.dir
        return DrawnSource(split)

    monkeypatch.setattr("ps_jax.training.load_system", load_system)
    monkeypatch.setattr("ps_jax.training.enable_compilation_cache", lambda: None)
    monkeypatch.setattr("input_pipeline.open_source", open_source)
    command.main(["--workdir", str(workdir), "--phase", "finetune", "--config.data.dir=here", "--mode", "qc"])
    assert asked == {
        "checkpoint": (workdir, "finetune", "last", "float32"),
        "data": "here",
    }
    out = workdir / "evaluation" / "finetune-700-mode_qc"
    results = json.loads((out / "results.json").read_text())
    assert results["search"]["rule"]["mAP"] == 1.0
    assert results["settings"]["mode"] == "query-centric"
    assert results["versions"]["checkpoint_step"] == 700
    assert len(results["versions"]["config"]) == 12
    assert (out / "index.html").exists()
    assert f"written to {out}" in capsys.readouterr().out
