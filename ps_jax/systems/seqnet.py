"""SeqNet: Sequential End-to-end Network for Efficient Person Search (Li and Miao, AAAI 2021), and its baselines.

A trunk's first three stages look at the scene once. A region proposal network proposes boxes, a plain Faster R-CNN head
makes detections of them, and only those few, better boxes reach the second head, which embeds people for
re-identification. That second head is NAE's (Chen et al., "Norm-Aware Embedding for Efficient Person Search", CVPR
2020) or OIM's (Xiao et al., "Joint Detection and Identification Feature Learning for Person Search", CVPR 2017);
without the first head the system is NAE or OIM itself. Numbers are those of the released code.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from ps_jax.backbones import build_trunk
from ps_jax.boxes import pyramid_anchors, random_order
from ps_jax.boxes.sampling import Order
from ps_jax.errors import ConfigError
from ps_jax.heads import BoxPooler, BoxPredictor, RegionProposalHead, ReidOutput
from ps_jax.interface import Detections, People, Scenes
from ps_jax.systems import _seqnet_detection, _seqnet_training
from ps_jax.systems._devices import global_numbers
from ps_jax.systems._seqnet_reid_head import HEADS

STRIDE = 16


class SeqNet(nn.Module):
    """SeqNet with NAE's second head; see the attributes `sequential` and `head` for the others.

    Attributes:
      num_identities: L, known identities of the training set.
      trunk: name of the trunk; see `ps_jax.backbones.build_trunk`.
      stochastic_depth: rate of the trunk's stochastic depth; None is the trunk's own.
      freeze_stem: train neither the trunk's first convolution nor the scale and bias of its normalisation.
      sequential: a Faster R-CNN head detects before the re-identification head embeds (SeqNet); without it
        proposals go to the re-identification head at once (NAE, OIM).
      head: the re-identification head, "norm_aware" (NAE's), "softmax" (OIM's) or "seqnext" (SeqNeXt's).
      reid_dim: D, length of re-identification embeddings.
      classification, regression: tasks of SeqNet's re-identification head beside re-identification (table 3).
      first_score: a detection's score is the first head's (FCS, table 3), not the re-identification head's.
      suppress_between: non-maximum suppression between the heads (table 3).
      embed_detections: without `sequential`: embed what was detected once more, at its final box (serialisation,
        table 1).
      anchor_sizes, anchor_ratios: of the proposals, in pixels, and height over width.
      train_proposals, test_proposals: anchors looked at, and proposals kept, in each scene.
      proposal_nms_threshold: overlap above which the lower objectness is suppressed.
      proposal_high, proposal_low: overlap from which an anchor is positive, below which it is background.
      proposal_samples: anchors of a scene that are trained on, at most half of them positive.
      proposal_beta: of the smooth absolute loss of proposals; 1/9 is torchvision's since 0.7, 0 that of the versions
        before, which the published numbers were made with.
      match_high, match_low: overlap from which a box stands for a person, below which for background; between the
        two it is not trained on.
      samples_per_image: boxes of a scene that each head is trained on.
      positive_fraction: largest share of positives among them.
      first_regression_weight, regression_weight: weight of the box loss of the first, of the re-identification head.
      oim_scale: inverse temperature of online instance matching.
      oim_momentum: of its lookup table.
      queue_size: slots for unknown people.
      skip_unwritten: see `ps_jax.losses.oim_loss`; False is the released code.
      score_threshold: least score of a detection.
      detections_per_scene: at most this many.
      first_nms_threshold, nms_threshold: overlap above which the lower score is suppressed, between the heads and at
        the end.
      order: puts candidates in random order wherever training samples.
      axis_name: device axis that the batch is spread over.
      dtype: type of trunk, proposal head and box heads, float32 if None; predictors, embeddings and losses are float32
        always.
    """

    num_identities: int
    trunk: str = "resnet50"
    stochastic_depth: float | None = None
    freeze_stem: bool = True
    sequential: bool = True
    head: str = "norm_aware"
    reid_dim: int = 256
    classification: bool = True
    regression: bool = True
    first_score: bool = True
    suppress_between: bool = True
    embed_detections: bool = False
    anchor_sizes: Sequence[float] = (32.0, 64.0, 128.0, 256.0, 512.0)
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    train_proposals: tuple[int, int] = (12000, 2000)
    test_proposals: tuple[int, int] = (6000, 300)
    proposal_nms_threshold: float = 0.7
    proposal_high: float = 0.7
    proposal_low: float = 0.3
    proposal_samples: int = 256
    proposal_beta: float = 1 / 9
    match_high: float = 0.5
    match_low: float = 0.5
    samples_per_image: int = 128
    positive_fraction: float = 0.5
    first_regression_weight: float = 10.0
    regression_weight: float = 1.0
    oim_scale: float = 30.0
    oim_momentum: float = 0.5
    queue_size: int = 5000
    skip_unwritten: bool = False
    score_threshold: float = 0.5
    detections_per_scene: int = 300
    first_nms_threshold: float = 0.4
    nms_threshold: float = 0.5
    order: Order = random_order
    axis_name: str | None = None
    dtype: Any = None

    def setup(self) -> None:
        self._check_options()
        options: dict[str, Any] = {"dtype": self.dtype, "axis_name": self.axis_name, "stages": 3}
        if self.stochastic_depth is not None:
            options["stochastic_depth"] = self.stochastic_depth
        self.backbone = build_trunk(self.trunk, **options)
        self.rpn = RegionProposalHead(len(self.anchor_sizes) * len(self.anchor_ratios), dtype=self.dtype)
        if self.sequential:
            self.box_head = BoxPooler(self.backbone.last_stage(name=None), STRIDE, self.axis_name)
            self.box_predictor = BoxPredictor()
        self.reid_head = BoxPooler(self.backbone.last_stage(name=None), STRIDE, self.axis_name)
        self.reid_predictor = HEADS[self.head](self.reid_dim, self.axis_name)
        self.lookup_table = self._memory("lookup_table", (self.num_identities, self.reid_dim), jnp.float32)
        self.queue = self._memory("queue", (self.queue_size, self.reid_dim), jnp.float32)
        self.queue_header = self._memory("queue_header", (), jnp.int32)

    def _memory(self, name: str, shape: tuple[int, ...], dtype: Any) -> nn.Variable:
        return self.variable("memory", name, jnp.zeros, shape, dtype)

    def _check_options(self) -> None:
        """Raises ConfigError where an option is unknown or options contradict each other."""
        if self.head not in HEADS:
            raise ConfigError(f"head is {self.head!r}. Use one of: {', '.join(HEADS)}.")
        if not self.sequential and not (self.classification and self.regression):
            raise ConfigError(
                "without a first head (sequential=False) the re-identification head is the detector: it needs "
                "classification and regression"
            )
        if not self.classification and not self.first_score:
            raise ConfigError("classification=False leaves no score of its own: set first_score=True")
        if self.sequential and self.embed_detections:
            raise ConfigError("embed_detections is for a system without a first head (sequential=False)")

    def initialise(self) -> None:
        """Runs every part once on a small empty scene, so that all variables are made."""
        scenes = Scenes(jnp.zeros((1, 64, 64, 3)), jnp.full((1, 2), 64))
        features = self.features(scenes, train=False)
        self.rpn(features)
        box, valid = jnp.zeros((1, 1, 4)), jnp.ones((1, 1), bool)
        if self.sequential:
            self.detect_boxes(features, box, valid, train=False)
        self.identify_boxes(features, box, valid, train=False)

    # Parts that training and detection share

    def features(self, scenes: Scenes, train: bool) -> Float[Array, "batch height width channel"]:
        """The trunk's map of stride 16 of the normalised images."""
        image = jnp.asarray(scenes.image)
        image = image if self.dtype is None else image.astype(self.dtype)
        return self.backbone(image, train)["c4"]

    def anchors(self, scenes: Scenes, features: Array) -> Float[Array, "anchor 4"]:
        """Anchors of every scene of the batch."""
        size = (features.shape[1], features.shape[2])
        return pyramid_anchors(scenes.image.shape[1:3], [size], [self.anchor_sizes], self.anchor_ratios)

    def detect_boxes(
        self,
        features: Float[Array, "batch height width channel"],
        box: Float[Array, "batch box 4"],
        valid: Bool[Array, "batch box"],
        train: bool,
    ) -> tuple[Float[Array, "batch box 2"], Float[Array, "batch box 4"]]:
        """The first head: class logits and box deltas of the boxes of every scene."""
        _, deep = self._pool(self.box_head, features, box, valid, train)
        return tuple(_rows(x, valid) for x in self.box_predictor(deep))

    def identify_boxes(
        self,
        features: Float[Array, "batch height width channel"],
        box: Float[Array, "batch box 4"],
        valid: Bool[Array, "batch box"],
        train: bool,
    ) -> ReidOutput:
        """The re-identification head: embedding, logit and box deltas of the boxes of every scene."""
        shallow, deep = self._pool(self.reid_head, features, box, valid, train)
        output = self.reid_predictor(shallow, deep, valid.reshape(-1), train)
        return jax.tree.map(lambda x: _rows(x, valid), output)

    def _pool(self, head, features, box, valid, train):
        scene = jnp.repeat(jnp.arange(box.shape[0]), box.shape[1])
        number = global_numbers(scene.size, self.axis_name) if train else None  # for stochastic depth
        return head(features, box.reshape(-1, 4), scene, valid.reshape(-1), train, number)

    # Training

    def losses(self, scenes: Scenes, people: People) -> dict[str, Float[Array, ""]]:
        """Terms of the training loss, to be summed; see `ps_jax.systems.System.losses`."""
        people = jax.tree.map(jnp.asarray, people)
        return _seqnet_training.losses(self, scenes, people, self.make_rng("sampling"))

    # Test time

    def detect(self, scenes: Scenes) -> Detections:
        """Finds everybody: arrays [B, detections_per_scene, ...]."""
        return _seqnet_detection.detect(self, scenes)

    def embed(
        self, scenes: Scenes, boxes: Float[Array, "batch box 4"]
    ) -> Float[Array, "batch box dimension"]:
        """Embeds given boxes for re-identification."""
        boxes = jnp.asarray(boxes)
        features = self.features(scenes, train=False)
        return self.identify_boxes(features, boxes, jnp.ones(boxes.shape[:2], bool), train=False).embedding


def _rows(x, valid):
    return x.reshape(*valid.shape, *x.shape[1:])
