"""RetinaNet (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017).

The numbers are torchvision's `retinanet_resnet50_fpn`; the attributes reach maskrcnn-benchmark's, which RDLR's variant
of table 4 is trained with.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key

from kernels.nms import batched_nms
from ps_jax.backbones import build_trunk
from ps_jax.boxes import (
    BACKGROUND,
    best_first,
    clip_boxes,
    decode,
    encode,
    match_anchors,
    pairwise_iou,
    pyramid_anchors,
    take,
)
from ps_jax.heads import DenseAnchorHead
from ps_jax.interface import People, Scenes
from ps_jax.losses import sigmoid_focal_loss, smooth_l1
from ps_jax.necks import FeaturePyramid
from ps_jax.systems._detector import Candidates, Found
from ps_jax.systems._devices import device_count, sum_over_devices

OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))  # anchor sizes of a level


class Looked(NamedTuple):
    """What the network says of the anchors of scenes.

    Attributes:
      pyramid: maps p3 to p7 [scene, height, width, channel].
      anchors: f32[anchor, 4], of all levels.
      levels: how many anchors each level has.
      logits: f32[scene, anchor, class].
      deltas: f32[scene, anchor, 4].
    """

    pyramid: dict[str, Array]
    anchors: Array
    levels: tuple[int, ...]
    logits: Array
    deltas: Array


class RetinaNet(nn.Module):
    """A detector of people in one stage: class and box of every anchor of a pyramid.

    Attributes:
      trunk: name of the trunk; see `ps_jax.backbones.build_trunk`.
      frozen_stages: the trunk's stem and so many of its stages are not trained; -1: all is.
      freeze_norms: the trunk's batch normalisation keeps its statistics, scales and biases.
      width: channels of pyramid and towers.
      classes: logits of an anchor, that of a person the last one. torchvision's models count the background, too.
      p6_of_c5: p6 comes from the trunk's last map (maskrcnn-benchmark), not from p5 (torchvision).
      anchor_sizes, anchor_ratios: smallest size of each level, in pixels, and height over width.
      match_high, match_low: overlap from which an anchor is positive, below which it is background; every person
        keeps the best anchors, however small the overlap.
      focal_alpha, focal_gamma: of the focal loss.
      box_weights: of the box coder; 1 in torchvision, (10, 10, 5, 5) in maskrcnn-benchmark.
      box_beta: of the smooth absolute loss; 0, the absolute loss, in torchvision, 0.11 in maskrcnn-benchmark.
      box_factor: of that loss; 1 in torchvision, 1/4 in maskrcnn-benchmark.
      mean_over_batch: divide by the positives of the whole batch, for the classification and the scenes
        (maskrcnn-benchmark); False: each scene by its own, then the mean over scenes (torchvision).
      candidates: predicted boxes of a scene that may be refined, those with the best scores.
      top_anchors: anchors of each level looked at.
      score_threshold: least score of a detection.
      detections_per_scene: at most this many.
      nms_threshold: overlap above which the lower score is suppressed.
      axis_name: device axis that the batch is spread over.
      dtype: type of trunk, pyramid and head, float32 if None; predictions are float32 always.
    """

    trunk: str = "resnet50"
    frozen_stages: int = 1
    freeze_norms: bool = True
    width: int = 256
    classes: int = 1
    p6_of_c5: bool = False
    anchor_sizes: Sequence[float] = (32.0, 64.0, 128.0, 256.0, 512.0)
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    match_high: float = 0.5
    match_low: float = 0.4
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    box_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
    box_beta: float = 0.0
    box_factor: float = 1.0
    mean_over_batch: bool = False
    candidates: int = 256
    top_anchors: int = 1000
    score_threshold: float = 0.05
    detections_per_scene: int = 300
    nms_threshold: float = 0.5
    axis_name: str | None = None
    dtype: Any = None

    def setup(self) -> None:
        self.backbone = build_trunk(self.trunk, dtype=self.dtype, axis_name=self.axis_name)
        extra = "p6p7" if self.p6_of_c5 else "p6p7_of_p5"
        self.fpn = FeaturePyramid(self.width, extra_levels=extra, dtype=self.dtype)
        anchors = len(OCTAVES) * len(self.anchor_ratios)
        self.head = DenseAnchorHead(self.width, anchors, self.classes, dtype=self.dtype)

    def initialise(self) -> None:
        """Runs every part once on a small empty scene, so that all variables are made."""
        self.look(Scenes(jnp.zeros((1, 64, 64, 3)), jnp.full((1, 2), 64)), train=False)

    def look(self, scenes: Scenes, train: bool) -> Looked:
        """What the network says of the anchors of the normalised images."""
        image = jnp.asarray(scenes.image)
        image = image if self.dtype is None else image.astype(self.dtype)
        pyramid = self.fpn(self.backbone(image, train and not self.freeze_norms))
        sizes = [(level.shape[1], level.shape[2]) for level in pyramid.values()]
        # Whole numbers, as torchvision has them
        octaves = [[float(int(size * octave)) for octave in OCTAVES] for size in self.anchor_sizes]
        anchors = pyramid_anchors((image.shape[1], image.shape[2]), sizes, octaves, self.anchor_ratios)
        per_cell = len(OCTAVES) * len(self.anchor_ratios)
        levels = tuple(height * width * per_cell for height, width in sizes)
        return Looked(pyramid, anchors, levels, *self.head(pyramid))

    # Training

    def losses(
        self, looked: Looked, scenes: Scenes, people: People, key: Key[Array, ""]
    ) -> tuple[dict[str, Float[Array, ""]], Candidates]:
        """Terms of the training loss, this device's share of those of the global batch, and predicted boxes.

        Args:
          looked: of `look`, in training.
          scenes, people: the batch.
          key: not used, nothing is drawn.

        Returns:
          "classification", "regression"; and the boxes that the head makes of anchors that stand for people.
        """
        del key
        anchors = looked.anchors

        def match(boxes, exists):
            iou = pairwise_iou(boxes, anchors)
            return match_anchors(iou, exists, self.match_high, self.match_low, allow_low_quality=True)

        matched = jax.vmap(match)(people.box, people.valid)
        self.sow("intermediates", "matched", matched)
        positive = matched >= 0
        person = jnp.maximum(matched, 0)
        target = jax.nn.one_hot(jnp.where(positive, self.classes - 1, -1), self.classes)
        focal = sigmoid_focal_loss(looked.logits, target, self.focal_alpha, self.focal_gamma)
        trained = positive | (matched == BACKGROUND)
        classification = jnp.sum(jnp.where(trained[..., None], focal, 0.0), axis=(1, 2))
        wanted = encode(take(people.box, person), anchors, self._coder_weights())
        distance = jnp.sum(smooth_l1(looked.deltas, wanted, self.box_beta), axis=-1)
        regression = self.box_factor * jnp.sum(jnp.where(positive, distance, 0.0), axis=1)
        terms = self._means(classification, regression, positive)

        probability = jax.nn.sigmoid(looked.logits[..., -1])
        ranked = jnp.where(positive, jax.lax.stop_gradient(probability), -1.0)
        best = jax.lax.top_k(ranked, min(self.candidates, ranked.shape[1]))[1]
        candidates = Candidates(
            self._boxes(looked, best, scenes),
            take(probability, best),
            take(person, best),
            take(positive, best),
        )
        return terms, candidates

    def _means(
        self,
        classification: Float[Array, " scene"],
        regression: Float[Array, " scene"],
        positive: Bool[Array, "scene anchor"],
    ) -> dict[str, Float[Array, ""]]:
        """The sums of each scene, divided as the attributes say."""
        count = jnp.sum(positive, axis=1, dtype=jnp.float32)
        scenes = positive.shape[0] * device_count(self.axis_name)
        if self.mean_over_batch:
            total = sum_over_devices(jnp.sum(count), self.axis_name)
            return {
                "classification": jnp.sum(classification) / (total + scenes),
                "regression": jnp.sum(regression) / jnp.maximum(total, 1.0),
            }
        own = jnp.maximum(count, 1.0) * scenes
        return {"classification": jnp.sum(classification / own), "regression": jnp.sum(regression / own)}

    def _coder_weights(self) -> tuple[float, float, float, float]:
        x, y, width, height = self.box_weights
        return x, y, width, height

    def _boxes(self, looked: Looked, index: Array, scenes: Scenes) -> Float[Array, "scene box 4"]:
        """Where the anchors of these numbers [scene, box] are moved, within their scenes."""
        box = decode(take(looked.deltas, index), looked.anchors[index], self._coder_weights())
        return clip_boxes(box, jnp.asarray(scenes.size))

    # Test time

    def detect(self, looked: Looked, scenes: Scenes) -> Found:
        """Finds everybody: arrays [scene, at most detections_per_scene, ...].

        With several classes those that are no people take part until the end, as in torchvision.
        """
        score = jax.nn.sigmoid(looked.logits).reshape(looked.logits.shape[0], -1)
        best, start = [], 0
        for anchors in looked.levels:
            length = anchors * self.classes
            level = jax.lax.stop_gradient(score[:, start : start + length])
            best.append(start + jax.lax.top_k(level, min(self.top_anchors, length))[1])
            start += length
        index = jnp.concatenate(best, axis=1)
        score, label = take(score, index), index % self.classes
        box = self._boxes(looked, index // self.classes, scenes)
        rows = (box, score, label, score > self.score_threshold)
        kept = jax.lax.map(lambda row: batched_nms(row[0], row[1], row[2], row[3], self.nms_threshold), rows)
        order = best_first(score, kept)[:, : self.detections_per_scene]
        box, score, label, kept = (take(x, order) for x in (box, score, label, kept))
        self.sow("intermediates", "found", (box, score, label, kept))
        return Found(box, score, kept & (label == self.classes - 1))
