"""The re-identification heads of the SeqNet family, behind one interface.

Each takes what is pooled before and after the last stage, and returns an embedding, a logit of there being a person,
and box deltas.
"""

import jax
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from ps_jax.heads import BoxPredictor, NormalisedBoxRegressor, NormAwareEmbedding, ReidOutput, ReidProjector
from ps_jax.layers import Linear, normal


class NormAwareHead(nn.Module):
    """NAE's: the embedding's length is the logit; a normalised linear map regresses boxes.

    Attributes:
      dimension: length of the embedding.
      axis_name: device axis that batch statistics are shared over.
    """

    dimension: int
    axis_name: str | None = None

    def setup(self) -> None:
        self.embedding = NormAwareEmbedding(self.dimension, self.axis_name)
        self.regression = NormalisedBoxRegressor(self.axis_name)

    def __call__(
        self,
        shallow: Float[Array, "row shallow_channel"],
        deep: Float[Array, "row deep_channel"],
        valid: Bool[Array, " row"],
        train: bool,
    ) -> ReidOutput:
        """Looks at the rows that are valid."""
        embedding, logit = self.embedding(shallow, deep, valid, train)
        return ReidOutput(embedding, logit, self.regression(deep, valid, train))


class SoftmaxHead(nn.Module):
    """OIM's: a linear map to the embedding, beside Fast R-CNN's classifier and box regressor.

    The logit is the difference of the two class logits, whose sigmoid is the softmax.

    Attributes:
      dimension: length of the embedding.
      axis_name: not used; no layer here looks at the batch.
    """

    dimension: int
    axis_name: str | None = None

    def setup(self) -> None:
        self.embedding = Linear(self.dimension, kernel_init=normal(0.01), bias_init=nn.initializers.zeros)
        self.predictor = BoxPredictor()

    def __call__(
        self,
        shallow: Float[Array, "row shallow_channel"],
        deep: Float[Array, "row deep_channel"],
        valid: Bool[Array, " row"],
        train: bool,
    ) -> ReidOutput:
        """Looks at the rows."""
        del shallow, valid, train
        logits, deltas = self.predictor(deep)
        return ReidOutput(self.embedding(deep.astype(jax.numpy.float32)), logits[:, 1] - logits[:, 0], deltas)


class SeqNeXtHead(nn.Module):
    """That of SeqNeXt: NAE's projection for the embedding, linear maps for the logit and the deltas.

    Jaffe and Zakhor, "Gallery Filter Network for Person Search", WACV 2023.

    Attributes:
      dimension: length of the embedding.
      axis_name: device axis that batch statistics are shared over.
    """

    dimension: int
    axis_name: str | None = None

    def setup(self) -> None:
        self.projector = ReidProjector(self.dimension, self.axis_name, affine=True)
        self.classification = Linear(1)
        self.deltas = Linear(4)

    def __call__(
        self,
        shallow: Float[Array, "row shallow_channel"],
        deep: Float[Array, "row deep_channel"],
        valid: Bool[Array, " row"],
        train: bool,
    ) -> ReidOutput:
        """Looks at the rows that are valid."""
        embedding = self.projector(shallow, deep, valid, train)
        deep = deep.astype(jax.numpy.float32)
        return ReidOutput(embedding, self.classification(deep)[:, 0], self.deltas(deep))


HEADS: dict[str, type[nn.Module]] = {
    "norm_aware": NormAwareHead,
    "softmax": SoftmaxHead,
    "seqnext": SeqNeXtHead,
}
