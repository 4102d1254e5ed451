"""The flexible re-identification head of LEAPS (Dong et al., arXiv 2303.11859, section 3.1.2).

There is no released code. Where the paper is silent the attributes say what was chosen.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ps_jax.heads.proposal_interaction import EPSILON, XAVIER, DynamicInteraction, ProposalAttention
from ps_jax.heads.proposal_pooling import bin_offsets, pool_cells
from ps_jax.layers import LayerNorm, Linear

BRANCHES = ("plain", "interaction")
ROI_ALIGNS = ("dynamic", "deformable", "plain")
STRIDE = 8
DEFORMABLE_WIDTH = 1024  # of the two layers before the offsets of deformable RoIAlign


class ReidFeatures(NamedTuple):
    """What the branches make of the proposals.

    Attributes:
      embedding: f32[batch, proposal, branch, channel].
      hidden: f32[batch, proposal, branch, channel], the features before, not negative, which should be diverse.
    """

    embedding: Array
    hidden: Array


class PlainModule(nn.Module):
    """Two fully connected layers on all cells of a box (the plain re-id module).

    The width between them is chosen: that of the embedding, as the diversity of the branches compares both.

    Attributes:
      dtype: type of the computation; None takes the input's. Embeddings are float32 always.
    """

    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch proposal channel"],
        pooled: Float[Array, "batch proposal cell channel"],
    ) -> tuple[Float[Array, "batch proposal channel"], Float[Array, "batch proposal channel"]]:
        """Embeddings and the features before; of `features`, those of the proposals, only the width counts."""
        channels = features.shape[-1]
        cells = pooled.reshape(*pooled.shape[:2], -1)
        hidden = jax.nn.relu(Linear(channels, kernel_init=XAVIER, dtype=self.dtype, name="hidden")(cells))
        hidden = hidden.astype(jnp.float32)
        return Linear(channels, kernel_init=XAVIER, name="embedding")(hidden), hidden


class InteractionModule(nn.Module):
    """Interaction within each proposal, then among those of a scene (the hierarchical interaction module, figure 5).

    Chosen: the cells are projected to the width of the features before the attention, which on all cells would have
    630 million parameters; shortcut and LayerNorm around the attention, as in the detection head.

    Attributes:
      heads: of the attention.
      dynamic_width: channels between the dynamic convolutions.
      intra: False leaves the dynamic convolutions out (table 3, h).
      inter: False leaves the attention out (table 3, i).
      dtype: type of the computation; None takes the input's. Embeddings are float32 always.
    """

    heads: int = 8
    dynamic_width: int = 64
    intra: bool = True
    inter: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch proposal channel"],
        pooled: Float[Array, "batch proposal cell channel"],
    ) -> tuple[Float[Array, "batch proposal channel"], Float[Array, "batch proposal channel"]]:
        """Embeddings and the features before."""
        if self.intra:
            hidden = DynamicInteraction(self.dynamic_width, self.dtype, name="interaction")(features, pooled)
        else:
            cells = pooled.reshape(*pooled.shape[:2], -1)
            init: dict[str, Any] = {"kernel_init": XAVIER, "dtype": self.dtype}
            hidden = Linear(features.shape[-1], name="project", **init)(cells)
            hidden = jax.nn.relu(LayerNorm(EPSILON, name="project_norm")(hidden))
        hidden = hidden.astype(jnp.float32)
        if not self.inter:
            return hidden, hidden
        attended = ProposalAttention(self.heads, self.dtype, name="attention")(hidden)
        return LayerNorm(EPSILON, name="norm")(hidden + attended), hidden


class MovingRoIAlign(nn.Module):
    """RoIAlign with bins that move on the map of stride 8.

    Dynamic RoIAlign (equation 1) predicts what each bin is moved by from the proposal's features. Chosen: by one layer,
    which starts with zeros. Deformable RoIAlign, which the paper compares it with, pools the box once without moving
    anything and predicts it by three layers from what is in the cells (Dai et al. 2017; widths of its released code).

    Attributes:
      roi_align: "dynamic", "deformable", or "plain", which moves nothing.
      offset_scale, side, dtype: see `FlexibleReidHead`.
    """

    roi_align: str = "dynamic"
    offset_scale: float = 0.1
    side: int = 7
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        level: Float[Array, "batch height width channel"],
        features: Float[Array, "batch proposal channel"],
        box: Float[Array, "batch proposal 4"],
    ) -> Float[Array, "batch proposal cell channel"]:
        """The cells of every box; arguments as of `FlexibleReidHead`."""
        if self.roi_align == "plain":
            return pool_cells(level, box, STRIDE, self.side)
        looked_at = features
        if self.roi_align == "deformable":
            cells = pool_cells(level, box, STRIDE, self.side)
            looked_at = cells.reshape(*cells.shape[:2], -1)
            for index in range(2):
                layer = Linear(DEFORMABLE_WIDTH, dtype=self.dtype, name=f"offset_hidden{index}")
                looked_at = jax.nn.relu(layer(looked_at))
        zeros = nn.initializers.zeros
        predict = Linear(2 * self.side**2, kernel_init=zeros, bias_init=zeros, name="offsets")
        predicted = predict(looked_at.astype(jnp.float32))
        offsets = bin_offsets(predicted, box, self.side, self.offset_scale)
        return pool_cells(level, box, STRIDE, self.side, offsets)


class FlexibleReidHead(nn.Module):
    """RoIAlign with bins that move, and a module of each branch on what it pools.

    Attributes:
      branches: of each branch the module, "plain" or "interaction" (table 3: one of them, or one twice).
      roi_align: see `MovingRoIAlign`.
      offset_scale: gamma, what an offset of 1 is of a box's side. Chosen: that of deformable RoI pooling.
      side: bins along each side of a box. Chosen: as in the detection head.
      heads, dynamic_width, intra, inter: see `InteractionModule`.
      dtype: type of the computation; None takes the input's. Offsets and embeddings are float32 always.
    """

    branches: Sequence[str] = BRANCHES
    roi_align: str = "dynamic"
    offset_scale: float = 0.1
    side: int = 7
    heads: int = 8
    dynamic_width: int = 64
    intra: bool = True
    inter: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        level: Float[Array, "batch height width channel"],
        features: Float[Array, "batch proposal channel"],
        box: Float[Array, "batch proposal 4"],
    ) -> ReidFeatures:
        """Embeds proposals.

        Args:
          level: map of stride 8.
          features: of the proposals.
          box: f32, `xyxy` in pixels; no gradient goes to them.
        """
        align = MovingRoIAlign(self.roi_align, self.offset_scale, self.side, self.dtype)
        nn.share_scope(self, align)  # its layers are the head's
        pooled = align(level, features, box)
        parts = []
        for index, branch in enumerate(self.branches):
            name = f"branch{index}"
            if branch == "plain":
                module: nn.Module = PlainModule(self.dtype, name=name)
            else:
                module = InteractionModule(
                    self.heads, self.dynamic_width, self.intra, self.inter, self.dtype, name=name
                )
            parts.append(module(features, pooled))
        embeddings, hidden = zip(*parts, strict=True)
        return ReidFeatures(jnp.stack(embeddings, axis=2), jnp.stack(hidden, axis=2))
