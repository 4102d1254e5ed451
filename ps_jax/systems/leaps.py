"""LEAPS: end-to-end person search with learnable proposals (Dong et al., arXiv 2303.11859, 2023).

A fixed set of learned proposals, boxes and features, looks at a map of stride 16 in a row of stages, each of which
moves the boxes (Sparse R-CNN). In the last stages a flexible head embeds the proposals from a map of stride 8. Each
person is found by one proposal, so nothing is suppressed. There is no released code: what the paper leaves open is as
in Sparse R-CNN's released code, and where that says nothing chosen, as the attributes say.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from ps_jax.backbones import build_trunk
from ps_jax.boxes import best_first, clip_boxes, large_enough, pairwise_iou, take
from ps_jax.errors import ConfigError
from ps_jax.heads import FlexibleReidHead, ProposalStage, ReidFeatures, StageOutput, pool_cells
from ps_jax.heads.flexible_reid import BRANCHES, ROI_ALIGNS
from ps_jax.interface import Detections, People, Scenes
from ps_jax.losses.set_prediction import image_units
from ps_jax.necks import FeaturePyramid
from ps_jax.systems import _leaps_training
from ps_jax.systems._leaps_matching import SAMPLE_MATCHINGS

DETECTION_STRIDE = 16
LEAST_SIDE = 1e-2  # pixels of a detection, after it is limited to the scene
BOXES = ("input", "refined")
FEATURES = ("input", "attended", "output")
STARTS = ("image", "grid")


class StageLook(NamedTuple):
    """One stage's proposals, before and after it.

    Attributes:
      box: f32[batch, proposal, 4], that the stage began with.
      features: f[batch, proposal, channel], that the stage began with.
      output: what the stage made of them; boxes are not limited to the scenes.
    """

    box: Array
    features: Array
    output: StageOutput


class LEAPS(nn.Module):
    """LEAPS.

    Attributes:
      num_identities: L, known identities of the training set.
      trunk: name of the trunk; see `ps_jax.backbones.build_trunk`.
      frozen_stages: the trunk's stem and so many of its stages are not trained; -1: all is.
      freeze_statistics: batch normalisation of the trunk keeps its running statistics; it is trained otherwise.
      width: channels of pyramid, proposals and each branch's embedding.
      num_proposals: N, proposals of a scene, and the largest number of people slots.
      proposal_start: where training finds the learned boxes first: "image", all of them the whole image (chosen, as
        Sparse R-CNN's; the paper: at random), or "grid", side by side, from where less is to be learned.
      num_stages: S.
      reid_stages: so many of the last stages are trained to embed; at test time the last one does.
      heads: of every attention among proposals.
      dynamic_width: channels between dynamic convolutions.
      perceptron_width: hidden channels of the detection head's perceptron.
      regression_layers: hidden layers before the box deltas.
      side: bins along each side of a box.
      branches, roi_align, offset_scale, intra, inter: of the flexible head; see `FlexibleReidHead` (table 3).
      reid_boxes: embeddings are pooled from the boxes that the stage begins with, "input" (chosen), or "refined".
      reid_features: features that offsets and dynamic convolutions are made of: those that the stage begins with,
        "input" (chosen), those after self-attention, "attended", or "output".
      centre_over_proposals: embeddings are taken less their mean over the proposals of a scene. Chosen: not.
      sample_matching: which proposals are trained to be re-identified; see `_leaps_matching` (tables 2 and 4).
      match_threshold: theta, the overlap above which it is near.
      reid_weight: lambda of equation 2, which the paper does not give. Chosen: 1.
      diversity_weight: of the diversity of the branches; 0 leaves it out (table 3, d).
      triplet: with the triplet part of the loss. Chosen: on CUHK-SYSU alone.
      triplet_margin: in units of the normalised embeddings.
      focal_gamma: exponent of the focal factor of online instance matching.
      oim_scale, queue_scale: inverse temperatures of lookup table and queue. Chosen: those of PSTR.
      oim_momentum: of the lookup table, whose rows are not normalised again.
      queue_size: Q, slots for unknown people. Each branch has a lookup table and a queue of its own (chosen).
      score_threshold: least probability of a person of a detection.
      axis_name: device axis that the batch is spread over.
      dtype: type of trunk, pyramid and heads, float32 if None; predictions, embeddings and losses are float32 always.
    """

    num_identities: int
    trunk: str = "resnet50"
    frozen_stages: int = 1
    freeze_statistics: bool = True
    width: int = 256
    num_proposals: int = 100
    proposal_start: str = "image"
    num_stages: int = 6
    reid_stages: int = 2
    heads: int = 8
    dynamic_width: int = 64
    perceptron_width: int = 2048
    regression_layers: int = 3
    side: int = 7
    branches: Sequence[str] = BRANCHES
    roi_align: str = "dynamic"
    offset_scale: float = 0.1
    intra: bool = True
    inter: bool = True
    reid_boxes: str = "input"
    reid_features: str = "input"
    centre_over_proposals: bool = False
    sample_matching: str = "weighted"
    match_threshold: float = 0.7
    reid_weight: float = 1.0
    diversity_weight: float = 1.0
    triplet: bool = False
    triplet_margin: float = 0.3
    focal_gamma: float = 2.0
    oim_scale: float = 15.0
    queue_scale: float = 10.0
    oim_momentum: float = 0.5
    queue_size: int = 500
    score_threshold: float = 0.05
    axis_name: str | None = None
    dtype: Any = None

    def setup(self) -> None:
        self._check_options()
        self.backbone = build_trunk(self.trunk, dtype=self.dtype, axis_name=self.axis_name)
        self.fpn = FeaturePyramid(self.width, extra_levels=None, levels=(3, 4), dtype=self.dtype)
        start = {"image": _whole_image, "grid": _grid}[self.proposal_start]
        self.proposal_boxes = self.param("proposal_boxes", start, (self.num_proposals, 4))
        self.proposal_features = self.param(
            "proposal_features", nn.initializers.normal(1.0), (self.num_proposals, self.width)
        )
        self.stage = [
            ProposalStage(
                self.heads, self.dynamic_width, self.perceptron_width, self.regression_layers, self.dtype
            )
            for _ in range(self.num_stages)
        ]
        self.reid_head = [
            FlexibleReidHead(
                self.branches,
                self.roi_align,
                self.offset_scale,
                self.side,
                self.heads,
                self.dynamic_width,
                self.intra,
                self.inter,
                self.dtype,
            )
            for _ in range(self.reid_stages)
        ]
        count = len(self.branches)
        self.lookup_table = self._memory("lookup_table", (count, self.num_identities, self.width))
        self.queue = self._memory("queue", (count, self.queue_size, self.width))
        self.queue_header = self._memory("queue_header", (), jnp.int32)

    def _memory(self, name: str, shape: tuple[int, ...], dtype: Any = jnp.float32) -> nn.Variable:
        return self.variable("memory", name, jnp.zeros, shape, dtype)

    def _check_options(self) -> None:
        """Raises ConfigError where an option is unknown or options contradict each other."""
        for name, known in (
            ("proposal_start", STARTS),
            ("roi_align", ROI_ALIGNS),
            ("sample_matching", SAMPLE_MATCHINGS),
            ("reid_boxes", BOXES),
            ("reid_features", FEATURES),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}. Use one of: {', '.join(known)}.")
        if not self.branches or not set(self.branches) <= set(BRANCHES):
            raise ConfigError(f"branches are {tuple(self.branches)}. Use some of: {', '.join(BRANCHES)}.")
        if not 1 <= self.reid_stages <= self.num_stages:
            raise ConfigError(
                f"reid_stages is {self.reid_stages}. Use 1 to {self.num_stages}, as there are num_stages."
            )
        if not 0 <= self.match_threshold < 1:
            raise ConfigError(
                f"match_threshold is {self.match_threshold}. Use an overlap from 0 to less than 1: weights grow by "
                "what a box overlaps beyond it."
            )
        if self.width % self.heads:
            raise ConfigError(f"heads is {self.heads}. Use a divisor of width, which is {self.width}.")

    def initialise(self) -> None:
        """Runs every part once on a small empty scene, so that all variables are made."""
        scenes = Scenes(jnp.zeros((1, 64, 64, 3)), jnp.full((1, 2), 64))
        levels = self.levels(scenes, train=False)
        looks = self.run_stages(levels, scenes.size)
        for index in self.reid_indices:
            self.embed_proposals(index, levels, looks[index])

    # Parts that training and detection share

    @property
    def reid_indices(self) -> range:
        """The stages that embed, the last one last."""
        return range(self.num_stages - self.reid_stages, self.num_stages)

    def levels(self, scenes: Scenes, train: bool) -> dict[str, Float[Array, "batch _ _ {self.width}"]]:
        """The pyramid's levels "p3" and "p4" of the normalised images."""
        # Trunks without batch normalisation take `train` for their stochastic depth.
        train &= hasattr(self.backbone, "stochastic_depth") or not self.freeze_statistics
        image = jnp.asarray(scenes.image)
        return self.fpn(self.backbone(image if self.dtype is None else image.astype(self.dtype), train))

    def run_stages(self, levels: dict[str, Array], size: Int[Array, "batch 2"]) -> list[StageLook]:
        """What every stage began with, and what it made of it.

        Args:
          levels: see `levels`.
          size: (height, width) of the scenes in pixels, which the learned boxes are parts of.
        """
        centre, side = self.proposal_boxes[:, :2], self.proposal_boxes[:, 2:]
        corners = jnp.concatenate([centre - side / 2, centre + side / 2], axis=-1)
        box = corners * image_units(size)[:, None]
        features = jnp.broadcast_to(self.proposal_features, (box.shape[0], *self.proposal_features.shape))
        looks = []
        for stage in self.stage:
            pooled = pool_cells(levels["p4"], box, DETECTION_STRIDE, self.side)
            output = stage(features, box, pooled)
            looks.append(StageLook(box, features, output))
            features, box = output.features, jax.lax.stop_gradient(output.box)
        self.sow("intermediates", "looks", looks)
        return looks

    def reid_box(self, look: StageLook) -> Float[Array, "batch proposal 4"]:
        """The boxes that a stage embeds."""
        return look.box if self.reid_boxes == "input" else look.output.box

    def embed_proposals(self, index: int, levels: dict[str, Array], look: StageLook) -> ReidFeatures:
        """The embeddings of the proposals of one of `reid_indices`."""
        output = look.output
        features = {"input": look.features, "attended": output.attended, "output": output.features}
        head = self.reid_head[index - self.reid_indices.start]
        made = head(levels["p3"], features[self.reid_features], self.reid_box(look))
        if self.centre_over_proposals:
            mean = jnp.mean(made.embedding, axis=1, keepdims=True)
            made = made._replace(embedding=made.embedding - mean)
        return made

    # Training

    def losses(self, scenes: Scenes, people: People) -> dict[str, Float[Array, ""]]:
        """Terms of the training loss, to be summed; see `ps_jax.systems.System.losses`.

        Raises:
          ConfigError: if there are more slots for people than proposals.
        """
        slots = people.valid.shape[1]
        if slots > self.num_proposals:
            raise ConfigError(
                f"{slots} slots for people, but {self.num_proposals} proposals, each of which finds one person. Raise "
                "num_proposals or lower data.max_people."
            )
        return _leaps_training.losses(self, scenes, jax.tree.map(jnp.asarray, people))

    # Test time

    def detect(self, scenes: Scenes) -> Detections:
        """Finds everybody: arrays [B, num_proposals, ...], the embeddings of all branches side by side."""
        box, score, embedding = self._predictions(scenes)
        valid = (score > self.score_threshold) & large_enough(box, LEAST_SIDE)
        return Detections(
            box=jnp.where(valid[..., None], box, 0.0),
            score=jnp.where(valid, score, 0.0),
            embedding=jnp.where(valid[..., None], embedding, 0.0),
            valid=valid,
        )

    def embed(
        self, scenes: Scenes, boxes: Float[Array, "batch box 4"]
    ) -> Float[Array, "batch box dimension"]:
        """Embeds given boxes: the embedding of the predicted box that overlaps each most (section 3.3).

        Where none overlaps it, that of the likeliest person.
        """
        box, _, embedding = self._predictions(scenes)
        return take(embedding, jnp.argmax(jax.vmap(pairwise_iou)(jnp.asarray(boxes), box), axis=-1))

    def _predictions(self, scenes):
        """Boxes, limited to the scenes, scores and embeddings of all proposals after the last stage.

        The likeliest person comes first, boxes without size come last.
        """
        size = jnp.asarray(scenes.size)
        levels = self.levels(scenes, train=False)
        look = self.run_stages(levels, size)[-1]
        embedding = self.embed_proposals(self.num_stages - 1, levels, look).embedding
        box, score = clip_boxes(look.output.box, size), jax.nn.sigmoid(look.output.logit)
        order = best_first(score, large_enough(box, LEAST_SIDE))
        return tuple(take(x, order) for x in (box, score, embedding.reshape(*embedding.shape[:2], -1)))


def _whole_image(key, shape):
    """Boxes (x, y, width, height) of the whole image, by their centre, as parts of the image."""
    del key
    return jnp.tile(jnp.array([0.5, 0.5, 1.0, 1.0]), (shape[0], 1))


def _grid(key, shape):
    """Boxes (x, y, width, height) that tile the image, about as many beside as below one another."""
    del key
    columns = math.ceil(math.sqrt(shape[0]))
    rows = math.ceil(shape[0] / columns)
    index = jnp.arange(shape[0])
    centre = [(index % columns + 0.5) / columns, (index // columns + 0.5) / rows]
    return jnp.stack([*centre, *(jnp.full(shape[0], 1 / count) for count in (columns, rows))], axis=-1)
