"""What a training has made is taken as it is, and refused where it is of another model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems.tiny_spnet import OPTIONS, batch, tiny  # noqa: F401

from ps_jax.errors import CheckpointError
from ps_jax.training import TrainState, load_system
from ps_jax.training.checkpoints import Checkpoints


def save(workdir, variables):
    """Makes a work directory whose training ended with some variables."""
    state = TrainState(step=jnp.int32(3), opt_state={}, rng=jax.random.key(0), **variables)
    meta = {"system": "spnet", "model": OPTIONS, "config": {"precision": "bfloat16"}, "phase": "finetune"}
    with Checkpoints(workdir / "finetune" / "checkpoints") as checkpoints:
        checkpoints.save(state, meta)


def test_the_system_computes_as_its_training_says_unless_told_otherwise(tiny, tmp_path):  # noqa: F811
    variables = tiny().init(jax.random.key(0), *batch())
    save(tmp_path, variables)
    system, loaded, meta = load_system(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded["params"], variables["params"])
    assert system.module.dtype == jnp.bfloat16 and meta["step"] == 3
    system = load_system(tmp_path, "finetune", dtype=jnp.float32, score_threshold=0.25)[0]
    assert system.module.dtype == jnp.float32 and system.module.score_threshold == 0.25


def test_variables_of_another_version_of_the_model_are_refused(tiny, tmp_path):  # noqa: F811
    variables = tiny().init(jax.random.key(0), *batch())
    variables["params"]["renamed"] = variables["params"].pop("box_embedder")
    save(tmp_path, variables)
    with pytest.raises(CheckpointError, match="its variables are of another version of the model") as refused:
        load_system(tmp_path)
    lines = str(refused.value).splitlines()
    assert str(tmp_path) in lines[0] and lines[1].startswith("  params/box_embedder/")
    assert lines[1].endswith(": only in the model")
    assert lines[-1] == "Train again, or use the version of ps_jax that made it."
