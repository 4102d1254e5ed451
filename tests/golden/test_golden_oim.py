"""Re-identification losses against released code, step after step: instance matching and the momentum queue."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_recipe import load_golden

from ps_jax.losses import (
    InstanceMemory,
    batch_hard_triplet_loss,
    empty_queue,
    oim_loss,
    queue_loss,
    update_memory,
    update_queue,
)

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


# The release's three forms, and whether table rows are normalised after they moved. All write 64 channels of the queue.
ALIGNPS = {"triqueue": False, "oim_norm": True, "oim": False}


@pytest.mark.parametrize("form", ALIGNPS)
def test_focal_instance_matching_of_alignps(golden_dir, form):
    """Rows that stand for nobody are left out; ours normalises, so its gradient has no part along a row."""
    golden = load_golden(golden_dir, "loss_alignps")
    x = jnp.asarray(golden.array("in"))
    identity = jnp.asarray(golden.array("labels"), jnp.int32)
    valid, known = identity >= -1, identity >= 0
    header = jnp.asarray(golden.meta["tail_before"], jnp.int32)
    memory = InstanceMemory(jnp.asarray(golden.array("lut")), jnp.asarray(golden.array("queue")), header)
    scale, queue_scale = golden.meta["scales"][form]

    def rows(x):
        options = {"skip_unwritten": False, "queue_scale": float(queue_scale), "focal_gamma": 2.0}
        return oim_loss(x, identity, valid, memory, float(scale), **options)

    if form == "triqueue":
        golden.check("triqueue_loss_oim", jnp.sum(rows(x)) / jnp.sum(known), relative=EXACT)
    else:
        golden.check(f"{form}_loss_oim", rows(x), relative=EXACT)
        _check_across_rows(golden, f"{form}_grad", jax.grad(lambda x: jnp.sum(rows(x)))(x), x)
    memory = update_memory(memory, x, identity, valid, 0.5, ALIGNPS[form], queue_channels=64)
    golden.check(f"{form}_lut_after", memory.lookup_table, relative=EXACT)
    golden.check(f"{form}_queue_after", memory.queue, relative=EXACT)
    assert memory.queue_header == golden.meta[f"{form}_tail_after"]


def test_triplets_of_alignps(golden_dir):
    """All known rows, and a table row for each of them but those of identity 0."""
    golden = load_golden(golden_dir, "loss_alignps")
    x, table = jnp.asarray(golden.array("in")), jnp.asarray(golden.array("lut"))
    identity = jnp.asarray(golden.array("labels"), jnp.int32)
    np.testing.assert_array_equal(
        table[golden.array("triqueue_table_ids")], golden.array("triqueue_table_rows")
    )
    valid = jnp.concatenate([identity >= 0, identity > 0])
    both = jnp.concatenate([identity, identity])
    memory = InstanceMemory(table, jnp.asarray(golden.array("queue")), jnp.zeros((), jnp.int32))

    def total(x):
        every = jnp.concatenate([x, table[jnp.maximum(identity, 0)]])
        loss = batch_hard_triplet_loss(every, both, every, both, valid, 0.3)
        triplet = jnp.sum(jnp.where(valid, loss, 0.0)) / jnp.sum(valid)
        options = {"skip_unwritten": False, "queue_scale": 10.0, "focal_gamma": 2.0}
        matching = oim_loss(x, identity, identity >= -1, memory, 10.0, **options)
        return triplet + jnp.sum(matching) / jnp.sum(identity >= 0), triplet

    gradient, triplet = jax.grad(total, has_aux=True)(x)
    golden.check("triqueue_loss_tri", triplet, relative=EXACT)
    _check_across_rows(golden, "triqueue_grad", gradient, x)


def _check_across_rows(golden, name, ours, x):
    """Compares gradients without their part along each unit row."""

    def across(gradient):
        return gradient - jnp.sum(gradient * x, axis=1, keepdims=True) * x

    stored = across(jnp.asarray(golden.array(name)))
    np.testing.assert_allclose(across(ours), stored, rtol=0, atol=EXACT * jnp.abs(stored).max())
