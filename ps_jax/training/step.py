"""One optimisation step on all devices of all processes: the only place that knows `pmap`.

The state is kept once, not stacked (`in_axes=(None, 0)`, `out_axes=None`); a batch carries this process's devices
as its leading axis. Inside, every loss term is this device's share of the loss of the whole (micro-)batch, so terms
and gradients are summed over the axis, not averaged.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ps_jax.interface import Batch
from ps_jax.layers import statistics_per_device
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
      heard: i32[], the largest `signal` that any process gave with the last call; it is there as soon as the
        step is done, and all processes find the same number.
    """

    def __init__(self, step: Callable, devices: Sequence[jax.Device]):
        self.traces = 0
        self.heard: jax.Array | None = None
        self._local_devices = sum(device.process_index == jax.process_index() for device in devices)

        def traced(state, key, batch, signal):
            self.traces += 1
            state, metrics = step(state.replace(rng=jax.random.wrap_key_data(key)), batch)
            # XLA's compiler crashes on an empty array (a queue of no slots) passed through several devices.
            state = jax.tree.map(lambda leaf: leaf if leaf.size else jnp.zeros_like(leaf), state)
            return state.replace(rng=None), metrics, jax.lax.pmax(signal, AXIS_NAME)

        self._step = jax.pmap(
            traced,
            axis_name=AXIS_NAME,
            in_axes=(None, None, 0, 0),
            out_axes=None,
            donate_argnums=(0,),
            devices=list(devices),
        )

    def __call__(
        self, state: TrainState, batch: Batch, signal: int = 0
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        # The key never changes, so it need not come back; and where there are several processes, pmap would wait
        # for the step before to copy a typed key through the host.
        key = jax.random.key_data(state.rng)
        signals = np.full(self._local_devices, signal, np.int32)
        after, metrics, self.heard = self._step(state.replace(rng=None), key, batch, signals)
        return after.replace(rng=state.rng), metrics


def make_train_step(
    system: Any,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    trainable: Any,
    devices: Sequence[jax.Device],
    *,
    micro_batches: int = 1,
    sync_batch_norm: bool = True,
) -> TrainStep:
    """Makes the step that trains `system` on `devices`.

    The memory is equal on all replicas, as every system must keep it. Running statistics are averaged over the
    devices: where batch normalisation is synchronised this changes nothing, elsewhere it keeps one state for all.

    With several micro-batches the step takes, for the one update, the mean of their gradients at the same parameters:
    the gradient of the mean of their losses. Each micro-batch is what a whole batch is otherwise: its normalisers
    count over all devices, batch normalisation sees its rows alone, its random key is its own, and it begins with
    the memory and the running statistics that the one before has left. Where every term is a mean over rows and
    nothing else ties rows together, this is the gradient of the whole batch.

    Args:
      system: a system whose modules were built with `axis_name=AXIS_NAME`.
      optimizer: optax optimiser over the parameters.
      schedule: learning rate of the head, for the metrics.
      trainable: tree of bool like the parameters; frozen ones get no gradient at all and do not count in its
        norm.
      devices: the devices to run on, those of all processes in the order of the processes.
      micro_batches: how many a batch comes in (see `input_pipeline.prefetch_to_devices`).
      sync_batch_norm: take batch statistics over all devices; otherwise each device normalises with its own.

    Returns:
      The step. Its metrics are f32 scalars: "loss/<term>" for each term, "loss/total", "gradient_norm"
      (before clipping) and "learning_rate" (of the step just taken); losses are means over the micro-batches.
    """
    statistics = contextlib.nullcontext if sync_batch_norm else statistics_per_device

    def share(params: Any, batch_stats: Any, memory: Any, batch: Batch, rng: jax.Array):
        """This device's share of gradients and terms of one micro-batch; statistics and memory after it."""

        def loss(params):
            params = jax.tree.map(
                lambda leaf, trained: leaf if trained else jax.lax.stop_gradient(leaf), params, trainable
            )
            variables = {"params": params, "batch_stats": batch_stats, "memory": memory}
            with statistics():
                terms, changed = system.losses(variables, batch.scenes, batch.people, rng)
            terms = {name: jnp.asarray(term, jnp.float32) for name, term in terms.items()}
            return sum(terms.values()), (terms, changed)

        gradients, (terms, changed) = jax.grad(loss, has_aux=True)(params)
        return gradients, terms, changed.get("batch_stats", batch_stats), changed.get("memory", memory)

    def accumulated(state: TrainState, batches: Batch, rng: jax.Array):
        """As `share`, the mean over micro-batches [micro_batches, rows, ...] that are taken one after the other."""

        def take(carry, numbered):
            number, batch = numbered
            total, batch_stats, memory = carry
            gradients, terms, batch_stats, memory = share(
                state.params, batch_stats, memory, batch, jax.random.fold_in(rng, number)
            )
            return (jax.tree.map(jnp.add, total, gradients), batch_stats, memory), terms

        start = (jax.tree.map(jnp.zeros_like, state.params), state.batch_stats, state.memory)
        (total, batch_stats, memory), terms = jax.lax.scan(take, start, (jnp.arange(micro_batches), batches))
        gradients = jax.tree.map(lambda gradient: gradient / micro_batches, total)
        return gradients, jax.tree.map(lambda term: jnp.mean(term, axis=0), terms), batch_stats, memory

    def step(state: TrainState, batch: Batch):
        rng = jax.random.fold_in(state.rng, state.step)
        if micro_batches == 1:
            taken = share(state.params, state.batch_stats, state.memory, batch, rng)
        else:
            taken = accumulated(state, batch, rng)
        gradients, terms, batch_stats, memory = taken
        gradients, terms = jax.lax.psum((gradients, terms), AXIS_NAME)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics = {f"loss/{name}": term for name, term in terms.items()}
        metrics["loss/total"] = sum(terms.values())
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        metrics["learning_rate"] = schedule(state.step)
        after = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=jax.lax.pmean(batch_stats, AXIS_NAME),
            memory=memory,
            opt_state=opt_state,
        )
        return system.after_step(state, after), metrics

    return TrainStep(step, devices)
