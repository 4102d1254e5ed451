"""Re-identification losses against released code, step after step: instance matching and the momentum queue."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_recipe import load_golden

from ps_jax.losses import InstanceMemory, empty_queue, oim_loss, queue_loss, update_memory, update_queue

EXACT = 1e-5
UNKNOWN = 5555  # label of people without identity in the files of SeqNet and NAE


def _memory(golden, prefix=""):
    return InstanceMemory(
        jnp.asarray(golden.array(f"{prefix}lut")),
        jnp.asarray(golden.array(f"{prefix}cq")),
        jnp.asarray(golden.meta["header_before"], jnp.int32),
    )


def _check_memory(golden, prefix, step, memory):
    golden.check(f"{prefix}_lut_after{step}", memory.lookup_table, relative=EXACT)
    golden.check(f"{prefix}_cq_after{step}", memory.queue, relative=EXACT)


def test_online_instance_matching(golden_dir):
    golden = load_golden(golden_dir, "loss_oim")
    meta, memory = golden.meta, _memory(golden, "safe_")
    for step in (0, 1):
        x = jnp.asarray(golden.array(f"safe_in{step}"))
        label = jnp.asarray(golden.array(f"safe_label{step}"), jnp.int32)
        identity = jnp.where(label == meta["dims"]["lut"], -1, label)
        valid = jnp.ones(label.shape, bool)

        def loss(x, identity=identity, valid=valid, memory=memory):
            return jnp.mean(oim_loss(x, identity, valid, memory, meta["scalar"]))

        value, gradient = jax.value_and_grad(loss)(x)
        golden.check(f"safe_loss{step}", value, relative=EXACT)
        golden.check(f"safe_grad{step}", gradient, relative=EXACT)
        memory = update_memory(memory, x, identity, valid, meta["momentum"])
        _check_memory(golden, "safe", step, memory)
        assert memory.queue_header == meta[f"safe_header_after{step}"]
        assert np.all(np.isfinite(memory.lookup_table))


@pytest.mark.parametrize("release", ["seqnet", "nae", "nae_smr"])
def test_online_instance_matching_of_other_releases(golden_dir, release):
    """With a full table they differ from SPNet's in two points.

    They drop background rows and divide by the labelled ones, and they take unit rows as they come: ours
    normalises, so its gradient has no part along a row. (NAE's weights of the queue change no loss.)
    """
    golden = load_golden(golden_dir, "loss_oim")
    meta, memory = golden.meta, _memory(golden)
    for step in (0, 1):
        x = jnp.asarray(golden.array(f"in{step}"))
        label = jnp.asarray(golden.array(f"roi_label{step}"), jnp.int32)
        identity, valid = jnp.where(label == UNKNOWN, -1, label - 1), label > 0

        def loss(x, identity=identity, valid=valid, memory=memory):
            labelled = jnp.sum(valid & (identity >= 0))
            return jnp.sum(oim_loss(x, identity, valid, memory, meta["scalar"])) / labelled

        value, gradient = jax.value_and_grad(loss)(x)
        golden.check(f"{release}_loss{step}", value, relative=EXACT)
        stored = golden.array(f"{release}_grad{step}")
        across = stored - np.sum(stored * x, axis=1, keepdims=True) * x
        np.testing.assert_allclose(gradient, across, rtol=0, atol=EXACT * np.abs(stored).max())
        memory = update_memory(memory, x, identity, valid, meta["momentum"])
        _check_memory(golden, release, step, memory)
        if release != "nae_smr":
            assert memory.queue_header == meta[f"{release}_header_after{step}"]


def test_momentum_queue(golden_dir):
    """Three steps, the last of which turns around the queue and has momentum embeddings of its own."""
    golden = load_golden(golden_dir, "loss_oim")
    meta = golden.meta
    queue = empty_queue(meta["cqloss_size"], meta["dims"]["D"])
    for step in (0, 1, 2):
        x = jnp.asarray(golden.array(f"cqloss_in{step}"))
        person = jnp.asarray(golden.array(f"cqloss_pid{step}"), jnp.int32)
        valid = jnp.ones(person.shape, bool)
        own = f"cqloss_moco{step}"
        queue = update_queue(queue, jnp.asarray(golden.array(own)) if own in golden else x, person, valid)

        def loss(x, person=person, valid=valid, queue=queue):
            return jnp.mean(queue_loss(x, person, valid, queue, meta["scalar"]))

        value, gradient = jax.value_and_grad(loss)(x)
        golden.check(f"cqloss_loss{step}", value, relative=EXACT)
        golden.check(f"cqloss_grad{step}", gradient, relative=EXACT)
        golden.check(f"cqloss_emb_cq_after{step}", queue.embedding, relative=EXACT)
        people = np.where(np.asarray(queue.age) > 0, queue.person, -1)
        np.testing.assert_array_equal(people, golden.array(f"cqloss_label_cq_after{step}"))
        np.testing.assert_array_equal(queue.age, golden.array(f"cqloss_age_cq_after{step}"))
        assert queue.header == meta[f"cqloss_header_after{step}"]
