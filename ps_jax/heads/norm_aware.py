"""Heads of pooled box features: norm-aware embeddings, classification, box regression.

Chen et al., "Norm-Aware Embedding for Efficient Person Search", CVPR 2020: an embedding's length tells whether there is
a person, its direction who it is. All is computed in float32. Rows that do not exist count nowhere.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from ps_jax.heads.box_embedder import ReidProjector
from ps_jax.layers import BatchNorm, Linear, normal


class ReidOutput(NamedTuple):
    """What a re-identification head says of boxes.

    Attributes:
      embedding: f32[..., D], of any length.
      logit: f32[...], of there being a person.
      deltas: f32[..., 4], for the box coder with weights (10, 10, 5, 5).
    """

    embedding: Array
    logit: Array
    deltas: Array


class NormAwareEmbedding(nn.Module):
    """Projects two pooled features to the halves of an embedding, and its length to a logit.

    A `ReidProjector` whose learned scale starts around 0 with deviation 0.01; a BatchNorm of one channel turns the
    length into the logit.

    Attributes:
      dimension: length of the embedding.
      axis_name: device axis that batch statistics are shared over.
    """

    dimension: int = 256
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        shallow: Float[Array, "row shallow_channel"],
        deep: Float[Array, "row deep_channel"],
        valid: Bool[Array, " row"],
        train: bool,
    ) -> tuple[Float[Array, "row {self.dimension}"], Float[Array, " row"]]:
        """Embeds the rows.

        Args:
          shallow: features before the last stage, pooled.
          deep: features after it, pooled.
          valid: rows that exist and count in the batch statistics.
          train: normalise with the batch's statistics and move the running ones.

        Returns:
          f32 embeddings [row, dimension] before their length is taken away, and logits [row].
        """
        projector = ReidProjector(
            self.dimension, self.axis_name, affine=True, scale_init=normal(0.01), name="projector"
        )
        embedding = projector(shallow, deep, valid, train)
        squared = jnp.sum(embedding * embedding, axis=-1, keepdims=True)
        length = jnp.sqrt(jnp.maximum(squared, 1e-24))  # at 0 the root has no slope
        logit = BatchNorm(axis_name=self.axis_name, name="rescaler")(
            length, use_running_average=not train, mask=valid
        )
        return embedding, logit[:, 0]


class NormalisedBoxRegressor(nn.Module):
    """Box deltas for background and person from a linear map and a BatchNorm; the person's are returned.

    Attributes:
      axis_name: device axis that batch statistics are shared over.
      class_agnostic: there is one set of deltas, not one for background and one for a person.
    """

    axis_name: str | None = None
    class_agnostic: bool = False

    @nn.compact
    def __call__(
        self, deep: Float[Array, "row channel"], valid: Bool[Array, " row"], train: bool
    ) -> Float[Array, "row 4"]:
        """f32 deltas for the box coder with weights (10, 10, 5, 5)."""
        outputs = 4 if self.class_agnostic else 8
        linear = Linear(outputs, kernel_init=normal(0.01), bias_init=nn.initializers.zeros, name="linear")
        deltas = linear(deep.astype(jnp.float32))
        norm = BatchNorm(scale_init=normal(0.01), axis_name=self.axis_name, name="norm")
        return norm(deltas, use_running_average=not train, mask=valid)[:, -4:]


class BoxPredictor(nn.Module):
    """The classic pair behind a box head (Girshick, Fast R-CNN, 2015): two class logits and box deltas for each."""

    @nn.compact
    def __call__(
        self, deep: Float[Array, "row channel"]
    ) -> tuple[Float[Array, "row 2"], Float[Array, "row 4"]]:
        """f32 logits of background and person, and the person's deltas for the coder with weights (10, 10, 5, 5)."""
        deep = deep.astype(jnp.float32)
        return Linear(2, name="classification")(deep), Linear(8, name="deltas")(deep)[:, 4:]
