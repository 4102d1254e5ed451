"""ROI-AlignPS: AlignPS with a second branch, norm-aware embeddings of boxes (same paper as AlignPS, section III-D).

Both branches share the trunk up to stride 16. AlignPS detects and embeds; the second branch, trained as a Faster R-CNN
on proposals of its own, embeds AlignPS's boxes from what RoIAlign pools. The embeddings lie side by side.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ps_jax.boxes import Order, pyramid_anchors, random_order
from ps_jax.errors import ConfigError
from ps_jax.heads import (
    BoxPooler,
    NormalisedBoxRegressor,
    NormAwareEmbedding,
    RegionProposalHead,
    ReidOutput,
    RoiSampling,
)
from ps_jax.interface import Detections, People, Scenes
from ps_jax.layers import Linear
from ps_jax.systems import _alignps_detection, _roi_alignps_training
from ps_jax.systems._devices import global_numbers
from ps_jax.systems._roi_alignps_mutual import Pairing, random_pairing
from ps_jax.systems.alignps import AlignPS

STRIDE = 16
BRANCHES = ("both", "alignps", "roi")
TRAIN_BOXES = ("proposals", "detections")


class ROIAlignPS(AlignPS):
    """AlignPS and the box branch beside it.

    Attributes:
      branch: which embeddings are searched with: "both", side by side, or one alone.
      train_boxes: what the box branch is trained on beside the annotated boxes: "proposals" of its own, or AlignPS's
        "detections", the best of each scene whatever their probability (table VI, "without RPN").
      location_reid: AlignPS's embeddings are trained; False leaves it to detect (table VI, "ROI-Align*").
      anchor_sizes, anchor_ratios: of the proposals that the box branch is trained on, in pixels, and height over width.
      most_samples: RoIAlign samples a bin as often as it has cells, but in each direction not more often than this.
      train_proposals: anchors looked at, and proposals kept, in each scene, in training.
      proposal_nms_threshold: overlap above which the lower objectness is suppressed.
      proposal_samples: anchors of a scene that are trained on, at most half of them positive.
      samples_per_image: boxes of a scene that the branch is trained on, at most half of them positive.
      box_oim_scale: inverse temperature of the branch's online instance matching.
      mutual_information_weight: of the bound of the mutual information of both branches' embeddings of a person (L_mi);
        0 leaves it out.
      divergence_weight: of the divergence of what the branches say of who a person is (L_kl).
      cosine_weight: of the cosine of the branches' embeddings of a person (L_dv).
      order: puts candidates in random order wherever training samples.
      pairing: draws what the bound of mutual information leaves to chance; see `random_pairing`.
    """

    branch: str = "both"
    train_boxes: str = "proposals"
    location_reid: bool = True
    anchor_sizes: Sequence[float] = (32.0, 64.0, 128.0, 256.0, 512.0)
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    most_samples: int = 8
    train_proposals: tuple[int, int] = (12000, 2000)
    proposal_nms_threshold: float = 0.7
    proposal_samples: int = 256
    samples_per_image: int = 128
    box_oim_scale: float = 30.0
    mutual_information_weight: float = 0.2
    divergence_weight: float = 0.0
    cosine_weight: float = 0.0
    order: Order = random_order
    pairing: Pairing = random_pairing

    def setup(self) -> None:
        super().setup()
        if self.train_boxes == "proposals":
            self.rpn = RegionProposalHead(len(self.anchor_sizes) * len(self.anchor_ratios), dtype=self.dtype)
        sampling = RoiSampling(0, True, self.most_samples)
        self.reid_head = BoxPooler(self.backbone.last_stage(name=None), STRIDE, self.axis_name, sampling)
        self.reid_predictor = NormAwareEmbedding(self.width, self.axis_name)
        self.box_regressor = NormalisedBoxRegressor(self.axis_name, class_agnostic=True)
        self.mutual_hidden = Linear(self.width)
        self.mutual_output = Linear(1)
        self.box_table = self._memory("box_table", (self.num_identities, self.width), jnp.float32)
        self.box_queue = self._memory("box_queue", (self.queue_size, self.width), jnp.float32)
        self.box_queue_header = self._memory("box_queue_header", (), jnp.int32)

    def _check_options(self) -> None:
        super()._check_options()
        for name, known in (("branch", BRANCHES), ("train_boxes", TRAIN_BOXES)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}. Use one of: {', '.join(known)}.")
        mutual = self.mutual_information_weight or self.divergence_weight or self.cosine_weight
        if not self.location_reid and (self.branch != "roi" or mutual):
            raise ConfigError(
                "location_reid is False: there is nothing in AlignPS's embeddings to search with or to learn from. Set "
                "branch to 'roi', and mutual_information_weight, divergence_weight and cosine_weight to 0."
            )

    def initialise(self) -> None:
        """See `AlignPS.initialise`."""
        super().initialise()
        features = self.trunk_maps(Scenes(jnp.zeros((1, 64, 64, 3)), jnp.full((1, 2), 64)), train=False)["c4"]
        if self.train_boxes == "proposals":
            self.rpn(features)
        self.embed_boxes(features, jnp.zeros((1, 1, 4)), jnp.ones((1, 1), bool), train=False)
        self.mutual_score(jnp.zeros((1, self.width)), jnp.zeros((1, self.width)))

    def embed_boxes(
        self,
        features: Float[Array, "batch height width channel"],
        box: Float[Array, "batch box 4"],
        valid: Bool[Array, "batch box"],
        train: bool,
    ) -> ReidOutput:
        """The box branch: embedding, logit and box deltas of the boxes of every scene."""
        scene = jnp.repeat(jnp.arange(box.shape[0]), box.shape[1])
        number = global_numbers(scene.size, self.axis_name) if train else None  # for stochastic depth
        rows = valid.reshape(-1)
        shallow, deep = self.reid_head(
            *(features, box.reshape(-1, 4), scene, rows, train and not self.freeze_norms, number)
        )
        self.sow("intermediates", "pooled", (shallow, deep))
        embedding, logit = self.reid_predictor(shallow, deep, rows, train)
        output = ReidOutput(embedding, logit, self.box_regressor(deep, rows, train))
        return jax.tree.map(lambda x: x.reshape(*valid.shape, *x.shape[1:]), output)

    def anchors(self, scenes: Scenes, features: Array) -> Float[Array, "anchor 4"]:
        """Anchors of every scene of the batch, from the padded corner and with fractions (MMDetection)."""
        size = (features.shape[1], features.shape[2])
        image = (size[0] * STRIDE, size[1] * STRIDE)
        return pyramid_anchors(image, [size], [self.anchor_sizes], self.anchor_ratios, rounded=False)

    def mutual_score(
        self, box: Float[Array, "pair dimension"], location: Float[Array, "pair dimension"]
    ) -> Float[Array, " pair"]:
        """The network T of the bound of mutual information, on pairs of embeddings of the two branches."""
        hidden = jax.nn.relu(self.mutual_hidden(jnp.concatenate([box, location], axis=-1)))
        return self.mutual_output(hidden)[:, 0]

    def losses(self, scenes: Scenes, people: People) -> dict[str, Float[Array, ""]]:
        """Terms of the training loss, to be summed; those of the box branch have names that begin with "box_"."""
        return _roi_alignps_training.losses(
            self, scenes, jax.tree.map(jnp.asarray, people), self.make_rng("sampling")
        )

    def detect(self, scenes: Scenes) -> Detections:
        """Finds everybody: arrays [B, at most detections_per_scene, ...]."""
        trunk = self.trunk_maps(scenes, train=False)
        found = _alignps_detection.detect(
            *(self, *self.neck_levels(trunk, jnp.asarray(scenes.size))),
            *(scenes.size, self.score_threshold),
        )
        self.sow("intermediates", "alignps_embedding", found.embedding)
        embedding = self._beside(found.embedding, trunk["c4"], found.box, found.valid)
        return found._replace(embedding=jnp.where(found.valid[..., None], embedding, 0.0))

    def embed(
        self, scenes: Scenes, boxes: Float[Array, "batch box 4"]
    ) -> Float[Array, "batch box dimension"]:
        """Embeds given boxes: AlignPS at their centres, the box branch as it does its own."""
        trunk, boxes = self.trunk_maps(scenes, train=False), jnp.asarray(boxes)
        levels = self.neck_levels(trunk, jnp.asarray(scenes.size))
        embedding = _alignps_detection.embed(self, *levels, boxes)
        return self._beside(embedding, trunk["c4"], boxes, jnp.ones(boxes.shape[:2], bool))

    def _beside(self, embedding, features, box, valid):
        """The embeddings that are searched with, of those of AlignPS and of the boxes'."""
        if self.branch == "alignps":
            return embedding
        output = self.embed_boxes(features, box, valid, train=False)
        self.sow("intermediates", "box_output", output)
        if self.branch == "roi":
            return output.embedding
        return jnp.concatenate([embedding, output.embedding], axis=-1)
