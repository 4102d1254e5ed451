"""Optimiser steps of a tiny SPNet through the trainer's own step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from input_pipeline import prefetch_to_devices
from ps_jax.interface import Batch, People, Scenes
from ps_jax.systems import System
from ps_jax.training.optimizers import make_optimizer
from ps_jax.training.state import TrainState
from ps_jax.training.step import AXIS_NAME, make_train_step, replicate

DEVICES = jax.local_devices()[:1]
PHASE = ConfigDict(
    {
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "backbone_learning_rate": None,
        "backbone_weight_decay": None,
        "clip_norm": 10.0,
    }
)


def first_state(system: System, variables: dict[str, Any]) -> TrainState:
    """The state that `trainer(system)` begins with."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        opt_state=_optimizer(system, variables["params"]).init(variables["params"]),
        rng=jax.random.key(3),
        **variables,
    )


def trainer(system: System) -> Callable[[TrainState, list[tuple[Scenes, People]]], TrainState]:
    """A function that takes a state through one step a batch, with AdamW and decay on all that is trained."""
    params = system.template["params"]
    trainable = system.trainable(params)
    in_step = system.changed(axis_name=AXIS_NAME)
    step = make_train_step(in_step, _optimizer(system, params), lambda _: 1e-2, trainable, DEVICES)

    def train(state: TrainState, batches: list[tuple[Scenes, People]]) -> TrainState:
        state = replicate(state, DEVICES)
        rows = [
            Batch(*jax.tree.map(np.asarray, batch), np.arange(batch[0].image.shape[0])) for batch in batches
        ]
        with prefetch_to_devices(rows, DEVICES) as prefetched:
            for batch in prefetched:
                state, _ = step(state, batch)
        return state

    return train


def _optimizer(system: System, params: Any) -> optax.GradientTransformation:
    return make_optimizer(PHASE, lambda peak: lambda _: peak, system.group(params), system.trainable(params))
