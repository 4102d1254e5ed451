"""Keeping what a network knew: its class probabilities stay close to those of a frozen copy.

The loss of Li and Hoiem, "Learning without Forgetting", TPAMI 2018, after Hinton et al., "Distilling the Knowledge
in a Neural Network", 2015: both distributions are softened by a temperature.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def distillation_loss(
    student: Float[Array, "row category"], teacher: Float[Array, "row category"], temperature: float
) -> Float[Array, " row"]:
    """Kullback-Leibler divergence of the student's softened distribution from the teacher's.

    Args:
      student, teacher: logits; no gradient passes to the teacher's.
      temperature: T, which divides both.

    Returns:
      The divergence of each row times T^2, so that its gradient does not shrink with the temperature; 0 where
      both are equal.
    """
    teacher = jax.lax.stop_gradient(teacher)
    wanted = jax.nn.log_softmax(teacher / temperature)
    given = jax.nn.log_softmax(student / temperature)
    return temperature**2 * jnp.sum(jnp.exp(wanted) * (wanted - given), axis=-1)


def released_distillation_loss(
    student: Float[Array, "row category"], teacher: Float[Array, "row category"], temperature: float
) -> Float[Array, " row"]:
    """What SPNet's released code computes in its place.

    Binary cross-entropy in which the student's log-probabilities stand as logits and the teacher's probabilities
    as targets. Not 0 where both are equal.

    Args:
      student, teacher, temperature: as of `distillation_loss`.

    Returns:
      The mean over the classes for each row.
    """
    target = jax.nn.softmax(jax.lax.stop_gradient(teacher) / temperature)
    logits = jax.nn.log_softmax(student / temperature)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, target), axis=-1)
