"""The command: a checkpoint becomes a work directory and comes back bit for bit. The checkpoints are written here."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from golden_recipe import load_golden

from ps_jax.errors import ConfigError, PortingError
from ps_jax.porting import read_tensors, restore_tensors
from ps_jax.porting.__main__ import export, load_config, main, port
from ps_jax.porting.sources import SOURCES
from ps_jax.porting.spnet import port_spnet
from ps_jax.porting.spnet_export import complete_spnet, spnet_export_rules
from ps_jax.porting.spnet_options import spnet_config, spnet_options
from ps_jax.porting.torch_writing import write_torch_file
from ps_jax.systems import build_system
from ps_jax.training import load_variables

ROOT = Path(__file__).parents[2]
FILES = Path(__file__).parent / "torch_files"


def names_and_shapes(golden_dir, item):
    """Every tensor of the authors' module, without its values."""
    meta = load_golden(golden_dir, item).meta
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in meta["params"]}
    return tensors | {name: np.broadcast_to(np.int64(0), shape) for name, shape in meta["untouched"]}


@pytest.fixture(scope="module")
def checkpoint(golden_dir, tmp_path_factory):
    """A file of SPNet-S as PyTorch Lightning names its tensors, and the tensors without that prefix."""
    golden = load_golden(golden_dir, "spnet_s_convnext_tiny_eval")
    rng = np.random.default_rng(0)
    counters = {name: np.asarray(rng.integers(100, size=shape)) for name, shape in golden.meta["untouched"]}
    tensors = golden.params() | counters
    path = tmp_path_factory.mktemp("checkpoint") / "epoch=29.ckpt"
    write_torch_file(path, {f"model.{name}": tensor for name, tensor in tensors.items()})
    return path, tensors


@pytest.fixture(scope="module")
def ported(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("ported") / "run"
    told = port([str(checkpoint[0]), "--system", "spnet", "--out", str(out), "--config.data.dir=/scenes"])
    assert f"{out}: spnet with trunk convnext_tiny, 251 tensors of epoch=29.ckpt" in told
    return out


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        assert found[name].tobytes() == tensor.tobytes(), name


def test_a_work_directory_holds_the_checkpoint(checkpoint, ported):
    path, tensors = checkpoint
    variables, meta = load_variables(ported)
    rows, queue = (tensors[f"head.reid_loss.{name}"] for name in ("lut", "cq"))
    assert (meta["system"], meta["phase"], meta["step"]) == ("spnet", "ported", 0)
    assert meta["model"]["num_identities"] == len(rows) and meta["model"]["queue_size"] == len(queue)
    assert meta["model"]["mode"] == "oc" and meta["model"]["samples_per_image"] == 128  # of the configuration
    assert meta["pretrained"]["checkpoint"] == path.name
    np.testing.assert_array_equal(variables["memory"]["lookup_table"], rows)
    np.testing.assert_array_equal(variables["memory"]["queue"], queue)
    assert variables["memory"]["queue_header"] == 0
    system = build_system(meta["system"], meta["model"])
    jax.tree.map(np.testing.assert_array_equal, variables, port_spnet(tensors, system))
    config = json.loads((ported / "config.json").read_text())
    assert config["phases"] == ["ported"] and config["data"]["dir"] == "/scenes"
    assert config["model"]["trunk"] == "convnext_tiny" and "finetune" not in config


def test_the_way_back_gives_every_tensor_bit_for_bit_in_its_order(checkpoint, ported, tmp_path):
    told = export([str(ported), str(tmp_path / "back.pth")])
    assert told == f"251 tensors written to {tmp_path / 'back.pth'}"
    assert_same(read_tensors(tmp_path / "back.pth"), checkpoint[1])
    # Beside the variables only the counters are kept.
    rest = read_tensors(ported / "ported" / "rest.pth")
    assert len(rest) == 2 and all(name.endswith("num_batches_tracked") for name in rest)
    copy = tmp_path / "without"
    shutil.copytree(ported, copy)
    (copy / "ported" / "rest.pth").unlink()
    with pytest.raises(PortingError, match=r"rest.pth is missing or another one: .*num_batches_tracked"):
        export([str(copy), str(tmp_path / "again.pth")])
    assert not (tmp_path / "again.pth").exists()


def test_a_directory_with_a_training_is_left_alone(checkpoint, ported):
    with pytest.raises(ConfigError, match="a training lives here; choose another directory"):
        port([str(checkpoint[0]), "--system", "spnet", "--out", str(ported)])


def test_one_error_lists_where_configuration_and_checkpoint_differ(checkpoint, tmp_path, capsys):
    arguments = [str(checkpoint[0]), "--system", "spnet", "--out", str(tmp_path / "out")]
    with pytest.raises(ConfigError) as caught:
        port([*arguments, "--config", str(ROOT / "configs/spnet_oc_l.py:prw")])
    lines = str(caught.value).splitlines()
    assert lines[0] == "The checkpoint is of another model than the configuration:"
    assert set(lines[1:-1]) == {
        "  trunk: 'convnext_base' in the configuration, 'convnext_tiny' in it",
        "  reid_dim: 2048 in the configuration, 128 in it",
        "  num_cascade_steps: 2 in the configuration, 0 in it",
        "  separate_location_heads: True in the configuration, False in it",
        "  queue_size: 500 in the configuration, 64 in it",
    }
    # Without --config only what the command line itself says counts.
    with pytest.raises(ConfigError) as caught:
        port([*arguments, "--config.model.queue_size=500"])
    assert str(caught.value).splitlines()[1:-1] == ["  queue_size: 500 in the configuration, 64 in it"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--system", "seqnet2"], "Checkpoints of a system 'seqnet2' cannot be ported. Choose one of: "),
        (
            ["--system", "spnet", "--config", "configs/none.py"],
            "configs/none.py: there is no such Python file",
        ),
        (["--system", "spnet", "--config.none=1"], "none"),
        (["--system", "spnet", "--none"], "--none"),
    ],
)
def test_mistakes_on_the_command_line_are_told_of(checkpoint, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        port([str(checkpoint[0]), *arguments, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_file_of_something_else_is_told_of(tmp_path):
    with pytest.raises(
        PortingError, match=r"not a checkpoint of SPNet: it has no head\.feature_head\.emb_pred"
    ):
        port([str(FILES / "network.pth"), "--system", "spnet", "--out", str(tmp_path)])
    finished = subprocess.run(
        [sys.executable, "-m", "ps_jax.porting", "none.pth", "--system", "spnet", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == "porting: There is no weights file none.pth.\n"


def test_a_configuration_of_another_system_is_told_of():
    with pytest.raises(ConfigError, match="is a configuration of spnet, but --system is seqnet"):
        load_config(str(ROOT / "configs/spnet_oc.py"), "seqnet", [])


# What names and shapes tell

LARGE = {"reid_dim": 2048, "num_cascade_steps": 2, "separate_location_heads": True}


@pytest.mark.parametrize(
    "item, trunk, differing",
    [
        ("spnet_s_convnext_tiny_eval", "convnext_tiny", {}),
        ("spnet_s_resnet50_eval", "resnet50", {}),
        ("spnet_s_swin_b_eval", "swin_base", {}),
        ("spnet_l_convnext_base_eval", "convnext_base", LARGE),
        ("spnet_l_solider_swin_b_eval", "solider_swin_base", LARGE),
        ("spnet_qcmoco_s_convnext_tiny_train", "convnext_tiny", {"reid_objective": "queue"}),
    ],
)
def test_the_model_is_told_by_names_and_shapes(golden_dir, item, trunk, differing):
    tensors = names_and_shapes(golden_dir, item)
    options = spnet_options(tensors)
    expected = {
        "trunk": trunk,
        "embedding_dim": 128,
        "reid_dim": 128,
        "num_cascade_steps": 0,
        "separate_location_heads": False,
        "bridge_type": "combiner",
        "reid_objective": "oim",
    } | differing
    assert {name: options[name] for name in expected} == expected
    if expected["reid_objective"] == "oim":
        meta = load_golden(golden_dir, item).meta
        assert options["num_identities"] == meta["lut"]
        assert options["queue_size"] == tensors["head.reid_loss.cq"].shape[0]


def test_the_configuration_is_that_of_the_data_set(golden_dir):
    tensors = names_and_shapes(golden_dir, "spnet_s_convnext_tiny_eval")
    for rows, config in (
        (5532, "configs/spnet_oc.py:cuhk_sysu"),
        (482, "configs/spnet_oc.py:prw"),
        (483, "configs/spnet_oc.py:prw"),
        (77, "configs/spnet_oc.py:coco_json"),
    ):
        tensors["head.reid_loss.lut"] = np.broadcast_to(np.float32(0), (rows, 128))
        assert spnet_config(tensors) == config
    del tensors["head.reid_loss.lut"]
    assert spnet_config(tensors) == "configs/spnet_qc.py:coco_persons"


def test_other_trunks_are_named(golden_dir):
    tensors = names_and_shapes(golden_dir, "spnet_s_convnext_tiny_eval")
    short = {name: tensor for name, tensor in tensors.items() if not name.startswith("backbone.body.5.8.")}
    with pytest.raises(
        PortingError, match="looks like convnext_tiny, but its third stage has 8 blocks, wanted are 9"
    ):
        spnet_options(short)
    without = {name: tensor for name, tensor in tensors.items() if not name.startswith("backbone.body.")}
    with pytest.raises(PortingError, match="has no trunk"):
        spnet_options(without)


# Variables that were never ported


@pytest.mark.parametrize(
    "item",
    [
        "spnet_s_convnext_tiny_eval",
        "spnet_s_resnet50_eval",
        "spnet_l_resnet50_eval",
        pytest.param("spnet_s_swin_b_eval", marks=pytest.mark.slow),
        pytest.param("spnet_l_convnext_base_eval", marks=pytest.mark.slow),
        pytest.param("spnet_qcmoco_s_convnext_tiny_train", marks=pytest.mark.slow),
    ],
)
def test_variables_trained_here_have_all_names_of_the_authors_module(golden_dir, item):
    wanted = names_and_shapes(golden_dir, item)
    if item.startswith("spnet_qcmoco"):  # the queue of pre-training is not carried, either way
        wanted = {name: x for name, x in wanted.items() if not name.startswith("head.reid_loss.")}
    system = build_system("spnet", {"num_identities": 1} | spnet_options(wanted))
    variables = jax.tree.map(
        lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), system.template
    )
    tensors = complete_spnet(restore_tensors(variables, spnet_export_rules(system)), system)
    assert set(tensors) == set(wanted)
    for name, tensor in wanted.items():
        assert (tensors[name].shape, tensors[name].dtype) == (tensor.shape, tensor.dtype), name


@pytest.mark.parametrize(
    "changes", [{"bridge_type": "direct"}, {"logit_scale": "batch"}, {"trunk": "swin_v2_tiny"}]
)
def test_names_follow_the_models_options(golden_dir, changes):
    """What is written is told to be the same model, and carried to the same variables."""
    options = spnet_options(names_and_shapes(golden_dir, "spnet_s_convnext_tiny_eval")) | changes
    system = build_system("spnet", options)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape, np.float32), leaf.dtype), system.template
    )
    variables["memory"]["queue_header"] = jnp.zeros((), jnp.int32)
    tensors = complete_spnet(restore_tensors(variables, spnet_export_rules(system)), system)
    assert spnet_options(tensors) == options
    jax.tree.map(np.testing.assert_array_equal, port_spnet(tensors, system), variables)


def test_a_solider_trunk_is_only_carried_back_where_it_came_from(golden_dir):
    system = build_system("spnet", {"num_identities": 3, "trunk": "solider_swin_tiny"})
    with pytest.raises(PortingError, match="Only a work directory that was ported from a checkpoint"):
        complete_spnet({}, system)


def test_every_source_has_its_configuration():
    for system, source in SOURCES.items():
        assert callable(source.port) and isinstance(source.own, tuple)
        build_system(system, {"num_identities": 2})


# The file that is written


def test_files_written_here_are_laid_out_as_pytorchs(tmp_path):
    """The same tensors as in a file of PyTorch's own: the same reader, storages on multiples of 64 bytes."""
    expected = read_tensors(FILES / "kinds.pth")
    path = tmp_path / "kinds.pth"
    write_torch_file(path, expected)
    assert_same(read_tensors(path), {name: np.array(tensor, order="C") for name, tensor in expected.items()})
    data = path.read_bytes()
    assert data[:4] == (FILES / "kinds.pth").read_bytes()[:4] == b"PK\x03\x04"
    whole = read_tensors(FILES / "network.pth")
    write_torch_file(path, whole)
    ours, theirs = path.read_bytes(), (FILES / "network.pth").read_bytes()
    for tensor in whole.values():  # conv kernels, counters: the same bytes, aligned in both
        assert theirs.find(tensor.tobytes()) >= 0
    place = ours.find(whole["0.weight"].tobytes())
    assert place % 64 == theirs.find(whole["0.weight"].tobytes()) % 64 == 0
    assert [item.name for item in tmp_path.iterdir()] == ["kinds.pth"]


def test_types_that_pytorch_lacks_are_named_and_nothing_is_written(tmp_path):
    with pytest.raises(PortingError, match="x is of type float8_e4m3fn, which PyTorch has no storage for"):
        write_torch_file(tmp_path / "a.pth", {"x": np.zeros(2, ml_dtypes.float8_e4m3fn)})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_ported_checkpoint_is_evaluated_and_fine_tuned(checkpoint, tmp_path):
    """Straight into both commands, on generated streets; what was trained on is written for PyTorch again."""
    small = [
        "--config.data.max_people=4",
        "--config.data.resize=(96, 128)",
        "--config.data.streets.height=96",
        "--config.data.streets.width=128",
        "--config.data.streets.train_scenes=8",
        "--config.data.streets.test_scenes=6",
        "--config.data.streets.train_identities=4",
        "--config.data.streets.test_identities=3",
        "--config.data.streets.cameras=2",
        "--config.data.streets.people=(2, 3)",
        "--config.data.streets.gallery_sizes=(4,)",
        f"--config.data.dir={tmp_path / 'streets'}",
        "--config.eval.pictures=0",
        "--config.model.trunk=convnext_tiny",
        "--config.model.embedding_dim=128",
        "--config.model.reid_dim=128",
        "--config.model.queue_size=64",
    ]
    config = ["--config", "configs/spnet_oc.py", *small]

    def run(*command):
        finished = subprocess.run(
            [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=900
        )
        assert finished.returncode == 0, finished.stderr[-3000:]

    run("-m", "ps_jax.porting", checkpoint[0], "--system", "spnet", "--out", tmp_path / "ported", *config)
    run("eval.py", "--workdir", tmp_path / "ported", "--out", tmp_path / "evaluation")
    measured = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert 0.0 <= measured["detection"]["recall"] <= 1.0
    assert "epoch=29.ckpt" in measured["versions"]["pretrained"]
    run(
        *("train.py", *config, "--workdir", tmp_path / "tuned", f"--config.pretrained={tmp_path / 'ported'}"),
        *("--config.finetune.crop=96", "--config.finetune.batch_size=4", "--config.finetune.epochs=0.5"),
    )
    run("-m", "ps_jax.porting", "export", tmp_path / "tuned", tmp_path / "tuned.pth")
    before, after = checkpoint[1], read_tensors(tmp_path / "tuned.pth")
    assert set(after) == set(before)
    name = "head.bridge_layer.0.linear.weight"
    assert 0 < np.abs(after[name] - before[name]).max() < 0.01  # one step from where it was
    assert main(["export", str(tmp_path / "ported"), str(tmp_path / "back.pth")]) == 0
    assert_same(read_tensors(tmp_path / "back.pth"), before)
