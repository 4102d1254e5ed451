"""Faster R-CNN with a feature pyramid (Ren et al. 2015; Lin et al., "Feature Pyramid Networks", CVPR 2017).

The numbers are torchvision's `fasterrcnn_resnet50_fpn` for one class; the attributes reach maskrcnn-benchmark's, which
RDLR's detector is trained with.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key

from kernels.roi_align import multiscale_roi_align
from ps_jax.backbones import build_trunk
from ps_jax.boxes import pyramid_anchors, random_order
from ps_jax.boxes.sampling import Order
from ps_jax.heads import BoxPredictor, FullyConnectedHead, RegionProposalHead, choose_proposals
from ps_jax.interface import People, Scenes
from ps_jax.necks import FeaturePyramid
from ps_jax.systems._box_head import (
    classification_loss,
    detected,
    proposal_terms,
    refined,
    regression_loss,
    sample_with_people,
)
from ps_jax.systems._detector import Candidates, Found

POOLED_LEVELS = (2, 3, 4, 5)  # p6 is for proposals alone


class Looked(NamedTuple):
    """What the first part of the network sees in scenes.

    Attributes:
      pyramid: maps p2 to p6 [scene, height, width, channel].
      anchors: f32[anchor, 4], of all levels.
      levels: how many anchors each level has.
      objectness: f32[scene, anchor] logits.
      deltas: f32[scene, anchor, 4].
    """

    pyramid: dict[str, Array]
    anchors: Array
    levels: tuple[int, ...]
    objectness: Array
    deltas: Array


class FasterRCNN(nn.Module):
    """A detector of people: proposals from a feature pyramid, each then classified and moved.

    Attributes:
      trunk: name of the trunk; see `ps_jax.backbones.build_trunk`.
      frozen_stages: the trunk's stem and so many of its stages are not trained; -1: all is.
      freeze_norms: the trunk's batch normalisation keeps its statistics, scales and biases.
      width: channels of the pyramid.
      head_width: outputs of the box head's two layers.
      anchor_sizes, anchor_ratios: one size for each level, in pixels, and height over width.
      train_proposals, test_proposals: anchors of each level looked at, and proposals kept in a scene.
      proposal_nms_threshold: overlap above which the lower objectness of a level is suppressed.
      proposal_high, proposal_low: overlap from which an anchor is positive, below which it is background.
      proposal_samples: anchors of a scene that are trained on, at most half of them positive.
      proposal_beta: of the smooth absolute loss of proposals.
      match_high, match_low: overlap from which a proposal stands for a person, below which for background.
      samples_per_image: boxes of a scene that the head is trained on.
      positive_fraction: largest share of positives among them.
      box_beta: of the smooth absolute loss of the head; 1/9 is torchvision's, 1 maskrcnn-benchmark's.
      pooled_size: cells along a side of a pooled box.
      score_threshold: least score of a detection.
      detections_per_scene: at most this many.
      nms_threshold: overlap above which the lower score is suppressed.
      order: puts candidates in random order wherever training samples.
      axis_name: device axis that the batch is spread over.
      dtype: type of trunk, pyramid, proposal head and box head, float32 if None; predictions are float32 always.
    """

    trunk: str = "resnet50"
    frozen_stages: int = 1
    freeze_norms: bool = True
    width: int = 256
    head_width: int = 1024
    anchor_sizes: Sequence[float] = (32.0, 64.0, 128.0, 256.0, 512.0)
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    train_proposals: Sequence[int] = (2000, 2000)
    test_proposals: Sequence[int] = (1000, 1000)
    proposal_nms_threshold: float = 0.7
    proposal_high: float = 0.7
    proposal_low: float = 0.3
    proposal_samples: int = 256
    proposal_beta: float = 1 / 9
    match_high: float = 0.5
    match_low: float = 0.5
    samples_per_image: int = 512
    positive_fraction: float = 0.25
    box_beta: float = 1 / 9
    pooled_size: int = 7
    score_threshold: float = 0.05
    detections_per_scene: int = 100
    nms_threshold: float = 0.5
    order: Order = random_order
    axis_name: str | None = None
    dtype: Any = None

    def setup(self) -> None:
        self.backbone = build_trunk(self.trunk, dtype=self.dtype, axis_name=self.axis_name)
        self.fpn = FeaturePyramid(self.width, extra_levels="pool", levels=POOLED_LEVELS, dtype=self.dtype)
        self.rpn = RegionProposalHead(len(self.anchor_ratios), dtype=self.dtype)
        self.box_head = FullyConnectedHead(self.head_width, dtype=self.dtype)
        self.box_predictor = BoxPredictor()

    def initialise(self) -> None:
        """Runs every part once on a small empty scene, so that all variables are made."""
        looked = self.look(Scenes(jnp.zeros((1, 64, 64, 3)), jnp.full((1, 2), 64)), train=False)
        self.judge(looked, jnp.zeros((1, 1, 4)), jnp.ones((1, 1), bool))

    # Parts that training and detection share

    def look(self, scenes: Scenes, train: bool) -> Looked:
        """The pyramid of the normalised images, and what the proposal head says of its anchors."""
        image = jnp.asarray(scenes.image)
        image = image if self.dtype is None else image.astype(self.dtype)
        pyramid = self.fpn(self.backbone(image, train and not self.freeze_norms))
        sizes = [(level.shape[1], level.shape[2]) for level in pyramid.values()]
        anchor_sizes = [[size] for size in self.anchor_sizes]
        anchors = pyramid_anchors((image.shape[1], image.shape[2]), sizes, anchor_sizes, self.anchor_ratios)
        objectness, deltas = zip(*(self.rpn(level) for level in pyramid.values()), strict=True)
        levels = tuple(logits.shape[1] for logits in objectness)
        return Looked(pyramid, anchors, levels, *(jnp.concatenate(x, axis=1) for x in (objectness, deltas)))

    def proposals(
        self, looked: Looked, scenes: Scenes, train: bool
    ) -> tuple[Float[Array, "scene proposal 4"], Bool[Array, "scene proposal"]]:
        """The proposed boxes of every scene, best first, and which exist; no gradient passes."""
        before_nms, after_nms = self.train_proposals if train else self.test_proposals
        return choose_proposals(
            *(looked.objectness, looked.deltas, looked.anchors, jnp.asarray(scenes.size)),
            *(before_nms, after_nms, self.proposal_nms_threshold),
            levels=looked.levels,
        )

    def judge(
        self, looked: Looked, box: Float[Array, "scene box 4"], valid: Bool[Array, "scene box"]
    ) -> tuple[Float[Array, "scene box 2"], Float[Array, "scene box 4"]]:
        """The box head: logits of background and person, and deltas, of the boxes of every scene."""
        features = list(looked.pyramid.values())[: len(POOLED_LEVELS)]
        pooled = multiscale_roi_align(
            features,
            box.reshape(-1, 4),
            jnp.repeat(jnp.arange(box.shape[0]), box.shape[1]),
            output_size=(self.pooled_size, self.pooled_size),
            spatial_scales=[2.0**-level for level in POOLED_LEVELS],
            sampling_ratio=2,
            aligned=False,
            valid=valid.reshape(-1),
        )
        hidden = self.box_head(pooled)
        self.sow("intermediates", "pooled", pooled)
        self.sow("intermediates", "hidden", hidden)
        logits, deltas = self.box_predictor(hidden)
        return logits.reshape(*valid.shape, 2), deltas.reshape(*valid.shape, 4)

    # Training

    def losses(
        self, looked: Looked, scenes: Scenes, people: People, key: Key[Array, ""]
    ) -> tuple[dict[str, Float[Array, ""]], Candidates]:
        """Terms of the training loss, this device's share of those of the global batch, and predicted boxes.

        Args:
          looked: of `look`, in training.
          scenes, people: the batch.
          key: random key for sampling, the same on all devices.

        Returns:
          "proposal_classification", "proposal_regression", "classification", "regression"; and the boxes that the
          head makes of the sampled ones that stand for people.
        """
        proposal_key, box_key = jax.random.split(key)
        terms = proposal_terms(self, proposal_key, looked.objectness, looked.deltas, looked.anchors, people)
        box, exists = self.proposals(looked, scenes, train=True)
        sampled = sample_with_people(self, box_key, box, exists, people)
        logits, deltas = self.judge(looked, sampled.box, sampled.valid)
        terms["classification"] = classification_loss(self, logits[..., 1] - logits[..., 0], sampled)
        terms["regression"] = regression_loss(self, deltas, sampled, self.box_beta)
        self.sow("intermediates", "proposals", box)
        self.sow("intermediates", "proposals_exist", exists)
        self.sow("intermediates", "sampled", sampled)
        self.sow("intermediates", "logits", logits)
        self.sow("intermediates", "deltas", deltas)
        candidates = Candidates(
            refined(deltas, sampled.box, jnp.asarray(scenes.size)),
            jax.nn.softmax(logits)[..., 1],
            sampled.person,
            sampled.positive,
        )
        return terms, candidates

    # Test time

    def detect(self, looked: Looked, scenes: Scenes) -> Found:
        """Finds everybody: arrays [scene, at most detections_per_scene, ...]."""
        proposals, exists = self.proposals(looked, scenes, train=False)
        logits, deltas = self.judge(looked, proposals, exists)
        self.sow("intermediates", "proposals", proposals)
        self.sow("intermediates", "logits", logits)
        self.sow("intermediates", "deltas", deltas)
        box = refined(deltas, proposals, jnp.asarray(scenes.size))
        return Found(*detected(self, logits, box, exists, self.nms_threshold))
