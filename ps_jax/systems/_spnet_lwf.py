"""Learning without forgetting: SPNet's trunk keeps telling apart the classes of ImageNet (section 9.1).

The trunk's ImageNet classifier stays behind it while it is pre-trained, and its class probabilities are held close to
those of a frozen copy of both, the teacher, which lies in the collection `memory`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ps_jax.interface import Scenes
from ps_jax.losses import distillation_loss, released_distillation_loss
from ps_jax.systems._devices import device_count

if TYPE_CHECKING:
    from ps_jax.systems.spnet import SPNet

TEACHER = "teacher"  # its variables in the collection `memory`
CLASSIFIER = "classifier"  # in `params` and, where it has any, `batch_stats`
FORMS = ("none", "kl", "bce")


def forgetting_loss(model: "SPNet", scenes: Scenes, features: Mapping[str, Array]) -> Float[Array, ""]:
    """Distance of the class probabilities from the teacher's, mean over the scenes of the batch.

    With "kl" the teacher is in evaluation mode; with "bce", as in the released code, in training mode, so that it
    has stochastic depth of its own and normalises by the batch.

    Args:
      model: the bound module.
      scenes: the batch.
      features: the trained trunk's maps of it.

    Returns:
      This device's share of the loss.
    """
    train = model.lwf == "bce"
    streams = ("stochastic_depth",) if train and model.has_rng("stochastic_depth") else ()
    wanted, _ = model.clone(parent=None).apply(
        {**model.get_variable("memory", TEACHER), "memory": model.variables["memory"]},
        method=lambda teacher: teacher.classify(teacher.trunk_features(scenes, train), train),
        rngs={name: model.make_rng(name) for name in streams},
        mutable=["batch_stats"],  # moved in training mode, but read in evaluation mode only
    )
    loss = distillation_loss if model.lwf == "kl" else released_distillation_loss
    rows = loss(model.classify(features, train=True), wanted, model.lwf_temperature)
    return jnp.sum(rows) / (rows.shape[0] * device_count(model.axis_name))


def copy_teacher(variables: Mapping[str, Any]) -> dict[str, PyTree]:
    """Copies of params and batch_stats of trunk and classifier: the teacher for what is trained from here on."""
    return {
        name: {
            part: jax.tree.map(jnp.copy, variables[name][part])
            for part in ("backbone", CLASSIFIER)
            if part in variables[name]
        }
        for name in ("params", "batch_stats")
    }
