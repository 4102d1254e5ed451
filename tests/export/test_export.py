"""A model package is whole, every reader of a work directory takes it, and plain JAX runs its programs."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from systems.tiny_spnet import OPTIONS, batch, tiny  # noqa: F401

from ps_jax.errors import CheckpointError, ConfigError
from ps_jax.export import export_package, read_package
from ps_jax.export.__main__ import main
from ps_jax.interface import Scenes
from ps_jax.training import load_variables
from ps_jax.training.checkpoints import Checkpoints
from ps_jax.training.state import TrainState

EVAL = {"score_threshold": 0.0, "similarity": "cosine", "model": {}}
CONFIG = {"eval": EVAL, "data": {"resize": [64, 96]}, "precision": "float32", "phases": ["finetune"]}


@pytest.fixture
def workdir(tiny, tmp_path):  # noqa: F811
    """A work directory of a training that ended at step 3."""
    system = tiny()
    variables = system.init(jax.random.key(0), *batch())
    state = TrainState(step=jax.numpy.int32(3), opt_state={}, rng=jax.random.key(0), **variables)
    meta = {"system": "spnet", "model": OPTIONS, "config": CONFIG, "phase": "finetune", "total_steps": 3}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(CONFIG))
    with Checkpoints(tmp_path / "run" / "finetune" / "checkpoints") as checkpoints:
        checkpoints.save(state, meta)
    return tmp_path / "run"


def test_a_package_reads_as_its_work_directory(workdir, tmp_path, capsys):
    main([str(workdir), "--licence", "CC-BY-NC-4.0"])
    package = workdir / "package"
    assert capsys.readouterr().out == f"{package}: spnet, 0 sizes of StableHLO, CC-BY-NC-4.0\n"
    theirs, meta = load_variables(workdir)
    ours, its_meta = load_variables(package, "finetune", "best")
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert its_meta == {name: value for name, value in meta.items() if name != "leaves"}
    record = json.loads((package / "package.json").read_text())
    assert record["format"] == 1 and record["licence"] == "CC-BY-NC-4.0"
    assert record["preprocessing"]["resize"]["short_side"] == 64
    assert record["thresholds"]["score"] == 0.0 and record["provenance"]["checkpoint_step"] == 3
    assert json.loads((package / "config.json").read_text()) == CONFIG
    assert (package / "LICENSE").read_text() == "CC-BY-NC-4.0\n"
    checked = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=package)
    assert checked.returncode == 0
    again = tmp_path / "again"
    export_package(package, again, "CC-BY-NC-4.0")  # a package of a package
    assert (again / "SHA256SUMS").read_text() == (package / "SHA256SUMS").read_text()


def test_a_package_without_a_licence_says_so(workdir, capsys):
    main([str(workdir)])
    said = capsys.readouterr()
    assert "name their licence with --licence" in said.err and said.out.endswith(
        "no licence was stated; ask whoever trained this model\n"
    )
    record = json.loads((workdir / "package" / "package.json").read_text())
    assert record["licence"] == (workdir / "package" / "LICENSE").read_text().strip()
    assert record["licence"].startswith("no licence was stated")


def test_damaged_packages_are_refused(workdir, tmp_path):
    package = tmp_path / "package"
    export_package(workdir, package, "CC0-1.0")
    weights = package / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"checksum of model.safetensors does not match; fetch it again"
    ):
        read_package(package)
    data[-5] ^= 1
    weights.write_bytes(data)
    read_package(package)
    config = json.loads((package / "config.json").read_text())
    config["eval"]["score_threshold"] = 0.5
    (package / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    with pytest.raises(CheckpointError, match=r"checksum of config.json does not match; fetch it again"):
        read_package(package)
    weights.unlink()
    with pytest.raises(CheckpointError, match="this model package is damaged"):
        load_variables(package)
    export_package(workdir, package, "CC0-1.0")  # replaces it
    read_package(package)
    (package / "SHA256SUMS").write_text("nonsense\n")
    with pytest.raises(CheckpointError, match="this model package is damaged"):
        read_package(package)


def test_other_folders_are_not_replaced(workdir, tmp_path):
    with pytest.raises(ConfigError, match="there is something else here"):
        export_package(workdir, workdir, "CC0-1.0")
    package = tmp_path / "package"
    export_package(workdir, package, "CC0-1.0")
    (package / "evaluation").mkdir()
    (package / "evaluation" / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"something else here \(evaluation/results.json\)"):
        export_package(workdir, package, "CC0-1.0")
    assert (package / "evaluation" / "results.json").is_file()
    other = tmp_path / "other"
    other.mkdir()
    (other / "package.json").write_text('{"name": "a program of somebody"}')
    with pytest.raises(ConfigError, match="there is something else here"):
        export_package(workdir, other, "CC0-1.0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "package", "run"]
    with pytest.raises(ConfigError, match="--licence"):
        export_package(workdir, tmp_path / "p", " ")
    with pytest.raises(ConfigError, match="--picture_size 0x5"):
        export_package(workdir, tmp_path / "p", "CC0-1.0", [(0, 5)])
    assert not (tmp_path / "p").exists()


PLAIN = """
import sys
import numpy as np
import jax.export
from safetensors.numpy import load_file
package, inputs, outputs = sys.argv[1:]
weights, given = load_file(f"{package}/model.safetensors"), np.load(inputs)
def program(name):
    with open(f"{package}/programs/{name}_64x96.stablehlo", "rb") as file:
        return jax.export.deserialize(bytearray(file.read()))
found = program("detect").call(weights, given["image"], given["size"])
embedding = program("embed").call(weights, given["image"], given["size"], given["boxes"])
np.savez(outputs, embedded=embedding, **found)
assert not [name for name in sys.modules if name.split(".")[0] in ("ps_jax", "flax", "kernels", "input_pipeline")]
"""


def test_plain_jax_runs_the_programs(workdir, tmp_path, tiny):  # noqa: F811
    package = tmp_path / "package"
    record = export_package(workdir, package, "CC0-1.0", [(128, 190), (64, 95)])
    assert record["programs"] == [{"canvas": [64, 96], "picture": [128, 190], "resized": [64, 95]}]
    image = np.zeros((1, 64, 96, 3), np.uint8)
    image[:, :, :95] = np.random.default_rng(0).integers(0, 256, (1, 64, 95, 3))
    size = np.array([[64, 95]], np.int32)
    boxes = np.zeros((1, 32, 4), np.float32)
    boxes[0, :2] = [[5, 5, 30, 60], [40, 10, 70, 64]]
    np.savez(tmp_path / "inputs.npz", image=image, size=size, boxes=boxes)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import jax.export\n" + PLAIN,
            package,
            tmp_path / "inputs.npz",
            tmp_path / "outputs.npz",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    system = tiny().changed(score_threshold=0.0)
    variables, _ = load_variables(package)
    expected = jax.jit(system.detect)(variables, Scenes(image, size))
    found = np.load(tmp_path / "outputs.npz")
    assert expected.valid.sum() > 5
    for name, value in expected._asdict().items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4)
    embedded = jax.jit(system.embed)(variables, Scenes(image, size), boxes)
    np.testing.assert_allclose(found["embedded"], embedded, rtol=1e-4, atol=1e-4)
    assert Path(package / "programs").is_dir()
