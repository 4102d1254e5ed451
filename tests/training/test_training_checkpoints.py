import errno
import logging
import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_training import leaves

from ps_jax.errors import CheckpointError, TrainingError
from ps_jax.training.checkpoints import Checkpoints, has_checkpoints, load_variables
from ps_jax.training.state import TrainState

META = {"phase": "finetune", "phase_index": 1}


def make_state(step=0, size=64):
    params = {"head": {"kernel": jax.random.normal(jax.random.key(step), (size, 8)), "bias": jnp.ones(8)}}
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=params,
        batch_stats={},
        memory={"queue": jnp.full((4, 8), step, jnp.float32), "nothing": jnp.zeros((0, 8))},
        opt_state=optax.adamw(1e-3).init(params),
        rng=jax.random.key(7),
    )


def write(directory, steps, **options):
    with Checkpoints(directory, **options) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step), META)


def assert_same(one, other):
    for a, b in zip(leaves(one), leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def data_files(step_directory):
    return sorted(path for path in step_directory.glob("state/**/d/*") if path.is_file())


def test_everything_comes_back_to_the_bit(tmp_path):
    directory = tmp_path / "finetune" / "checkpoints"
    write(directory, [3])
    with Checkpoints(directory) as checkpoints:
        state, meta = checkpoints.restore(jax.eval_shape(make_state))
    assert_same(state, make_state(3))
    assert jax.tree.structure(state) == jax.tree.structure(make_state(3))
    assert meta["step"] == 3 and meta["phase"] == "finetune"
    assert meta["versions"]["jax"] == jax.__version__
    assert meta["leaves"]["params/head/kernel"][:2] == [[64, 8], "float32"]


def test_only_the_last_are_kept(tmp_path):
    write(tmp_path, [1, 2, 3, 4], keep=2)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps == [3, 4]


def test_nothing_to_restore(tmp_path):
    assert not has_checkpoints(tmp_path / "none")
    with Checkpoints(tmp_path / "none") as checkpoints:
        assert checkpoints.restore(jax.eval_shape(make_state)) is None
        assert checkpoints.last_good == "there is no earlier checkpoint of this phase"


def empty_directory(path):
    shutil.rmtree(path)
    path.mkdir()


def lose_arrays(path):
    shutil.rmtree(path / "state")


def cut_arrays(path):
    for file in data_files(path):
        os.truncate(file, file.stat().st_size // 2)


def cut_meta(path):
    os.truncate(path / "meta" / "metadata", 50)


@pytest.mark.parametrize("damage", [empty_directory, lose_arrays, cut_arrays, cut_meta])
def test_a_half_written_checkpoint_is_passed_over(tmp_path, caplog, capfd, damage):
    directory = tmp_path / "pretrain" / "checkpoints"
    write(directory, [1, 2])
    damage(directory / "2")
    with Checkpoints(directory) as checkpoints, caplog.at_level(logging.WARNING):
        state, _ = checkpoints.restore(jax.eval_shape(make_state))
        assert_same(state, make_state(1))
        assert f"{directory / '2'}: this checkpoint is damaged" in caplog.text
        assert "going on from step 1" in caplog.text
        # the damaged one is out of the way of the run that goes on
        assert checkpoints.steps == [1]
        assert (tmp_path / "pretrain" / "damaged-2").is_dir()
        checkpoints.save(make_state(2), META)
    with Checkpoints(directory) as checkpoints:
        assert_same(checkpoints.restore(jax.eval_shape(make_state))[0], make_state(2))
    assert "Traceback" not in capfd.readouterr().err


def test_a_flipped_bit_never_comes_through(tmp_path):
    write(tmp_path / "good", [1, 2])
    rng = np.random.default_rng(0)
    noticed = 0
    for trial in range(8):
        directory = tmp_path / str(trial) / "checkpoints"
        shutil.copytree(tmp_path / "good", directory)
        file = max(data_files(directory / "2"), key=lambda path: path.stat().st_size)
        content = bytearray(file.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        file.write_bytes(content)
        with Checkpoints(directory) as checkpoints:
            state, meta = checkpoints.restore(jax.eval_shape(make_state))
        assert_same(state, make_state(meta["step"]))
        noticed += meta["step"] == 1
    assert noticed >= 6  # nearly the whole file is values


def test_no_readable_checkpoint_is_an_error(tmp_path):
    directory = tmp_path / "finetune" / "checkpoints"
    write(directory, [1, 2])
    cut_arrays(directory / "1")
    cut_arrays(directory / "2")
    with Checkpoints(directory) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(jax.eval_shape(make_state))
    assert str(directory) in str(error.value) and "steps [1, 2]" in str(error.value)
    with pytest.raises(CheckpointError, match="none of the checkpoints can be read"):
        load_variables(tmp_path)


def test_another_model_is_named_leaf_by_leaf(tmp_path):
    write(tmp_path, [1])

    def other(dtype):
        state = make_state()
        params = {"head": {"kernel": jnp.zeros((64, 9)), "scale": jnp.ones(8)}}
        return state.replace(params=params, memory={**state.memory, "queue": jnp.zeros((4, 8), dtype)})

    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(jax.eval_shape(lambda: other(jnp.bfloat16)))
    message = str(error.value)
    assert str(tmp_path / "1") in message
    assert "memory/queue: float32[4, 8] in the checkpoint, bfloat16[4, 8] in the model" in message
    assert "params/head/bias: only in the checkpoint" in message
    assert "params/head/kernel: float32[64, 8] in the checkpoint, float32[64, 9] in the model" in message
    assert "params/head/scale: only in the model" in message
    assert "another --workdir" in message
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps == [1]  # and nothing was moved


def test_variables_are_loaded_without_a_template(tmp_path):
    for phase, index, steps in (("pretrain", 0, [5, 9]), ("finetune", 1, [2])):
        with Checkpoints(tmp_path / phase / "checkpoints") as checkpoints:
            for step in steps:
                checkpoints.save(make_state(step), {"phase": phase, "phase_index": index})
    with Checkpoints(tmp_path / "pretrain" / "best") as best:
        best.save(make_state(5), {"phase": "pretrain", "phase_index": 0})
    variables, meta = load_variables(tmp_path)
    assert (meta["phase"], meta["step"]) == ("finetune", 2)
    assert jax.tree.structure(variables) == jax.tree.structure(make_state().variables)
    np.testing.assert_array_equal(
        variables["params"]["head"]["kernel"], make_state(2).params["head"]["kernel"]
    )
    assert variables["memory"]["nothing"].shape == (0, 8)
    assert load_variables(tmp_path, "pretrain")[1]["step"] == 9
    assert load_variables(tmp_path, "pretrain", "best")[1]["step"] == 5
    with pytest.raises(CheckpointError, match="no checkpoint of phase 'third'; train first"):
        load_variables(tmp_path, "third")
    with pytest.raises(CheckpointError, match="no checkpoint of any phase"):
        load_variables(tmp_path / "nowhere")


def check_failed_save(directory, save):
    """After a save that failed: a clear error, the earlier checkpoint intact, nothing half-written."""
    with pytest.raises(TrainingError) as error, Checkpoints(directory) as checkpoints:
        save(checkpoints)
        checkpoints.wait()
    message = str(error.value)
    assert str(directory) in message and "no space is left on the device" in message
    assert "MiB free" in message and f"the last good checkpoint is {directory / '1'}" in message
    assert sorted(path.name for path in directory.iterdir()) == ["1"]
    with Checkpoints(directory) as checkpoints:
        state, meta = checkpoints.restore(jax.eval_shape(make_state))
    assert_same(state, make_state(1))
    assert meta["step"] == 1


def test_no_space_left_as_the_system_reports_it(tmp_path, monkeypatch):
    write(tmp_path / "disk", [1])

    def save(checkpoints):
        def fail(*args, **kwargs):
            (checkpoints.directory / "2.orbax-checkpoint-tmp").mkdir()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(checkpoints._manager, "save", fail)
        checkpoints.save(make_state(2), META)

    check_failed_save(tmp_path / "disk", save)


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "small_disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small file system to fill cannot be mounted here (needs root)")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_no_space_left_on_a_real_disk(small_disk, capfd):
    directory = small_disk / "checkpoints"
    write(directory, [1])
    check_failed_save(directory, lambda checkpoints: checkpoints.save(make_state(2, size=80_000), META))
    assert "Traceback" not in capfd.readouterr().err


def test_an_error_in_the_run_goes_before_a_failed_save(tmp_path, monkeypatch):
    def fail():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "wait_until_finished", fail)
        raise ZeroDivisionError
