"""One optimisation step on all devices of this machine: the only place that knows `pmap`.

The state is kept once, not stacked (`in_axes=(None, 0)`, `out_axes=None`); a batch carries the devices as its
leading axis. Inside, every loss term is this device's share of the loss of the whole batch, so terms and
gradients are summed over the axis, not averaged.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ps_jax.interface import Batch
from ps_jax.training.state import TrainState

AXIS_NAME = "devices"


def replicate(state: TrainState, devices: Sequence[jax.Device]) -> TrainState:
    """Copies the state to every device, laid out as the step returns it, safe to be donated."""
    everywhere = NamedSharding(Mesh(np.array(devices), (AXIS_NAME,)), PartitionSpec())
    # A real copy: device_put alone may share its source's buffer, which the step then gives away.
    return jax.jit(lambda state: jax.tree.map(jnp.copy, state), out_shardings=everywhere)(state)


def on_one_device(tree: Any) -> Any:
    """The first device's copy of replicated arrays."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


class TrainStep:
    """Callable (state, batch) -> (state, metrics); gives the old state's memory away.

    Attributes:
      traces: how often the step was traced, once for every shape of batch; a growing number is a bug.
    """

    def __init__(self, step: Callable, devices: Sequence[jax.Device]):
        self.traces = 0

        def traced(state, batch):
            self.traces += 1
            state, metrics = step(state, batch)
            # XLA's compiler crashes on an empty array (a queue of no slots) passed through several devices.
            state = jax.tree.map(lambda leaf: leaf if leaf.size else jnp.zeros_like(leaf), state)
            return state, metrics

        self._step = jax.pmap(
            traced,
            axis_name=AXIS_NAME,
            in_axes=(None, 0),
            out_axes=None,
            donate_argnums=(0,),
            devices=list(devices),
        )

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        return self._step(state, batch)


def make_train_step(
    system: Any,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    trainable: Any,
    devices: Sequence[jax.Device],
) -> TrainStep:
    """Makes the step that trains `system` on `devices`.

    Batch statistics are averaged over the devices: where the system synchronises them this changes nothing,
    elsewhere it keeps one state for all replicas. The memory is equal on all replicas, as every system must
    keep it.

    Args:
      system: a system whose modules were built with `axis_name=AXIS_NAME`.
      optimizer: optax optimiser over the parameters.
      schedule: learning rate of the head, for the metrics.
      trainable: tree of bool like the parameters; frozen ones get no gradient at all and do not count in its
        norm.
      devices: the devices to run on.

    Returns:
      The step. Its metrics are f32 scalars: "loss/<term>" for each term, "loss/total", "gradient_norm"
      (before clipping) and "learning_rate" (of the step just taken).
    """

    def step(state: TrainState, batch: Batch):
        rng = jax.random.fold_in(state.rng, state.step)

        def share_of_loss(params):
            params = jax.tree.map(
                lambda leaf, trained: leaf if trained else jax.lax.stop_gradient(leaf), params, trainable
            )
            variables = {"params": params, "batch_stats": state.batch_stats, "memory": state.memory}
            terms, changed = system.losses(variables, batch.scenes, batch.people, rng)
            terms = {name: jnp.asarray(term, jnp.float32) for name, term in terms.items()}
            return sum(terms.values()), (terms, changed)

        gradients, (terms, changed) = jax.grad(share_of_loss, has_aux=True)(state.params)
        gradients, terms = jax.lax.psum((gradients, terms), AXIS_NAME)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics = {f"loss/{name}": term for name, term in terms.items()}
        metrics["loss/total"] = sum(terms.values())
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        metrics["learning_rate"] = schedule(state.step)
        after = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=jax.lax.pmean(changed.get("batch_stats", state.batch_stats), AXIS_NAME),
            memory=changed.get("memory", state.memory),
            opt_state=opt_state,
        )
        return system.after_step(state, after), metrics

    return TrainStep(step, devices)
