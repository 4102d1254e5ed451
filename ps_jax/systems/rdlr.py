"""RDLR: Re-ID Driven Localization Refinement (Han et al., ICCV 2019).

Two networks that share nothing: a detector of people, and a network that embeds crops of the original picture. They are
trained one after the other; then the detector goes on learning where boxes should end from the losses of the second
network, which stays as it is: their gradients pass through the crop to the corners of the box. Nothing was released;
where the paper is silent the attributes say what was chosen.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import FrozenDict
from jaxtyping import Array, Bool, Float, Int

from kernels.roi_transform import roi_transform
from ps_jax.errors import ConfigError
from ps_jax.heads import ReidNetwork
from ps_jax.heads.row_chunks import apply_in_chunks
from ps_jax.interface import Detections, People, Scenes
from ps_jax.losses import ProxyTable, empty_proxies
from ps_jax.systems import _rdlr_training
from ps_jax.systems.faster_rcnn import FasterRCNN
from ps_jax.systems.retinanet import RetinaNet

DETECTORS: dict[str, type[nn.Module]] = {"faster_rcnn": FasterRCNN, "retinanet": RetinaNet}
STAGES = ("detector", "reid", "refine")
BOXES_FROM = ("samples", "test_mode")
CROP_MEAN = (0.485, 0.456, 0.406)  # of the RGB channels in 0 .. 1 of what the re-identification network takes
CROP_STD = (0.229, 0.224, 0.225)
CHUNK = 32  # crops that are embedded at a time
# What a detector has from the system.
SHARED = ("score_threshold", "nms_threshold", "detections_per_scene", "axis_name", "dtype")


class RDLR(nn.Module):
    """RDLR's two networks, and what is trained of them.

    Attributes:
      num_identities: L, known identities of the training set.
      stage: what is trained: "detector" by its own losses (phase 1), "reid" on crops of known people (phase 2),
        "refine" the detector by the losses of the other network (phase 3).
      detector_name: "faster_rcnn" or "retinanet".
      detector_options: attributes of `FasterRCNN` or `RetinaNet` but those that stand here.
      reid_trunk: "osnet_x0_25" or the name of a trunk; see `ReidNetwork`.
      classifier: the re-identification network tells the people of the training set apart. False where it was trained
        on other people (the cross-data variant).
      crop_size: (height, width) of the crops.
      reid_margin: of the batch-hard triplet loss that the re-identification network is trained with.
      softmax, proxy_triplet: losses of the refinement (table 5); "softmax" needs `classifier`.
      margin: m of the proxy triplet loss.
      proxies: K, features kept of each person.
      mask_empty: proxies that were never written take no part; False is the literal equation.
      mean_over_anchors: the proxy triplet loss is the mean over its anchors; False is the literal sum.
      boxes_from: the loss is on boxes predicted from training samples ("samples"), or on what is detected
        ("test_mode").
      boxes_per_person: of each person the best-scored so many.
      boxes_per_scene: at most so many of a scene.
      match_iou: overlap with the person that such a box must have.
      freeze_proposals: the head that proposes boxes is not refined, and its losses are left out.
      score_threshold: least score of a detection.
      detections_per_scene: at most this many.
      nms_threshold: overlap above which the lower score is suppressed.
      axis_name: device axis that the batch is spread over.
      dtype: type of both networks, float32 if None; boxes, crops, embeddings and losses are float32 always.
    """

    num_identities: int
    stage: str = "refine"
    detector_name: str = "faster_rcnn"
    detector_options: Mapping[str, Any] = FrozenDict()
    reid_trunk: str = "resnet50"
    classifier: bool = True
    crop_size: Sequence[int] = (256, 128)
    reid_margin: float = 0.3
    softmax: bool = True
    proxy_triplet: bool = True
    margin: float = 0.5
    proxies: int = 2
    mask_empty: bool = True
    mean_over_anchors: bool = True
    boxes_from: str = "samples"
    boxes_per_person: int = 1
    boxes_per_scene: int = 16
    match_iou: float = 0.5
    freeze_proposals: bool = False
    score_threshold: float = 0.5
    detections_per_scene: int = 100
    nms_threshold: float = 0.5
    axis_name: str | None = None
    dtype: Any = None

    def setup(self) -> None:
        self._check_options()
        shared = {name: getattr(self, name) for name in SHARED}
        self.detector = DETECTORS[self.detector_name](**self.detector_options, **shared)
        classes = self.num_identities if self.classifier else 0
        self.reid = ReidNetwork(self.reid_trunk, classes, self.axis_name, self.dtype)
        if self.stage == "refine" and self.proxy_triplet:
            empty = empty_proxies(self.num_identities, self.proxies, self._embedding_length())
            self.proxy_feature = self.variable("memory", "proxies", lambda: empty.feature)
            self.proxies_written = self.variable("memory", "proxies_written", lambda: empty.written)

    def _embedding_length(self) -> int:
        crops = jax.ShapeDtypeStruct((1, *self.crop_size, 3), jnp.float32)
        network = ReidNetwork(self.reid_trunk, parent=None)
        made = jax.eval_shape(lambda x: network.init_with_output(jax.random.key(0), x, train=False), crops)
        return made[0][1].shape[-1]

    def _check_options(self) -> None:
        """Raises ConfigError where an option is unknown or options contradict each other."""
        for name, known in (
            ("stage", STAGES),
            ("detector_name", tuple(DETECTORS)),
            ("boxes_from", BOXES_FROM),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}. Use one of: {', '.join(known)}.")
        options = DETECTORS[self.detector_name].__dataclass_fields__
        for name in self.detector_options:
            if name not in options or name in (*SHARED, "parent", "name"):
                listed = sorted(set(options) - {*SHARED, "parent", "name"})
                raise ConfigError(
                    f"{self.detector_name} has no option {name!r}. Its options: {', '.join(listed)}."
                )
        if self.stage == "reid" and not self.classifier:
            raise ConfigError(
                "the re-identification network is trained with its classifier: set classifier=True"
            )
        if self.stage == "refine" and self.softmax and not self.classifier:
            raise ConfigError(
                "without a classifier of the training set's people (classifier=False) there is no softmax loss: "
                "set softmax=False"
            )
        if self.stage == "refine" and not (self.softmax or self.proxy_triplet):
            raise ConfigError("refinement needs a loss: set softmax=True or proxy_triplet=True")
        if self.freeze_proposals and self.detector_name != "faster_rcnn":
            raise ConfigError(f"{self.detector_name} has no proposals to freeze: set freeze_proposals=False")

    def initialise(self) -> None:
        """Runs every part once, so that all variables are made."""
        self.detector.initialise()
        self.reid.initialise((self.crop_size[0], self.crop_size[1]))

    # Crops

    def crops(
        self, scenes: Scenes, box: Float[Array, "row 4"], scene: Int[Array, " row"]
    ) -> Float[Array, "row height width 3"]:
        """Cuts boxes out of the original pictures (section 3.1), normalised for the re-identification network.

        Gradients pass to the boxes.

        Args:
          scenes: with `raw`.
          box: in pixels of the resized scenes.
          scene: which scene each lies in.

        Raises:
          ConfigError: the scenes have no original pictures.
        """
        if scenes.raw is None:
            raise ConfigError("RDLR cuts people out of the original pictures: set config.data.raw=True")
        original, resized = (jnp.asarray(x, jnp.float32) for x in (scenes.raw_size, scenes.size))
        ratio = jnp.tile((original / resized)[:, ::-1], 2)  # x, y, x, y
        mean, deviation = np.asarray(CROP_MEAN, np.float32), np.asarray(CROP_STD, np.float32)
        pixels = roi_transform(
            jnp.asarray(scenes.raw),
            box * ratio[scene],
            scene,
            output_size=(self.crop_size[0], self.crop_size[1]),
            image_size=jnp.asarray(scenes.raw_size),
            outside=jnp.asarray(255 * mean),  # zero once it is normalised
        )
        return (pixels / 255 - mean) / deviation

    def embed_crops(
        self, scenes: Scenes, box: Float[Array, "scene box 4"], valid: Bool[Array, "scene box"]
    ) -> Float[Array, "scene box dimension"]:
        """Embeds boxes for the search, some at a time; zeros where there is no box."""
        rows = valid.reshape(-1)
        order = jnp.argsort(~rows, stable=True)
        scene = jnp.repeat(jnp.arange(valid.shape[0]), valid.shape[1])
        kept = rows[order]
        embedding = apply_in_chunks(
            RDLR._embed_rows,
            self,
            scenes._replace(image=None),
            (box.reshape(-1, 4)[order], scene[order]),
            kept,
            jnp.sum(kept),
            CHUNK,
        )
        embedding = jnp.where(rows[:, None], embedding[jnp.argsort(order)], 0.0)
        return embedding.reshape(*valid.shape, -1)

    def _embed_rows(self, scenes, rows, valid):
        del valid
        return self.reid(self.crops(scenes, *rows), train=False)[1]

    # Training

    def losses(self, scenes: Scenes, people: People) -> dict[str, Float[Array, ""]]:
        """Terms of the training loss, to be summed; see `ps_jax.systems.System.losses`."""
        people = jax.tree.map(jnp.asarray, people)
        if self.stage == "reid":
            return _rdlr_training.reid_losses(self, scenes, people)
        key = self.make_rng("sampling")
        if self.stage == "detector":
            return self.detector.losses(self.detector.look(scenes, train=True), scenes, people, key)[0]
        return _rdlr_training.refinement_losses(self, scenes, people, key)

    @property
    def proxy_table(self) -> ProxyTable:
        """The proxies; their setter is `keep_proxies`."""
        return ProxyTable(self.proxy_feature.value, self.proxies_written.value)

    def keep_proxies(self, table: ProxyTable) -> None:
        """Replaces the proxies."""
        self.proxy_feature.value, self.proxies_written.value = table

    # Test time

    def detect(self, scenes: Scenes) -> Detections:
        """Finds everybody: arrays [B, detections_per_scene, ...]."""
        found = self.detector.detect(self.detector.look(scenes, train=False), scenes)
        box = jnp.where(found.valid[..., None], found.box, 0.0)
        score = jnp.where(found.valid, found.score, 0.0)
        return Detections(box, score, self.embed_crops(scenes, box, found.valid), found.valid)

    def embed(
        self, scenes: Scenes, boxes: Float[Array, "batch box 4"]
    ) -> Float[Array, "batch box dimension"]:
        """Embeds given boxes for re-identification."""
        boxes = jnp.asarray(boxes)
        return self.embed_crops(scenes, boxes, jnp.ones(boxes.shape[:2], bool))
