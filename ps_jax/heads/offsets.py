"""Offsets between a query and an anchor: how they come about, with and without a query, and what they tell."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from ps_jax.heads.norm_logits import offset_norm
from ps_jax.layers import Linear

_TEMPERATURE = 0.1


def difference(
    query: Float[Array, "*#rows dimension"], embedding: Float[Array, "*rows dimension"]
) -> Float[Array, "*rows dimension"]:
    """The offset o = q - a of SPNet's paper (section 3.1)."""
    return query - embedding


def product(
    query: Float[Array, "*#rows dimension"], embedding: Float[Array, "*rows dimension"]
) -> Float[Array, "*rows dimension"]:
    """The offset o = a sigmoid(q / 0.1), an option of SPNet's released code: the query says which entries count."""
    return embedding * jax.nn.sigmoid(query / _TEMPERATURE)


COMBINERS: dict[str, Callable[..., jax.Array]] = {"difference": difference, "product": product}


def _minus_identity(key: jax.Array, shape: tuple[int, int], dtype: Any) -> Float[Array, "rows columns"]:
    del key
    return -jnp.eye(*shape, dtype=dtype)


class Bridge(nn.Module):
    """Predicts the offset from the anchor embedding alone, in the place of a query (SPNet, section 3.1).

    It joins SPNet's object-centric path to the head that both paths share. Computed in float32.

    Attributes:
      combine: makes the offset of the predicted query W a + b and the anchor embedding. W and b start at
        zero, so that the difference starts as o = -a.
      direct: predict the offset itself, o = W a + b. W starts as minus the identity and b at zero: o = -a.
    """

    combine: Callable[..., jax.Array] = difference
    direct: bool = False

    @nn.compact
    def __call__(self, anchor_embedding: Float[Array, "*rows dimension"]) -> Float[Array, "*rows dimension"]:
        """Offsets o, shaped like `anchor_embedding`."""
        zeros = nn.initializers.zeros
        kernel_init = _minus_identity if self.direct else zeros
        dimension = anchor_embedding.shape[-1]
        linear = Linear(dimension, kernel_init=kernel_init, bias_init=zeros, name="linear")(anchor_embedding)
        return linear if self.direct else self.combine(linear, anchor_embedding)


class BoxRegressor(nn.Module):
    """Box deltas from an offset: a perceptron with four hidden layers as wide as the offset, ReLU."""

    @nn.compact
    def __call__(self, offset: Float[Array, "*rows dimension"]) -> Float[Array, "*rows 4"]:
        """Deltas (dx, dy, dw, dh) for the box coder with weights (1, 1, 1, 1)."""
        hidden = offset
        for layer in range(4):
            hidden = nn.relu(Linear(offset.shape[-1], name=f"hidden_{layer}")(hidden))
        return Linear(4, name="deltas")(hidden)


def query_distances(
    query: Float[Array, "pair dimension"],
    scene: Int[Array, " pair"],
    anchor_embedding: Float[Array, "batch anchor dimension"],
    combine: Callable[..., jax.Array] = difference,
) -> Float[Array, "pair anchor"]:
    """Lengths of the offsets between a query and all anchors of a scene, pair by pair.

    The offsets themselves never exist for more than one pair at a time, nor are they kept for the gradient.
    Differences are taken directly: the expanded square loses the digits of short offsets.

    Args:
      query: query embedding of each pair.
      scene: the scene of the batch that each pair looks at.
      anchor_embedding: embeddings of all anchors.
      combine: makes offsets of a query and embeddings.

    Returns:
      f32 lengths.
    """

    @jax.checkpoint
    def distances(pair):
        query, scene = pair
        return offset_norm(combine(query, anchor_embedding[scene]))

    return jax.lax.map(distances, (query, scene))
