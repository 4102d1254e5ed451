"""One stage of Sparse R-CNN's head: learned proposals look at their boxes, and move them (Sun et al., CVPR 2021)."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.boxes import decode
from ps_jax.heads.proposal_interaction import EPSILON, XAVIER, DynamicInteraction, ProposalAttention
from ps_jax.layers import LayerNorm, Linear

BOX_WEIGHTS = (2.0, 2.0, 1.0, 1.0)
LOG_LARGEST_RATIO = math.log(100000.0 / 16)
PRIOR = 0.01  # probability of a person before training


class StageOutput(NamedTuple):
    """What a stage makes of its proposals.

    Attributes:
      logit: f32[batch, proposal], of a person.
      box: f32[batch, proposal, 4], refined, not limited to the image.
      features: f[batch, proposal, channel], what the next stage begins with.
      attended: f[batch, proposal, channel], the features after self-attention, before they saw the boxes.
    """

    logit: Array
    box: Array
    features: Array
    attended: Array


class ProposalStage(nn.Module):
    """Self-attention among proposals, dynamic interaction with their boxes, a perceptron, and two predictions.

    The cells of each box are pooled by the caller.

    Attributes:
      heads: of the attention.
      dynamic_width: channels between the dynamic convolutions.
      perceptron_width: hidden channels of the perceptron.
      regression_layers: hidden layers before the box deltas; classification has one.
      dtype: type of the computation; None takes the input's. Predictions are float32 always.
    """

    heads: int = 8
    dynamic_width: int = 64
    perceptron_width: int = 2048
    regression_layers: int = 3
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch proposal channel"],
        box: Float[Array, "batch proposal 4"],
        pooled: Float[Array, "batch proposal cell channel"],
    ) -> StageOutput:
        """Looks at the proposals' boxes once.

        Args:
          features: of the proposals.
          box: f32, `xyxy` in pixels; the gradient passes, stages before are cut off by the caller.
          pooled: the cells of each box, row by row.
        """
        channels = features.shape[-1]
        init: dict[str, Any] = {"kernel_init": XAVIER, "dtype": self.dtype}

        def normalise(name, x):
            return LayerNorm(EPSILON, name=name)(x)

        attended = ProposalAttention(self.heads, self.dtype, name="attention")(features)
        attended = normalise("norm1", features + attended)
        seen = DynamicInteraction(self.dynamic_width, self.dtype, name="interaction")(attended, pooled)
        x = normalise("norm2", attended + seen)
        hidden = jax.nn.relu(Linear(self.perceptron_width, name="expand", **init)(x))
        x = normalise("norm3", x + Linear(channels, name="contract", **init)(hidden))

        def layers(name, count):
            y = x
            for index in range(count):
                y = Linear(channels, use_bias=False, name=f"{name}{index}", **init)(y)
                y = jax.nn.relu(normalise(f"{name}_norm{index}", y))
            return y.astype(jnp.float32)

        rare = nn.initializers.constant(-math.log((1 - PRIOR) / PRIOR))
        logit = Linear(1, kernel_init=XAVIER, bias_init=rare, name="logit")(layers("classification", 1))
        deltas = Linear(4, kernel_init=XAVIER, name="deltas")(layers("regression", self.regression_layers))
        refined = decode(deltas, box, BOX_WEIGHTS, LOG_LARGEST_RATIO)
        return StageOutput(logit[..., 0], refined, x, attended)
