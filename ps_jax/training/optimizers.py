"""AdamW, Adam or SGD in two groups, learning-rate schedules and gradient clipping, each with PyTorch's semantics."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from ml_collections import ConfigDict

from ps_jax.errors import ConfigError

START_FRACTION = (
    1e-3  # warm-up begins at this fraction of the learning rate, where a phase has no `warmup_start`
)
LONGEST_WARMUP = 1000  # steps
STEP_DOWN = 0.1  # of the learning rate, at each milestone
MOMENTUM = 0.9  # of SGD
OPTIMIZERS = ("adamw", "adam", "sgd")


def warmup_length(phase: Mapping | ConfigDict, steps_per_epoch: int, total_steps: int) -> int:
    """Number of warm-up steps of a phase.

    `warmup_steps`, or `warmup_epochs`; where both are None the steps of an epoch - 1, but at most 1000 unless
    `whole_epoch_warmup`.
    """
    steps = phase.get("warmup_steps")
    if steps is None and phase.get("warmup_epochs") is not None:
        steps = round(phase["warmup_epochs"] * steps_per_epoch)
    if steps is None:
        steps = steps_per_epoch - 1
        if not phase.get("whole_epoch_warmup", False):
            steps = min(LONGEST_WARMUP, steps)
    return max(0, min(steps, total_steps - 1))


def learning_rate_schedule(
    peak: float,
    total_steps: int,
    warmup_steps: int,
    milestones: Sequence[int] | None = None,
    warmup_start: float = START_FRACTION,
) -> optax.Schedule:
    """Linear warm-up from `peak` * `warmup_start` to `peak`, then half a cosine to 0 at `total_steps`, or steps down.

    As torchvision's detection recipes chain LinearLR(start_factor=1/1000) and CosineAnnealingLR or MultiStepLR.

    Args:
      peak: learning rate right after the warm-up.
      total_steps: steps of the phase.
      warmup_steps: steps of the linear part; 0 for none.
      milestones: where given, in place of the cosine: numbers of steps after each of which the learning rate is a
        tenth of what it was.
      warmup_start: fraction of `peak` that the warm-up begins at.

    Returns:
      Function of the number of steps taken, giving the learning rate of the next step.
    """
    cosine_steps = max(1, total_steps - warmup_steps)

    def schedule(count):
        count = jnp.asarray(count, jnp.float32)
        linear = warmup_start + (1 - warmup_start) * count / max(1, warmup_steps)
        if milestones is None:
            progress = jnp.clip((count - warmup_steps) / cosine_steps, 0, 1)
            later = 0.5 * (1 + jnp.cos(jnp.pi * progress))
        else:
            passed = sum((count >= milestone).astype(jnp.float32) for milestone in milestones)
            later = jnp.asarray(STEP_DOWN, jnp.float32) ** passed
        return peak * jnp.where(count < warmup_steps, linear, later)

    return schedule


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scales all gradients by min(1, limit / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_ does."""

    def update(gradients, state, params=None):
        del params
        scale = jnp.minimum(1.0, limit / (optax.tree.norm(gradients) + 1e-6))
        return jax.tree.map(lambda gradient: gradient * scale, gradients), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_optimizer(
    phase: Mapping | ConfigDict, schedule: Callable[[float], optax.Schedule], groups: Any, trainable: Any
) -> optax.GradientTransformation:
    """Clipping over all parameters, then AdamW or Adam (torch's defaults) or SGD with momentum for each group of them.

    AdamW's weight decay is decoupled, multiplied by the learning rate; Adam's and SGD's is added to the gradient. It
    acts on every trained parameter, biases (unless `decay_biases` is False) and the affine parameters of normalisation
    layers too, as in torch. Frozen parameters get neither update nor decay.

    MMCV (`DefaultOptimizerConstructor` with `bias_lr_mult` and `bias_decay_mult`) treats the biases of normalisation
    layers, and of the convolutions that predict the offsets of deformable ones, as it does kernels: `bias_rate` never
    concerns them, and `decay_norm_biases` keeps their decay where the other biases have none.

    Args:
      phase: settings `optimizer` ("adamw", the default, "adam" or "sgd"),
        `learning_rate`, `weight_decay`, `backbone_learning_rate` and `backbone_weight_decay`
        (None: same as the head's), `decay_biases` (True by default), `decay_norm_biases` (of normalisation layers
        and offsets; as `decay_biases` by default), `bias_rate` (learning rate of all other biases, over that of the
        rest; 1 by default) and `clip_norm` (0: no clipping).
      schedule: peak learning rate -> schedule.
      groups: tree like the parameters with "backbone" or "head" at each leaf.
      trainable: tree like the parameters with True or False at each leaf.

    Raises:
      ConfigError: there is no such optimiser.
    """

    def own_or_shared(name):
        own = phase.get(f"backbone_{name}")
        return phase[name] if own is None else own

    decay_biases = phase.get("decay_biases", True)
    decay_norm_biases = phase.get("decay_norm_biases", decay_biases)

    def chosen(params):
        def is_decayed(path, of_layer):
            return path[-1].key != "bias" or (decay_biases if of_layer else decay_norm_biases)

        return jax.tree_util.tree_map_with_path(is_decayed, _layer_biases(params))

    decayed = None if decay_biases and decay_norm_biases else chosen

    def rule(learning_rate, weight_decay):
        if phase.get("optimizer", "adamw") == "adamw":
            return optax.adamw(schedule(learning_rate), weight_decay=weight_decay, mask=decayed)
        added = optax.add_decayed_weights(weight_decay, decayed)
        if phase["optimizer"] == "adam":
            return optax.chain(added, optax.adam(schedule(learning_rate)))
        return optax.chain(added, optax.sgd(schedule(learning_rate), momentum=MOMENTUM))

    if phase.get("optimizer", "adamw") not in OPTIMIZERS:
        raise ConfigError(f"optimizer is {phase['optimizer']!r}; use one of {', '.join(OPTIMIZERS)}")
    labels = jax.tree.map(lambda group, trained: group if trained else "frozen", groups, trainable)
    by_group = {
        "head": rule(phase["learning_rate"], phase["weight_decay"]),
        "backbone": rule(own_or_shared("learning_rate"), own_or_shared("weight_decay")),
        "frozen": optax.set_to_zero(),
    }
    limit = phase["clip_norm"]
    clip = clip_by_global_norm(limit) if limit else optax.identity()
    optimizer = optax.chain(clip, optax.partition(by_group, labels))
    rate = phase.get("bias_rate", 1.0)
    return optimizer if rate == 1 else optax.chain(optimizer, optax.masked(optax.scale(rate), _layer_biases))


def _layer_biases(params: Any) -> Any:
    """A tree of bool: biases, but those beside the scale of a normalisation layer and those of predicted offsets."""
    flat = traverse_util.flatten_dict(params)
    biases = {
        path
        for path in flat
        if path[-1] == "bias" and path[-2:-1] != ("offset",) and (*path[:-1], "scale") not in flat
    }
    return traverse_util.unflatten_dict({path: path in biases for path in flat})
