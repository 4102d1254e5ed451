"""Run as a program, in one or more processes: takes single training steps and writes what comes of them.

Each process writes an .npz file with the gradient, the parameters after AdamW, the memory, the running statistics
and the metrics of each case.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from ml_collections import ConfigDict
from toy_training import ToySystem, toy_batch

from input_pipeline import prefetch_to_devices
from input_pipeline.plan import host_rows
from ps_jax.interface import Batch
from ps_jax.training import joined
from ps_jax.training.processes import all_devices
from ps_jax.training.state import TrainState
from ps_jax.training.step import AXIS_NAME, make_train_step, replicate

# Of the toy: options of its module, micro-batches, batch statistics over all devices
TOY_CASES = {
    "whole": ({}, 1, True),
    "accumulated": ({}, 2, True),
    "per_device": ({"noise": 0.0}, 1, False),
}
ROWS = 8


def toy(options):
    systems = [
        ToySystem("toy", {"num_identities": 5, "axis_name": axis_name} | options)
        for axis_name in (None, AXIS_NAME)
    ]
    return *systems, toy_batch(ROWS, 0, 0)


def tiny(mode):
    from tiny_spnet import OPTIONS, batch, tiny_trunk, two_views

    from ps_jax.systems import build_system, spnet

    spnet.build_trunk = tiny_trunk
    options = OPTIONS | {"mode": mode, "num_identities": 12, "stochastic_depth": 0.5}
    systems = [build_system("spnet", options | {"axis_name": axis_name}) for axis_name in (None, AXIS_NAME)]
    scenes, people = jax.device_get(batch((2, 1, 3, 1)))
    if mode == "qc":  # the views of a picture lie on different devices
        order = np.array([0, 2, 1, 3])
        scenes, people = jax.tree.map(lambda x: np.asarray(x)[order], two_views((2, 1)))
    return *systems, Batch(scenes, people, np.arange(4, dtype=np.int32))


def start(system, whole):
    """The variables to start from: with a memory that is partly filled and a projection that is not tiny."""
    variables = system.init(jax.random.key(0), whole.scenes, whole.people)
    if "lookup_table" in variables["memory"]:
        table = jax.random.normal(jax.random.key(1), variables["memory"]["lookup_table"].shape)
        variables["memory"]["lookup_table"] = table / jnp.linalg.norm(table, axis=-1, keepdims=True)
        for half in ("shallow_linear", "deep_linear"):
            kernel = variables["params"]["box_embedder"]["projector"][half]
            kernel["kernel"] = 100.0 * kernel["kernel"]
    return variables


def take(outside, system, whole, micro_batches, sync_batch_norm):
    """One step with this process's share of a batch, as a tree of arrays."""
    variables = start(outside, whole)
    devices = all_devices()
    local = [device for device in devices if device.process_index == jax.process_index()]
    phase = ConfigDict({"batch_size": len(whole.index), "accumulate_steps": micro_batches})
    rows = host_rows(phase, 0, jax.process_index(), jax.process_count())
    share = jax.tree.map(lambda array: np.asarray(array)[rows], whole)
    optimizer = optax.adamw(1e-4, b1=0.5)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        opt_state=optimizer.init(variables["params"]),
        rng=jax.random.key(2),
        **variables,
    )
    step = make_train_step(
        *(system, optimizer, optax.constant_schedule(1.0), system.trainable(variables["params"]), devices),
        micro_batches=micro_batches,
        sync_batch_norm=sync_batch_norm,
    )
    with prefetch_to_devices([share], local, micro_batches=micro_batches) as batches:
        after, metrics = jax.device_get(step(replicate(state, local), next(batches)))
    return {
        "gradient": jax.tree.map(
            lambda mean: 2 * mean, after.opt_state[0].mu
        ),  # the first one has half the weight
        "params": after.params,
        "memory": after.memory,
        "batch_stats": after.batch_stats,
        "metrics": {name.replace("/", "_"): value for name, value in metrics.items()},
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("system", choices=["toy", "oc", "qc"])
    parser.add_argument("--out", required=True)
    parser.add_argument("--coordinator")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    arguments = parser.parse_args()
    with joined(arguments.coordinator, arguments.processes, arguments.process):
        if arguments.system == "toy":
            cases = {name: take(*toy(options), *rest) for name, (options, *rest) in TOY_CASES.items()}
        else:
            cases = {"whole": take(*tiny(arguments.system), 1, True)}
        np.savez(arguments.out, **traverse_util.flatten_dict(cases, sep="/"))


if __name__ == "__main__":
    main()
