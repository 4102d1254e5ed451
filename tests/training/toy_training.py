"""A small system, source and configuration for the trainer's tests; run as a script it trains them.

The system has what makes training hard to resume: batch normalisation, a memory that changes with every
batch, noise from the step's random key, two optimiser groups, a frozen parameter, and different variables in
its phases.
"""

import argparse
import itertools
import json
import os
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from input_pipeline.plan import host_rows
from input_pipeline.scenes import Person, Scene, Split
from ps_jax.errors import DataError
from ps_jax.interface import Batch, People, Scenes
from ps_jax.layers import BatchNorm

IDENTITIES = 5
PRETRAIN_STEPS, FINETUNE_STEPS = 12, 9


class ToyModule(nn.Module):
    """`norm`, `noise` and `pull` can be turned off, each a thing that ties the rows of a batch to one another."""

    num_identities: int
    width: int = 8
    extra: bool = False
    norm: bool = True
    noise: float = 0.1
    pull: float = 0.01
    dtype: jnp.dtype = jnp.dtype("float32")
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image, number, key, train):
        rows = image.shape[0]
        x = nn.Dense(self.width, use_bias=False, name="backbone", dtype=self.dtype)(image.reshape(rows, -1))
        normalised = BatchNorm(axis_name=self.axis_name, name="norm", dtype=jnp.float32)(x, not train)
        x = normalised if self.norm else x
        frozen = self.param("frozen", nn.initializers.ones, (self.width,))
        keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(number)
        noise = jax.vmap(lambda k: jax.random.normal(k, (self.width,)))(keys)
        x = nn.relu(x * frozen + self.noise * noise)
        if self.extra:
            x = nn.Dense(self.width, name="extra")(x)
        return nn.Dense(self.num_identities, name="head")(x)


class ToySystem:
    """A classifier of scenes by the first person's identity, behind the systems' interface."""

    def __init__(self, name, model):
        self.name = name
        self.fail_at = model.pop("fail_at", -1)
        self.trunk_name = model.get("trunk")
        self.module = ToyModule(**{key: value for key, value in model.items() if key != "trunk"})

    def init(self, rng, scenes, people):
        image = jnp.zeros(scenes.image.shape, jnp.float32)
        number = jnp.arange(image.shape[0])
        variables = self.module.init(rng, image, number, rng, False)
        memory = {
            "centres": jnp.zeros((self.module.num_identities, self.module.num_identities)),
            "seen": jnp.zeros((), jnp.int32),
            "queue": jnp.zeros((0, 3)),
        }
        return {"params": variables["params"], "batch_stats": variables["batch_stats"], "memory": memory}

    def losses(self, variables, scenes, people, rng):
        axis_name = self.module.axis_name
        image = jnp.asarray(scenes.image, jnp.float32) / 255
        rows, index = image.shape[0], jax.lax.axis_index(axis_name) if axis_name else 0
        devices = jax.lax.axis_size(axis_name) if axis_name else 1
        number = index * rows + jnp.arange(rows)
        logits, changed = self.module.apply(
            {"params": variables["params"], "batch_stats": variables["batch_stats"]},
            *(image, number, rng, True),
            mutable=["batch_stats"],
        )
        wanted = jax.nn.one_hot(people.identity[:, 0], self.module.num_identities)
        classify = -jnp.sum(wanted * jax.nn.log_softmax(logits)) / (rows * devices)
        memory = variables["memory"]
        pull = self.module.pull * jnp.sum((logits - wanted @ memory["centres"]) ** 2) / (rows * devices)
        all_logits, all_wanted = jax.lax.stop_gradient((logits, wanted))
        if axis_name:
            all_logits, all_wanted = jax.lax.all_gather((all_logits, all_wanted), axis_name, tiled=True)
        memory = memory | {
            "centres": 0.9 * memory["centres"] + 0.1 * all_wanted.T @ all_logits,
            "seen": memory["seen"] + rows * devices,
        }
        if self.fail_at >= 0:
            pull = pull * jnp.where(memory["seen"] >= self.fail_at, jnp.nan, 1.0)
        return {"classify": classify, "pull": pull}, {
            "batch_stats": changed["batch_stats"],
            "memory": memory,
        }

    def in_parts(self, count):
        return self

    def trainable(self, params):
        return {
            name: jax.tree.map(lambda _, name=name: name != "frozen", tree) for name, tree in params.items()
        }

    def group(self, params):
        return {
            name: jax.tree.map(lambda _, name=name: "backbone" if name == "backbone" else "head", tree)
            for name, tree in params.items()
        }

    def after_step(self, before, after):
        return after

    needs_weights = False
    trains = ()

    def check_start(self, trained, people):
        pass

    def trunk(self, variables):
        return {"params": variables["params"]["backbone"]}

    def with_trunk(self, variables, trunk, classifier=None):
        return variables | {"params": variables["params"] | {"backbone": trunk["params"]}}

    def transfer(self, pretrained, fresh, pretrained_by=None):
        assert pretrained_by is not None
        params = {name: pretrained["params"].get(name, tree) for name, tree in fresh["params"].items()}
        return {"params": params, "batch_stats": pretrained["batch_stats"], "memory": fresh["memory"]}


class ToySource:
    """Random scenes as a function of (seed, step); may do something to its own process before a batch.

    Args:
      happen: what to do, for example to send a signal, or to raise an error.
      happen_at: the batch, counted over all phases, before which it is done.
      make_batch: (rows, seed, step) -> batch.
      identities: number of people in the training scenes.
    """

    def __init__(self, happen=None, happen_at=-1, make_batch=None, identities=IDENTITIES):
        self.happen, self.happen_at = happen, happen_at
        self.make_batch, self.identities = make_batch or toy_batch, identities

    def split(self, partition):
        people = tuple(Person((0.0, 0.0, 1.0, 1.0), identity) for identity in range(self.identities))
        return Split("toy", partition, (Scene("a.jpg", "a.jpg", 4, 4, people),))

    def steps_per_epoch(self, phase):
        return 10

    def train_batches(self, phase, seed, start_step=0, process_index=0, process_count=1):
        before = PRETRAIN_STEPS if phase.model.get("extra") else 0
        rows = host_rows(phase, start_step, process_index, process_count)
        for step in itertools.count(start_step):
            if before + step == self.happen_at:
                self.happen()
            yield jax.tree.map(lambda array: array[rows], self.make_batch(phase.batch_size, seed, step))


def toy_batch(rows, seed, step):
    rng = np.random.default_rng((seed, step))
    identity = rng.integers(0, IDENTITIES, (rows, 1)).astype(np.int32)
    image = rng.integers(0, 120, (rows, 2, 2, 3)) + 20 * identity[:, :, None, None]
    box = np.tile(np.array([0, 0, 1, 1], np.float32), (rows, 1, 1))
    people = People(box, identity, identity, np.ones((rows, 1), bool))
    size = np.full((rows, 2), 2, np.int32)
    return Batch(Scenes(image.astype(np.uint8), size), people, np.arange(rows, dtype=np.int32))


def toy_phase(**changes):
    settings = {
        "model": {},
        "batch_size": 4,
        "accumulate_steps": 1,
        "views": 1,
        "epochs": 1.2,
        "learning_rate": 1e-2,
        "weight_decay": 1e-2,
        "backbone_learning_rate": 1e-3,
        "backbone_weight_decay": 0.0,
        "warmup_steps": 3,
        "clip_norm": 10.0,
        "log_every": 1,
        "checkpoint_every": 3,
        "evaluate_every": 0,
    }
    return settings | changes


def toy_config(**changes):
    """Two phases of 12 and 9 steps; the second has a layer more."""
    config = {
        "system": "toy",
        "seed": 0,
        "precision": "auto",
        "sync_batch_norm": True,
        "weights": "",
        "pretrained": "",
        "model": {"width": 8},
        "data": {"source": "toy", "dir": "here"},
        "phases": ("pretrain", "finetune"),
        "pretrain": toy_phase(),
        "finetune": toy_phase(model={"extra": True}, epochs=0.9, learning_rate=5e-3),
        "eval": {"batch_size": 1},
    }
    return ConfigDict(config | changes).lock()


def toy_evaluate(system, variables, source, config, out_dir, provenance):
    """A number that falls from step to step, so that the first evaluation stays the best."""
    return {"search": {"default": {"mAP": 1.0 / float(variables["memory"]["seen"])}}, "protocol": "toy"}


def leaves(state):
    """Everything in a state as numpy arrays."""
    state = state.replace(rng=jax.random.key_data(state.rng))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(state))]


def tiny_spnet_parts(config):
    """Configuration, source and builder for a tiny SPNet in place of the toy: one phase of twelve steps."""
    import tiny_spnet

    from ps_jax.systems import build_system, spnet

    def make_batch(rows, seed, step):
        counts = np.random.default_rng((seed, step)).integers(1, 4, rows)
        scenes, people = jax.device_get(tiny_spnet.batch(tuple(counts), seed=step))
        return Batch(scenes, people, np.arange(rows, dtype=np.int32))

    spnet.build_trunk = tiny_spnet.tiny_trunk
    identities = 6
    with config.unlocked():
        config.system = "spnet"
        config.model = {key: value for key, value in tiny_spnet.OPTIONS.items() if key != "num_identities"}
        config.phases = ("pretrain",)
        config.pretrain.epochs = 1.2
    return config, {"make_batch": make_batch, "identities": identities}, build_system


def main():
    """Trains, alone or as one of several processes, and writes the last state to final<process>.npz."""
    from ps_jax.training import joined, train_and_evaluate

    parser = argparse.ArgumentParser()
    parser.add_argument("workdir")
    parser.add_argument("--tiny_spnet", action="store_true", help="in place of the toy")
    parser.add_argument("--change", default="{}", help="dotted keys of the configuration, as JSON")
    parser.add_argument("--signal", default="SIGTERM", help='a signal, or "error" for a broken picture')
    parser.add_argument(
        "--at", type=int, default=-1, help="the batch, counted over all phases, it comes with"
    )
    parser.add_argument("--evaluation_seconds", type=float, default=0.0)
    parser.add_argument("--coordinator")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    parser.add_argument("--timeout", type=float, default=100.0)
    arguments = parser.parse_args()

    def happen():
        if arguments.signal == "error":
            raise DataError("s7.jpg: broken")
        os.kill(os.getpid(), getattr(signal, arguments.signal))

    def evaluate(system, variables, source, config, out_dir, provenance):
        out_dir.mkdir(parents=True, exist_ok=True)
        (out_dir / "started").touch()
        time.sleep(arguments.evaluation_seconds)
        if arguments.tiny_spnet:
            return {}
        return toy_evaluate(system, variables, source, config, out_dir, provenance)

    config, options, build = toy_config(), {}, ToySystem
    if arguments.tiny_spnet:
        config, options, build = tiny_spnet_parts(config)
    config.update_from_flattened_dict(json.loads(arguments.change))
    source = ToySource(happen, arguments.at, **options)
    with joined(arguments.coordinator, arguments.processes, arguments.process, arguments.timeout):
        state = train_and_evaluate(config, arguments.workdir, source=source, build=build, evaluate=evaluate)
        np.savez(Path(arguments.workdir) / f"final{arguments.process or 0}.npz", *leaves(state))


if __name__ == "__main__":
    main()
