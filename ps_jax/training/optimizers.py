"""AdamW in two groups, its learning-rate schedule and gradient clipping, each with PyTorch's semantics."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

START_FRACTION = 1e-3  # warm-up begins at this fraction of the learning rate
LONGEST_WARMUP = 1000  # steps


def warmup_length(phase: Mapping | ConfigDict, steps_per_epoch: int, total_steps: int) -> int:
    """Number of warm-up steps of a phase: `warmup_steps`, or min(1000, steps of an epoch - 1) where None."""
    steps = phase.get("warmup_steps")
    if steps is None:
        steps = min(LONGEST_WARMUP, steps_per_epoch - 1)
    return max(0, min(steps, total_steps - 1))


def learning_rate_schedule(peak: float, total_steps: int, warmup_steps: int) -> optax.Schedule:
    """Linear warm-up from `peak` / 1000 to `peak`, then half a cosine to 0 at `total_steps`.

    As torchvision's detection recipes chain LinearLR(start_factor=1/1000) and CosineAnnealingLR.

    Args:
      peak: learning rate right after the warm-up.
      total_steps: steps of the phase.
      warmup_steps: steps of the linear part; 0 for none.

    Returns:
      Function of the number of steps taken, giving the learning rate of the next step.
    """
    cosine_steps = max(1, total_steps - warmup_steps)

    def schedule(count):
        count = jnp.asarray(count, jnp.float32)
        linear = START_FRACTION + (1 - START_FRACTION) * count / max(1, warmup_steps)
        progress = jnp.clip((count - warmup_steps) / cosine_steps, 0, 1)
        return peak * jnp.where(count < warmup_steps, linear, 0.5 * (1 + jnp.cos(jnp.pi * progress)))

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
    """Clipping over all parameters, then AdamW (torch's defaults) for each group of them.

    Weight decay is decoupled, multiplied by the learning rate, and acts on every trained parameter, biases
    and the affine parameters of normalisation layers too, as in torch. Frozen parameters get neither update
    nor decay.

    Args:
      phase: settings `learning_rate`, `weight_decay`, `backbone_learning_rate` and `backbone_weight_decay`
        (None: same as the head's) and `clip_norm` (0: no clipping).
      schedule: peak learning rate -> schedule.
      groups: tree like the parameters with "backbone" or "head" at each leaf.
      trainable: tree like the parameters with True or False at each leaf.
    """

    def own_or_shared(name):
        own = phase.get(f"backbone_{name}")
        return phase[name] if own is None else own

    labels = jax.tree.map(lambda group, trained: group if trained else "frozen", groups, trainable)
    by_group = {
        "head": optax.adamw(schedule(phase["learning_rate"]), weight_decay=phase["weight_decay"]),
        "backbone": optax.adamw(
            schedule(own_or_shared("learning_rate")), weight_decay=own_or_shared("weight_decay")
        ),
        "frozen": optax.set_to_zero(),
    }
    limit = phase["clip_norm"]
    clip = clip_by_global_norm(limit) if limit else optax.identity()
    return optax.chain(clip, optax.partition(by_group, labels))
