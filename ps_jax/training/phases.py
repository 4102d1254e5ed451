"""From the configuration to what one phase trains: its system, its optimiser, its length."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from ml_collections import ConfigDict

from ps_jax.errors import ConfigError, DataError
from ps_jax.training._leaves import check_same_leaves, describe
from ps_jax.training.optimizers import START_FRACTION, learning_rate_schedule, make_optimizer, warmup_length
from ps_jax.training.pretrained import Pretrained, ReidStart
from ps_jax.training.state import TrainState
from ps_jax.training.step import AXIS_NAME, TrainStep, make_train_step


def compute_dtype(precision: str) -> jnp.dtype:
    """Dtype of the computation: "auto" is bfloat16 on accelerators and float32 on CPU."""
    if precision == "auto":
        precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f'config.precision is {precision!r}; it must be "auto", "float32" or "bfloat16"')
    return jnp.dtype(precision)


def model_arguments(config: ConfigDict, phase: str, num_identities: int) -> dict[str, Any]:
    """Keyword arguments of the module in a phase: config.model, the phase's changes, and the data's part."""
    changes = config[phase].get("model") or {}
    return {**config.model.to_dict(), **changes, "num_identities": num_identities}


def micro_batches(settings: ConfigDict) -> int:
    """How many micro-batches a phase's batches are taken in: `accumulate_steps`, 1 where it is not set."""
    steps = settings.get("accumulate_steps")
    return 1 if steps is None else steps


def check_phases(config: ConfigDict, num_devices: int) -> None:
    """Checks that every phase has its section, and a batch that the devices, those of all processes, can share.

    Raises:
      ConfigError: names the phase and what would do.
    """
    if not config.phases:
        raise ConfigError("config.phases is empty; it must name at least one phase")
    for name in config.phases:
        if name not in config:
            raise ConfigError(f"config.phases names {name!r}, but there is no config.{name}")
        if config[name].get("augmentation") == "crops":
            crop, seen = tuple(config[name].crop), tuple(config.model.crop_size)
            if crop != seen:
                raise ConfigError(
                    f"config.{name}.crop is {crop}, but the network is searched and refined with crops of "
                    f"config.model.crop_size, {seen}; make them equal"
                )
        size, views = config[name].batch_size, config[name].get("views") or 1
        parts = micro_batches(config[name])
        if parts < 1:
            raise ConfigError(f"config.{name}.accumulate_steps is {parts}; it must be at least 1")
        unit = num_devices * views * parts
        fitting = -(-max(size, 1) // unit) * unit
        if size != fitting:
            raise ConfigError(
                f"config.{name}.batch_size is {size}, which {num_devices} device(s) cannot share evenly"
                + (f" in {parts} micro-batches (accumulate_steps)" if parts > 1 else "")
                + (f" in groups of {views} views" if views > 1 else "")
                + f"; take a multiple of {unit} (--config.{name}.batch_size={fitting}), "
                "or show the program fewer devices (CUDA_VISIBLE_DEVICES)"
            )


@dataclass(frozen=True)
class Phase:
    """One phase, ready to train.

    Attributes:
      name, index: its name, and its place in `config.phases`.
      settings: its section of the configuration.
      arguments: keyword arguments of its module, without those that belong to the machine.
      system: its system outside of the step, for one device.
      total_steps: its length.
      template: shapes of its state.
      step: its training step.
    """

    name: str
    index: int
    settings: ConfigDict
    arguments: dict[str, Any]
    system: Any
    total_steps: int
    template: TrainState
    step: TrainStep
    _first_state: Callable[[Mapping[str, Any]], TrainState]
    _fresh_variables: Callable[[], dict[str, Any]]

    def start(self, weights: str, pretrained: Pretrained | None, reid: ReidStart | None = None) -> TrainState:
        """The state at step 0: from what was trained before, else with trunk weights, else from scratch.

        Args:
          weights: file or name of trunk weights, see `ps_jax.porting.read_tensors`; "" for none.
          pretrained: the phase before, or what another run trained.
          reid: re-identification network, for a system that has one of its own, in place of the one trained before.

        Raises:
          CheckpointError: `pretrained` is of another model.
        """
        fresh = variables = self._fresh_variables()
        if pretrained:
            wanted = describe(variables)
            trained = jax.device_get(pretrained.variables)
            variables = self.system.transfer(trained, variables, pretrained_by=pretrained.system)
            check_same_leaves(
                describe(variables),
                wanted,
                f"{pretrained.name}: this is another model than that of phase {self.name}",
                "Use the model it was trained with, or start from another work directory.",
            )
        elif weights:
            from ps_jax.porting import load_classifier_weights, load_trunk_weights

            def part(part):
                return {name: tree[part] for name, tree in variables.items() if part in tree}

            name = self.system.trunk_name
            trunk = load_trunk_weights(weights, name, self.system.trunk(variables))
            classifier = part("classifier")
            if classifier:
                classifier = load_classifier_weights(weights, name, classifier)
            variables = self.system.with_trunk(variables, trunk, classifier)
        elif self.system.needs_weights:
            raise ConfigError(
                f"phase {self.name} needs the weights of a trained trunk (config.{self.name}.model.lwf); "
                "name a file with them, --config.weights=FILE, or published ones, --config.weights=torchvision/..."
            )
        else:
            masks = jax.tree.leaves(self.system.trunk({"params": self.system.trainable(variables["params"])}))
            if not all(masks):
                logging.warning(
                    "%s: the trunk starts at random, and %d of its %d parameters are frozen, so they stay random; name "
                    "its weights with --config.weights, or freeze nothing of it",
                    *(self.name, len(masks) - sum(masks), len(masks)),
                )
        if reid:
            # What it lacks begins anew: the bottleneck of the network before belongs to another trunk.
            for network in (self.system.reid_network(fresh), reid.network):
                variables = self.system.with_reid_network(variables, network)
        return jax.jit(self._first_state)(variables)


def prepare_phase(
    config: ConfigDict, index: int, source: Any, build: Callable[..., Any], devices: Sequence[jax.Device]
) -> Phase:
    """Builds system, optimiser and step of phase number `index`; computes no variables yet.

    Args:
      config: the whole configuration.
      index: place in `config.phases`.
      source: gives the number of identities, a first batch for its shapes, and the length of an epoch.
      build: (name, keyword arguments) -> system.
      devices: the devices to train on, those of all processes.
    """
    name = config.phases[index]
    settings = config[name]

    # System: one for the step, inside the device axis, one for everything else
    num_identities = source.split("train").num_identities
    if not num_identities:
        raise DataError(
            "the training scenes name nobody: no box has a known identity; give the annotations identities "
            "(person_id in COCO-style JSON)"
        )
    arguments = model_arguments(config, name, num_identities)
    dtype = compute_dtype(config.precision)
    system = build(config.system, arguments | {"dtype": dtype, "axis_name": None})
    in_step = build(config.system, arguments | {"dtype": dtype, "axis_name": AXIS_NAME})
    if micro_batches(settings) > 1:
        in_step = in_step.in_parts(micro_batches(settings))

    # Variables
    batch = next(iter(source.train_batches(settings, config.seed)))
    init_rng, train_rng = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), index))
    shapes = jax.eval_shape(system.init, init_rng, batch.scenes, batch.people)

    # Optimiser
    steps_per_epoch = source.steps_per_epoch(settings)
    # The length, like the milestones, is in `steps`, or in `epochs`, which may be fractions
    in_steps = settings.get("steps") is not None
    unit = 1 if in_steps else steps_per_epoch
    total_steps = settings.steps if in_steps else round(settings.epochs * steps_per_epoch)
    warmup_steps = warmup_length(settings, steps_per_epoch, total_steps)

    passed = settings.get("milestones")  # after which the learning rate steps down
    milestones = None if passed is None else [round(milestone * unit) for milestone in passed]

    warmup_start = settings.get("warmup_start", START_FRACTION)

    def schedule(peak):
        return learning_rate_schedule(peak, total_steps, warmup_steps, milestones, warmup_start)

    trainable = system.trainable(shapes["params"])
    optimizer = make_optimizer(settings, schedule, system.group(shapes["params"]), trainable)

    def first_state(variables):
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            memory=variables["memory"],
            opt_state=optimizer.init(variables["params"]),
            rng=train_rng,
        )

    return Phase(
        name=name,
        index=index,
        settings=settings,
        arguments=arguments,
        system=system,
        total_steps=total_steps,
        template=jax.eval_shape(first_state, shapes),
        step=make_train_step(
            *(in_step, optimizer, schedule(settings.learning_rate), trainable, devices),
            micro_batches=micro_batches(settings),
            sync_batch_norm=config.get("sync_batch_norm", True),
        ),
        _first_state=first_state,
        _fresh_variables=lambda: jax.jit(system.init)(init_rng, batch.scenes, batch.people),
    )
