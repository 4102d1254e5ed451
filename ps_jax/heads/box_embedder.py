"""From a box to an embedding: RoIAlign, a copy of the trunk's last stage, and a projection.

`BoxEmbedder` makes SPNet's re-identification features and, with shared heads, the embeddings that boxes are
located by too; with separate heads these come from one `LocationEmbedder` for each stage of the cascade
(SPNet, section 3.1). The projector is the embedding part of Chen et al., "Norm-Aware Embedding for Efficient
Person Search", CVPR 2020.
"""

import contextlib
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from kernels.roi_align import roi_align
from ps_jax.heads.row_capacity import apply_to_existing_rows
from ps_jax.layers import BatchNorm, Linear, StochasticDepth, normal

ROI_SIZE = (14, 14)


class RoiSampling(NamedTuple):
    """How RoIAlign samples a bin; see `kernels.roi_align`.

    Attributes:
      ratio: samples along each side; 0: as many as the bin has cells.
      aligned: the centre of the first cell lies at half a cell.
      most: with ratio 0, no more than so many.
    """

    ratio: int = 2
    aligned: bool = False
    most: int | None = None


TORCHVISION_SAMPLING = RoiSampling()


def on_boxes(valid: Bool[Array, " row"], number: Int[Array, " row"]) -> contextlib.AbstractContextManager:
    """While active, layers that are called work on a padded batch of boxes, as the last stage of a trunk must.

    Every BatchNorm takes its batch statistics over the valid rows only, and every StochasticDepth draws for each row
    by its number, so that the order, the padding and the devices do not matter.
    """

    def interceptor(call, args, kwargs, context):
        if context.method_name == "__call__":
            if isinstance(context.module, BatchNorm):
                kwargs = {**kwargs, "mask": valid}
            elif isinstance(context.module, StochasticDepth):
                kwargs = {**kwargs, "numbers": number}
        return call(*args, **kwargs)

    return nn.intercept_methods(interceptor)


class ReidProjector(nn.Module):
    """Projects two pooled features to one embedding, each to one half of it.

    Linear and BatchNorm for each half. A batch of a single row is normalised with the running statistics. Computed in
    float32; the result is not of unit length.

    Attributes:
      dimension: length of the embedding, even.
      axis_name: device axis that batch statistics are shared over.
      affine: the BatchNorm has a learned scale and bias.
      scale_init: initialiser of that scale.
    """

    dimension: int
    axis_name: str | None = None
    affine: bool = False
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self,
        shallow: Float[Array, "row shallow_channel"],
        deep: Float[Array, "row deep_channel"],
        valid: Bool[Array, " row"],
        train: bool,
    ) -> Float[Array, "row {self.dimension}"]:
        """Embeds the rows.

        Args:
          shallow: features before the last stage, pooled.
          deep: features after it, pooled.
          valid: rows that exist and count in the batch statistics.
          train: normalise with the batch's statistics and move the running ones.

        Returns:
          f32 embeddings [row, dimension], meaningless where not valid.

        Raises:
          ValueError: if `dimension` is odd.
        """
        if self.dimension % 2:
            raise ValueError(f"dimension is {self.dimension}, wanted an even number")
        halves = []
        for name, feature in (("shallow", shallow), ("deep", deep)):
            half = Linear(
                self.dimension // 2,
                kernel_init=normal(0.01),
                bias_init=nn.initializers.zeros,
                name=f"{name}_linear",
            )(feature.astype(jnp.float32))
            norm = BatchNorm(
                affine=self.affine,
                scale_init=self.scale_init,
                axis_name=self.axis_name,
                single_row_uses_running=True,
                name=f"{name}_norm",
            )
            halves.append(norm(half, use_running_average=not train, mask=valid))
        return jnp.concatenate(halves, axis=-1)


def pool_boxes(
    embedder: "BoxPooler | BoxEmbedder | LocationEmbedder",
    features: Float[Array, "batch height width channel"],
    boxes: Float[Array, "row 4"],
    scene: Int[Array, " row"],
    valid: Bool[Array, " row"],
    train: bool,
    number: Int[Array, " row"] | None = None,
    sparse: bool = True,
    sampling: RoiSampling = TORCHVISION_SAMPLING,
) -> tuple[Float[Array, "row channel"], Float[Array, "row deep_channel"]]:
    """RoIAlign to 14x14 and the embedder's last stage.

    Args:
      embedder: the bound module, whose `last_stage`, `stride` and `axis_name` are used.
      features: the map the boxes are looked up in.
      boxes: xyxy in pixels of the image.
      scene: which image of the batch each box lies in.
      valid: boxes that exist.
      train: normalise with the statistics of all valid boxes of this call.
      number: of each box among those of all devices, for what is drawn at random; default: its place.
      sparse: see `apply_to_existing_rows`.
      sampling: of RoIAlign; the default is torchvision's of most person-search systems.

    Returns:
      The global maxima of each box's patch before and after the last stage, the means where that is `average_pooled`
      (SOLIDER's); zeros where not valid.
    """

    def pooled(module, features, rows, valid):
        boxes, scene, number = rows
        patches = roi_align(
            features,
            boxes,
            scene,
            output_size=ROI_SIZE,
            spatial_scale=1.0 / module.stride,
            sampling_ratio=sampling.ratio,
            aligned=sampling.aligned,
            max_sampling=sampling.most,
            valid=valid,
        )
        with on_boxes(valid, number):
            deep = module.last_stage(patches, train)
        pool = jnp.mean if getattr(module.last_stage, "average_pooled", False) else jnp.max
        return pool(patches, axis=(1, 2)), pool(deep, axis=(1, 2))

    # Batch normalisation ties the rows together while it trains.
    number = jnp.arange(valid.shape[0]) if number is None else number
    normalised = "last_stage" in embedder.variables.get("batch_stats", {})
    return apply_to_existing_rows(
        *(pooled, embedder, features, (boxes, scene, number), valid, embedder.axis_name),
        independent=not (train and normalised),
        sparse=sparse,
    )


class BoxPooler(nn.Module):
    """The head of a two-stage detector: RoIAlign, a copy of the trunk's last stage, and global pooling.

    Attributes:
      last_stage: a trunk's `last_stage()`, weights of its own.
      stride: pixels of the image per position of the map.
      axis_name: device axis.
      sampling: of RoIAlign.
    """

    last_stage: nn.Module
    stride: int = 16
    axis_name: str | None = None
    sampling: RoiSampling = TORCHVISION_SAMPLING

    def __call__(
        self,
        features: Float[Array, "batch height width channel"],
        boxes: Float[Array, "row 4"],
        scene: Int[Array, " row"],
        valid: Bool[Array, " row"],
        train: bool,
        number: Int[Array, " row"] | None = None,
    ) -> tuple[Float[Array, "row channel"], Float[Array, "row deep_channel"]]:
        """See `pool_boxes`. There are nearly always as many boxes to train on as were asked for."""
        return pool_boxes(
            self, features, boxes, scene, valid, train, number, sparse=False, sampling=self.sampling
        )


class BoxEmbedder(nn.Module):
    """Embeds boxes from the finest level of a feature pyramid for re-identification.

    What is pooled before and after the last stage of a trunk (see `pool_boxes`), projected.

    Attributes:
      last_stage: a trunk's `last_stage()`, weights of its own.
      dimension: length of the embedding.
      stride: pixels of the image per position of the map.
      axis_name: device axis.
    """

    last_stage: nn.Module
    dimension: int
    stride: int = 8
    axis_name: str | None = None

    def setup(self) -> None:
        self.projector = ReidProjector(self.dimension, self.axis_name)

    def __call__(
        self,
        features: Float[Array, "batch height width channel"],
        boxes: Float[Array, "row 4"],
        scene: Int[Array, " row"],
        valid: Bool[Array, " row"],
        train: bool,
        number: Int[Array, " row"] | None = None,
    ) -> Float[Array, "row {self.dimension}"]:
        """Embeds boxes; gradients flow into the features and the weights, not into the boxes.

        Args:
          features, boxes, scene, valid, train, number: see `pool_boxes`.

        Returns:
          f32 embeddings [row, dimension], meaningless where not valid.
        """
        shallow, deep = pool_boxes(self, features, boxes, scene, valid, train, number)
        return self.projector(shallow, deep, valid, train)


class LocationEmbedder(nn.Module):
    """Embeds boxes from the finest level of a feature pyramid for being located.

    What is pooled after the last stage of a trunk (see `pool_boxes`) and a linear map without bias or
    normalisation, in float32.

    Attributes:
      last_stage, stride, axis_name: as of `BoxEmbedder`.
      dimension: length of the embedding.
    """

    last_stage: nn.Module
    dimension: int
    stride: int = 8
    axis_name: str | None = None

    def setup(self) -> None:
        self.linear = Linear(self.dimension, use_bias=False)

    def __call__(
        self,
        features: Float[Array, "batch height width channel"],
        boxes: Float[Array, "row 4"],
        scene: Int[Array, " row"],
        valid: Bool[Array, " row"],
        train: bool,
        number: Int[Array, " row"] | None = None,
    ) -> Float[Array, "row {self.dimension}"]:
        """Embeds boxes; gradients flow into the features and the weights, not into the boxes.

        Args:
          features, boxes, scene, valid, train, number: see `pool_boxes`.

        Returns:
          f32 embeddings [row, dimension], zeros where not valid.
        """
        _, deep = pool_boxes(self, features, boxes, scene, valid, train, number)
        return self.linear(deep.astype(jnp.float32))
