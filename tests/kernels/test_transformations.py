"""The operations under jit, vmap, grad, jax.checkpoint and pmap, each implementation, against the plain call."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_operations import OPERATIONS

HERE = Path(__file__).parent


@pytest.fixture(params=OPERATIONS)
def operation(request):
    return OPERATIONS[request.param]


def value_and_gradients(function, arrays):
    return jax.jit(jax.value_and_grad(lambda *arrays: jnp.sum(jnp.sin(function(*arrays))), argnums=(0, 1)))(
        *arrays
    )


def same(ours, expected):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_jit_and_grad(implementation, operation):
    function, make = operation
    arrays = make(0)
    same(jax.jit(lambda *arrays: function(*arrays, implementation))(*arrays), function(*arrays, None))
    same(
        value_and_gradients(lambda *arrays: function(*arrays, implementation), arrays),
        value_and_gradients(lambda *arrays: function(*arrays, "xla"), arrays),
    )


def test_vmap(implementation, operation):
    function, make = operation
    problems = [make(seed) for seed in range(2)]
    arrays = [jnp.stack(parts) for parts in zip(*problems, strict=True)]
    together = value_and_gradients(jax.vmap(lambda *arrays: function(*arrays, implementation)), arrays)
    alone = [value_and_gradients(lambda *arrays: function(*arrays, "xla"), problem) for problem in problems]
    same(together[0], alone[0][0] + alone[1][0])
    same(together[1], [jnp.stack(parts) for parts in zip(*(one[1] for one in alone), strict=True)])


def test_checkpoint(implementation, operation):
    function, make = operation

    @jax.checkpoint
    def recomputed(*arrays):
        return function(*arrays, implementation)

    arrays = make(0)
    same(
        value_and_gradients(recomputed, arrays),
        value_and_gradients(lambda *arrays: function(*arrays, "xla"), arrays),
    )


@pytest.mark.slow
def test_two_devices_equal_one():
    """pmap, in a program of its own: values, and gradients where there are any, of two problems on two devices."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE)]),
    }
    command = [sys.executable, HERE / "small_operations.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    differences = json.loads(done.stdout.splitlines()[-1])
    # Without and with kernels; the two forms of non-maximum suppression.
    assert len(differences) - 2 in (len(OPERATIONS), 2 * len(OPERATIONS))
    for name, difference in differences.items():
        assert difference < 2e-5, name
