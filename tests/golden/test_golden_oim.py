"""Online instance matching against the released code of SPNet, two steps one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
from golden_recipe import load_golden

from ps_jax.losses import InstanceMemory, oim_loss, update_memory


def test_online_instance_matching(golden_dir):
    golden = load_golden(golden_dir, "loss_oim")
    meta = golden.meta
    memory = InstanceMemory(
        jnp.asarray(golden.array("safe_lut")),
        jnp.asarray(golden.array("safe_cq")),
        jnp.asarray(meta["header_before"], jnp.int32),
    )
    for step in (0, 1):
        x = jnp.asarray(golden.array(f"safe_in{step}"))
        label = jnp.asarray(golden.array(f"safe_label{step}"), jnp.int32)
        identity = jnp.where(label == meta["dims"]["lut"], -1, label)
        valid = jnp.ones(label.shape, bool)

        def loss(x, identity=identity, valid=valid, memory=memory):
            return jnp.mean(oim_loss(x, identity, valid, memory, meta["scalar"]))

        value, gradient = jax.value_and_grad(loss)(x)
        golden.check(f"safe_loss{step}", value, relative=1e-5)
        golden.check(f"safe_grad{step}", gradient, relative=1e-5)
        memory = update_memory(memory, x, identity, valid, meta["momentum"])
        golden.check(f"safe_lut_after{step}", memory.lookup_table, relative=1e-5)
        golden.check(f"safe_cq_after{step}", memory.queue, relative=1e-5)
        assert memory.queue_header == meta[f"safe_header_after{step}"]
        assert np.all(np.isfinite(memory.lookup_table))
