"""SPNet: Swap Path Network for Robust Person Search Pre-training (Jaffe and Zakhor, WACV 2025).

A dense detector whose classification is the length of an offset `o = q - a` between a query embedding and the
embedding of an anchor: short means that the anchor lies on the person. The query embedding takes one of two
paths that share everything else: the *query-centric* path embeds the box of a real person, and the detector
finds that person; the *object-centric* path predicts it from the anchor itself, and the detector finds everybody.
Numbers are those of the released code where it differs from the paper.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from ps_jax.backbones import build_trunk
from ps_jax.boxes import pyramid_anchors, random_order
from ps_jax.boxes.sampling import Order
from ps_jax.errors import ConfigError
from ps_jax.heads import (
    COMBINERS,
    SCALES,
    AnchorEmbedder,
    BoxEmbedder,
    BoxRegressor,
    Bridge,
    LocationEmbedder,
    NormLogit,
    offset_norm,
)
from ps_jax.interface import Detections, People, Scenes
from ps_jax.necks import FeaturePyramid
from ps_jax.systems import _spnet_detection
from ps_jax.systems._devices import gather_rows, global_numbers
from ps_jax.systems._spnet_lwf import FORMS, forgetting_loss
from ps_jax.systems._spnet_object_centric import object_centric_losses
from ps_jax.systems._spnet_query_centric import query_centric_losses

# Three sizes an octave on five levels (strides 8 to 128), cut to whole pixels.
ANCHOR_SIZES = tuple(
    tuple(float(int(base * 2 ** (k / 3))) for k in range(3)) for base in (32, 64, 128, 256, 512)
)


class SPNet(nn.Module):
    """SPNet; by default SPNet-S: one box embedder for queries and re-identification, no cascade.

    SPNet-L has two cascade steps, location heads of their own and embeddings for re-identification of length 2048.

    Attributes:
      num_identities: L, known identities of the training set.
      trunk: name of the trunk; see `ps_jax.backbones.build_trunk`.
      stochastic_depth: rate of the trunk's stochastic depth; None is the trunk's own.
      mode: path used in training, "oc" (object-centric) or "qc" (query-centric).
      embedding_dim: d, length of anchor and query embeddings.
      reid_dim: D, length of re-identification embeddings; must be d where these serve as queries or in the cascade.
      num_cascade_steps: T, how often the predicted boxes are embedded and predicted from again.
      separate_location_heads: boxes are located (as queries, and in the cascade) by embedders of their own, one
        for each step, instead of by the re-identification embedding.
      combiner: how a query and an embedding make an offset, "difference" or "product".
      bridge_type: "combiner" predicts the query, which makes the offset; "direct" predicts the offset.
      logit_scale: how lengths of offsets become logits, "fixed", "batch" or "none"; see `ps_jax.heads.NormLogit`.
      positive_norm: long offsets score high, instead of short ones.
      replicate_stages: on transfer from a phase with fewer cascade steps, the stages it lacks start as copies of the
        ones it had (the paper's PT-Rep), instead of anew (PT).
      anchor_sizes: anchor sizes of each level in pixels.
      anchor_ratios: height over width.
      match_high, match_low: overlap from which an anchor is positive, below which it is background.
      focal_alpha, focal_gamma: of the focal loss on anchors.
      first_stage_classification: classify the sampled anchors too, as the cascade's boxes are: the paper's sum
        has this term, the released code leaves it out.
      classification_loss: of these, "cross_entropy" or "focal" (with the constants of the anchors' loss).
      samples_per_image: object-centric: anchors of an image that go on to box regression.
      positive_fraction: largest share of positives among them.
      pairs_per_batch: query-centric: query-scene pairs of a batch.
      samples_per_pair: query-centric: anchors of a pair that go on to box regression.
      anchors_per_batch: how many anchors of a batch are said to go on to box regression, on either path, so that
        both can be compared; a step that takes another number is refused. None: not said.
      reid_iou: overlap with its person from which a predicted box counts for re-identification.
      reid_objective: re-identification loss, "oim" (online instance matching) or "queue" (contrast with a queue
        of momentum embeddings, for pre-training).
      oim_scale: inverse temperature of either.
      oim_momentum: of the lookup table of online instance matching.
      queue_size: slots of the queue; for unknown people with "oim", for everybody with "queue".
      encoder_momentum: with "queue", weight of the old parameters when the momentum encoder moves in a step.
      reid_gt_only: only annotated boxes count for re-identification, no predicted ones.
      reid_only: train by the re-identification loss alone.
      start_from_momentum_encoder: begin a phase with the momentum encoder of the phase before, not with the
        encoder that was trained.
      backbone_tuning: what of the trunk is trained: "full", "frozen", "norm" (its layer normalisation), "lora"
        (factors of rank 1 beside its linear layers) or "lora_linear" (these and the linear layers, as the released
        code does). The box embedder's copy of the last stage is always trained.
      lwf: learning without forgetting of the trunk's ImageNet classes, "none", "kl" (the usual distillation) or
        "bce" (as the released code computes it).
      lwf_temperature: of its probabilities.
      top_anchors, query_top_anchors: anchors looked at in detection, and for each query in a search.
      score_threshold: least score of a detection.
      detections_per_scene: candidates for non-maximum suppression, so at most this many detections.
      nms_threshold: overlap above which the lower score is suppressed.
      clip_to_first_scene: clip the boxes predicted in training to the size of the first scene of the batch, as
        the released code does, instead of to that of their own (all sizes are equal in published training).
      order: puts candidates in random order wherever training samples.
      axis_name: device axis that the batch is spread over.
      dtype: type of trunk, neck, anchor and box embedder, float32 if None; norms, logits, box regression and
        losses are float32 always.
    """

    num_identities: int
    trunk: str = "convnext_tiny"
    stochastic_depth: float | None = None
    mode: str = "oc"
    embedding_dim: int = 128
    reid_dim: int = 128
    num_cascade_steps: int = 0
    separate_location_heads: bool = False
    combiner: str = "difference"
    bridge_type: str = "combiner"
    logit_scale: str = "fixed"
    positive_norm: bool = False
    replicate_stages: bool = False
    anchor_sizes: Sequence[Sequence[float]] = ANCHOR_SIZES
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    match_high: float = 0.5
    match_low: float = 0.4
    focal_alpha: float = 0.5
    focal_gamma: float = 1.0
    first_stage_classification: bool = False
    classification_loss: str = "cross_entropy"
    samples_per_image: int = 128
    positive_fraction: float = 0.5
    pairs_per_batch: int = 32
    samples_per_pair: int = 64
    anchors_per_batch: int | None = None
    reid_iou: float = 0.7
    reid_objective: str = "oim"
    oim_scale: float = 30.0
    oim_momentum: float = 0.5
    queue_size: int = 5000
    encoder_momentum: float = 0.9999
    reid_gt_only: bool = False
    reid_only: bool = False
    start_from_momentum_encoder: bool = False
    backbone_tuning: str = "full"
    lwf: str = "none"
    lwf_temperature: float = 2.0
    top_anchors: int = 1000
    query_top_anchors: int = 100
    score_threshold: float = 0.5
    detections_per_scene: int = 300
    nms_threshold: float = 0.5
    clip_to_first_scene: bool = False
    order: Order = random_order
    axis_name: str | None = None
    dtype: Any = None

    def setup(self) -> None:
        self._check_options()
        options: dict[str, Any] = {"dtype": self.dtype, "axis_name": self.axis_name}
        if self.stochastic_depth is not None:
            options["stochastic_depth"] = self.stochastic_depth
        self.backbone = build_trunk(self.trunk, **options)
        if self.lwf != "none":
            self.classifier = self.backbone.classifier(name=None)
        # As wide as the input of the last stage, a copy of which looks at pyramid features.
        self.fpn = FeaturePyramid(self.backbone.channels["c4"], dtype=self.dtype)
        self.anchor_embedder = AnchorEmbedder(
            self.embedding_dim, len(self.anchor_sizes[0]) * len(self.anchor_ratios), self.dtype
        )
        self.box_embedder = BoxEmbedder(
            self.backbone.last_stage(name=None), self.reid_dim, axis_name=self.axis_name
        )
        if self.separate_location_heads:  # one for each cascade step; the first embeds queries too
            self.location_embedder = {
                str(step): LocationEmbedder(
                    self.backbone.last_stage(name=None), self.embedding_dim, axis_name=self.axis_name
                )
                for step in range(1, max(1, self.num_cascade_steps) + 1)
            }
        # One for each stage: anchors, then the cascade's steps
        stages = range(self.num_cascade_steps + 1)
        self.bridge = [Bridge(COMBINERS[self.combiner], self.bridge_type == "direct") for _ in stages]
        self.regression_head = [BoxRegressor() for _ in stages]
        self.classification_head = [
            NormLogit(self.embedding_dim, self.logit_scale, self.positive_norm, self.axis_name)
            for _ in stages
        ]
        self.queue = self._memory("queue", (self.queue_size, self.reid_dim), jnp.float32)
        self.queue_header = self._memory("queue_header", (), jnp.int32)
        if self.reid_objective == "oim":
            self.lookup_table = self._memory(
                "lookup_table", (self.num_identities, self.reid_dim), jnp.float32
            )
        else:
            self.queue_person = self._memory("queue_person", (self.queue_size,), jnp.int32)
            self.queue_age = self._memory("queue_age", (self.queue_size,), jnp.int32)

    def _memory(self, name: str, shape: tuple[int, ...], dtype: Any) -> nn.Variable:
        return self.variable("memory", name, jnp.zeros, shape, dtype)

    def _check_options(self) -> None:
        """Raises ConfigError where an option is unknown or options contradict each other."""
        if self.mode not in ("oc", "qc"):
            raise ConfigError(f"mode is {self.mode!r}. Use 'oc' (object-centric) or 'qc' (query-centric).")
        for name, known in {
            "combiner": COMBINERS,
            "bridge_type": ("combiner", "direct"),
            "logit_scale": SCALES,
            "classification_loss": ("cross_entropy", "focal"),
            "reid_objective": ("oim", "queue"),
            "lwf": FORMS,
        }.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}. Use one of: {', '.join(known)}.")
        if self.logit_scale == "none" and not self.positive_norm and self.score_threshold >= 0.5:
            raise ConfigError(
                "logit_scale 'none' scores at most 0.5, so that nobody would ever be detected: set "
                "positive_norm=True, or score_threshold (config.model's and config.eval's) below 0.5"
            )
        if self.embedding_dim < 1:
            raise ConfigError(f"embedding_dim is {self.embedding_dim}. Use 1 or more.")
        if self.reid_dim < 2 or self.reid_dim % 2:  # it has two halves
            raise ConfigError(f"reid_dim is {self.reid_dim}. Use an even number, 2 or more.")
        if self.num_cascade_steps < 0:
            raise ConfigError(f"num_cascade_steps is {self.num_cascade_steps}. Use 0 or more.")
        if self.mode == "qc" or self.num_cascade_steps:
            self._check_queries()

    def _check_queries(self) -> None:
        """Raises ConfigError where re-identification embeddings cannot serve for locating."""
        if self.reid_dim != self.embedding_dim and not self.separate_location_heads:
            raise ConfigError(
                f"reid_dim is {self.reid_dim}, but queries and cascades need embeddings of length "
                f"{self.embedding_dim}. Set separate_location_heads=True or make reid_dim equal to embedding_dim; "
                "mode 'oc' without a cascade needs neither."
            )

    def initialise(self) -> None:
        """Runs every part once on a small empty scene, so that all variables are made."""
        scenes = Scenes(jnp.zeros((1, 64, 64, 3)), jnp.full((1, 2), 64))
        pyramid = self.features(scenes, train=False)
        embedding = self.anchor_embedder(pyramid)
        for stage in range(self.num_cascade_steps + 1):
            offsets = self.offsets(stage, embedding)
            self.logits(stage, offset_norm(offsets), jnp.ones(1, bool), train=False)
            self.regression_head[stage](offsets)
        box, valid = jnp.zeros((1, 1, 4)), jnp.ones((1, 1), bool)
        self.embed_boxes(pyramid, box, valid, train=False)
        if self.separate_location_heads:
            for step in range(1, max(1, self.num_cascade_steps) + 1):
                self.embed_locations(step, pyramid, box, valid, train=False)
        if self.lwf != "none":
            self.classify(self.trunk_features(scenes, train=False), train=False)

    # Parts that both paths share

    def trunk_features(self, scenes: Scenes, train: bool) -> dict[str, Array]:
        """The trunk's maps c2 .. c5 of the normalised images."""
        image = jnp.asarray(scenes.image)
        return self.backbone(image if self.dtype is None else image.astype(self.dtype), train)

    def features(self, scenes: Scenes, train: bool) -> dict[str, Array]:
        """Feature pyramid p3 .. p7 of the normalised images."""
        return self.fpn(self.trunk_features(scenes, train))

    def classify(self, features: Mapping[str, Array], train: bool) -> Float[Array, "batch category"]:
        """Logits of ImageNet's classes from the trunk's maps; only with `lwf`."""
        return self.classifier(features["c5"], train)

    def anchors(self, scenes: Scenes, pyramid: dict[str, Array]) -> Float[Array, "anchor 4"]:
        """Anchors of every scene of the batch: all are padded to one size, and the strides are that size's."""
        image_size = scenes.image.shape[1:3]
        feature_sizes = [(level.shape[1], level.shape[2]) for level in pyramid.values()]
        return pyramid_anchors(image_size, feature_sizes, self.anchor_sizes, self.anchor_ratios)

    def embed_boxes(
        self,
        pyramid: dict[str, Array],
        boxes: Float[Array, "row box 4"],
        valid: Bool[Array, "row box"],
        train: bool,
        scene: Int[Array, " row"] | None = None,
    ) -> Float[Array, "row box dimension"]:
        """Embeds rows of boxes for re-identification; row r belongs to scene r unless `scene` says another.

        Rows with a `scene`, such as pairs, are the same on all devices; for others every device has its own.
        """
        return self._embed(self.box_embedder, pyramid, boxes, valid, train, scene)

    def embed_locations(
        self,
        step: int,
        pyramid: dict[str, Array],
        boxes: Float[Array, "row box 4"],
        valid: Bool[Array, "row box"],
        train: bool,
        scene: Int[Array, " row"] | None = None,
    ) -> Float[Array, "row box {self.embedding_dim}"]:
        """As `embed_boxes`, for cascade step `step` = 1 .. T to locate people from; queries are embedded as for 1."""
        shared = not self.separate_location_heads
        embedder = self.box_embedder if shared else self.location_embedder[str(step)]
        return self._embed(embedder, pyramid, boxes, valid, train, scene)

    def _embed(self, embedder, pyramid, boxes, valid, train, scene):
        rows, count = valid.shape
        number = jnp.arange(rows) if scene is not None else global_numbers(rows, self.axis_name)
        scene = jnp.arange(rows) if scene is None else scene
        embedding = embedder(
            pyramid["p3"],
            boxes.reshape(-1, 4).astype(jnp.float32),
            jnp.repeat(scene, count),
            valid.reshape(-1),
            train,
            (number[:, None] * count + jnp.arange(count)).reshape(-1),
        )
        return embedding.reshape(rows, count, -1)

    def offsets(
        self,
        stage: int,
        embedding: Float[Array, "*rows dimension"],
        query: Float[Array, "*#rows dimension"] | None = None,
    ) -> Float[Array, "*rows dimension"]:
        """Offsets of a stage's embeddings from a query, or from the query that the bridge predicts of them."""
        if query is None:
            return self.bridge[stage](embedding)
        return COMBINERS[self.combiner](query, embedding)

    def logits(
        self, stage: int, norm: Float[Array, "*rows"], valid: Bool[Array, "..."], train: bool
    ) -> Float[Array, "*rows"]:
        """Logits of a stage from the lengths of its offsets; see `ps_jax.heads.NormLogit`."""
        return self.classification_head[stage](norm, valid, train)

    def clip_size(self, scenes: Scenes) -> Int[Array, "batch 2"]:
        """(height, width) that the boxes predicted in each scene are clipped to in training."""
        size = jnp.asarray(scenes.size)
        if not self.clip_to_first_scene:
            return size
        return jnp.broadcast_to(gather_rows(size, self.axis_name)[:1], size.shape)

    # Training

    def losses(self, scenes: Scenes, people: People) -> dict[str, Float[Array, ""]]:
        """Terms of the training loss, to be summed; see `ps_jax.systems.System.losses`."""
        people = jax.tree.map(jnp.asarray, people)
        path = object_centric_losses if self.mode == "oc" else query_centric_losses
        features = self.trunk_features(scenes, train=True)
        pyramid = self.fpn(features)
        self.sow("intermediates", "pyramid", pyramid)
        terms = path(self, pyramid, scenes, people, self.make_rng("sampling"))
        if self.reid_only:
            terms = {"reid": terms["reid"]}
        if self.lwf != "none":
            terms["lwf"] = forgetting_loss(self, scenes, features)
        return terms

    # Test time

    def detect(self, scenes: Scenes) -> Detections:
        """Finds everybody (object-centric path): arrays [B, detections_per_scene, ...]."""
        return _spnet_detection.detect(self, scenes)

    def look(self, scenes: Scenes) -> tuple[dict[str, Array], Float[Array, "batch anchor dimension"]]:
        """What a search looks at whatever it looks for: feature pyramid and anchor embeddings."""
        pyramid = self.features(scenes, train=False)
        return pyramid, self.anchor_embedder(pyramid)

    def find(
        self,
        scenes: Scenes,
        queries: Float[Array, "query dimension"],
        looked: tuple[dict[str, Array], Array] | None = None,
    ) -> Detections:
        """Finds each query's person (query-centric path): arrays [B, Q, query_top_anchors, ...]."""
        self._check_queries()
        return _spnet_detection.find(
            self, scenes, queries, *(self.look(scenes) if looked is None else looked)
        )

    def embed(
        self, scenes: Scenes, boxes: Float[Array, "batch box 4"]
    ) -> Float[Array, "batch box dimension"]:
        """Embeds given boxes for re-identification."""
        boxes = jnp.asarray(boxes)
        pyramid = self.features(scenes, train=False)
        return self.embed_boxes(pyramid, boxes, jnp.ones(boxes.shape[:2], bool), train=False)

    def embed_queries(
        self, scenes: Scenes, boxes: Float[Array, "batch box 4"]
    ) -> Float[Array, "batch box dimension"]:
        """Embeds given boxes for `find`."""
        boxes = jnp.asarray(boxes)
        pyramid = self.features(scenes, train=False)
        return self.embed_locations(1, pyramid, boxes, jnp.ones(boxes.shape[:2], bool), train=False)
