"""Small heads on embeddings: the bridge to the object-centric path, and box regression from an offset."""

import jax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from ps_jax.heads.norm_logits import offset_norm
from ps_jax.layers import Linear


class Bridge(nn.Module):
    """Predicts the query embedding from the anchor embedding itself: o = (W a + b) - a.

    It joins SPNet's object-centric path to the head that both paths share (SPNet, section 3.1). W and b
    start at zero, so that o = -a. Computed in float32.
    """

    @nn.compact
    def __call__(self, anchor_embedding: Float[Array, "*rows dimension"]) -> Float[Array, "*rows dimension"]:
        """Offsets o, shaped like `anchor_embedding`."""
        zeros = nn.initializers.zeros
        dimension = anchor_embedding.shape[-1]
        query = Linear(dimension, kernel_init=zeros, bias_init=zeros, name="linear")(anchor_embedding)
        return query - anchor_embedding


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
) -> Float[Array, "pair anchor"]:
    """Lengths |q - a| of the offsets between a query and all anchors of a scene, pair by pair.

    The offsets themselves never exist for more than one pair at a time, nor are they kept for the gradient.
    Differences are taken directly: the expanded square loses the digits of short offsets.

    Args:
      query: query embedding of each pair.
      scene: the scene of the batch that each pair looks at.
      anchor_embedding: embeddings of all anchors.

    Returns:
      f32 lengths.
    """

    @jax.checkpoint
    def distances(pair):
        query, scene = pair
        return offset_norm(query - anchor_embedding[scene])

    return jax.lax.map(distances, (query, scene))
