"""AlignPS: anchor-free person search (Yan et al., "Efficient Person Search: An Anchor-Free Approach", 2021).

A trunk and aligned feature aggregation make one map of stride 8. Each of its locations is an embedding for
re-identification as it stands ("re-id first"), and an anchor-free head on the same map says whether it is the middle
of a person, and where that person's box ends. AlignPS+ has deformable convolutions in the trunk, too. Numbers are those
of the released code; where paper and code differ, the attributes say so.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from ps_jax.backbones import build_trunk
from ps_jax.errors import ConfigError
from ps_jax.heads import STRUCTURES, AnchorFreeHead, LocationOutput
from ps_jax.interface import Detections, People, Scenes
from ps_jax.necks import AlignedFeatureAggregation
from ps_jax.systems import _alignps_detection, _alignps_training

TRIPLETS = ("none", "batch", "table")
EXTRA_LEVELS = (3, 4, 5, 6, 7)  # that the released code trains the classification on
LARGEST_STRIDE = 32


class AlignPS(nn.Module):
    """AlignPS, and with `deformable_stages` AlignPS+.

    Attributes:
      num_identities: L, known identities of the training set.
      trunk: name of the trunk; see `ps_jax.backbones.build_trunk`.
      deformable_stages: numbers, from 1, of the stages of a ResNet that have modulated deformable 3x3 convolutions;
        (2, 3, 4), res3 to res5, is AlignPS+ (table V).
      frozen_stages: the trunk's stem and so many of its stages are not trained; -1: all is.
      freeze_norms: the trunk's batch normalisation keeps its statistics, scales and biases.
      width: D, channels of neck, head and embedding.
      levels: numbers of the levels, of strides 2^level, that people are found on (table I).
      size_limits: pixels between the sizes that neighbouring levels are for, as the distance from a location to the
        side of the box that is furthest away.
      lateral_deformable, output_deformable, concatenate, xavier_offsets: see `AlignedFeatureAggregation` (table II).
      centre_features: each channel of the map is taken less its mean over the scene. The released code does, the paper
        does not say so.
      structure: where the embedding comes from; see `AnchorFreeHead` (table III).
      extra_levels: classification is also trained on P3 to P7, where all is background (released code); the paper's
        model has no such levels.
      centre_radius: a location stands for a person up to so many strides from the centre of the box.
      focal_gamma: exponent of the focal factor of online instance matching; 0 is plain OIM (table IV).
      triplet: "table", the triplet loss with table rows of TOIM, "batch", without them, or "none" (table IV; released
        code on PRW).
      triplet_margin: in units of the normalised embeddings.
      oim_scale, queue_scale: inverse temperatures of lookup table and queue.
      oim_momentum: of the lookup table.
      normalise_table: a row of the lookup table is normalised after it moved (released code on PRW).
      queue_size: slots for unknown people.
      mean_over_known: the loss of online instance matching is divided by the positives of known people, not by all
        positives.
      released_memory: repeat two slips of the released code: the queue keeps only the first 64 channels, and
        identity 0 has no table row in the triplet loss.
      top_locations: locations of a scene that are looked at, those with the largest score.
      score_threshold: least probability of a person, before it is multiplied by the centerness.
      detections_per_scene: at most this many.
      nms_threshold: overlap above which the lower score is suppressed.
      axis_name: device axis that the batch is spread over.
      dtype: type of trunk, neck and towers, float32 if None; predictions, embeddings and losses are float32 always.
    """

    num_identities: int
    trunk: str = "resnet50_caffe"
    deformable_stages: Sequence[int] = ()
    frozen_stages: int = 1
    freeze_norms: bool = True
    width: int = 256
    levels: Sequence[int] = (3,)
    size_limits: Sequence[float] = ()
    lateral_deformable: bool = True
    output_deformable: bool = True
    concatenate: bool = True
    xavier_offsets: bool = False
    centre_features: bool = True
    structure: str = "reid_first"
    extra_levels: bool = False
    centre_radius: float = 1.5
    focal_gamma: float = 2.0
    triplet: str = "table"
    triplet_margin: float = 0.3
    oim_scale: float = 10.0
    queue_scale: float = 10.0
    oim_momentum: float = 0.5
    normalise_table: bool = False
    queue_size: int = 5000
    mean_over_known: bool = False
    released_memory: bool = False
    top_locations: int = 1000
    score_threshold: float = 0.05
    detections_per_scene: int = 100
    nms_threshold: float = 0.5
    axis_name: str | None = None
    dtype: Any = None

    def setup(self) -> None:
        self._check_options()
        options: dict[str, Any] = {"dtype": self.dtype, "axis_name": self.axis_name}
        if self.deformable_stages:
            options["deformable_stages"] = tuple(self.deformable_stages)
        self.backbone = build_trunk(self.trunk, **options)
        self.neck = AlignedFeatureAggregation(
            self.width,
            tuple(sorted({*self.levels, *self.background_levels})),
            self.lateral_deformable,
            self.output_deformable,
            self.concatenate,
            self.xavier_offsets,
            self.dtype,
        )
        self.head = AnchorFreeHead(self.width, self.levels, self.structure, self.dtype)
        self.lookup_table = self._memory("lookup_table", (self.num_identities, self.width), jnp.float32)
        self.queue = self._memory("queue", (self.queue_size, self.width), jnp.float32)
        self.queue_header = self._memory("queue_header", (), jnp.int32)

    def _memory(self, name: str, shape: tuple[int, ...], dtype: Any) -> nn.Variable:
        return self.variable("memory", name, jnp.zeros, shape, dtype)

    def _check_options(self) -> None:
        """Raises ConfigError where an option is unknown or options contradict each other."""
        for name, known in (("structure", STRUCTURES), ("triplet", TRIPLETS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}. Use one of: {', '.join(known)}.")
        levels = tuple(self.levels)
        if not levels or not set(levels) <= {3, 4, 5} or levels != tuple(sorted(set(levels))):
            raise ConfigError(f"levels are {levels}. Use some of 3, 4 and 5, ascending.")
        if not set(self.deformable_stages) <= {1, 2, 3, 4}:
            raise ConfigError(f"deformable_stages are {tuple(self.deformable_stages)}. Use some of 1 to 4.")
        if len(self.size_limits) != len(levels) - 1 or list(self.size_limits) != sorted(self.size_limits):
            raise ConfigError(
                f"size_limits are {tuple(self.size_limits)}: {len(levels)} levels need {len(levels) - 1}, ascending."
            )

    @property
    def background_levels(self) -> tuple[int, ...]:
        """Levels that only the classification is trained on, and nobody is found on."""
        return tuple(level for level in EXTRA_LEVELS if self.extra_levels and level not in self.levels)

    @property
    def size_ranges(self) -> list[tuple[float, float]]:
        """For each of `levels` the least and the greatest distance to the furthest side, in pixels."""
        limits = (-1.0, *map(float, self.size_limits), math.inf)
        return list(itertools.pairwise(limits))

    def initialise(self) -> None:
        """Runs every part once on a small empty scene, so that all variables are made."""
        scenes = Scenes(jnp.zeros((1, 64, 64, 3)), jnp.full((1, 2), 64))
        maps, masks = self.features(scenes, train=False)
        for level in self.levels:
            self.head(maps[level], masks[level], level)

    # Parts that training and detection share

    def features(
        self, scenes: Scenes, train: bool
    ) -> tuple[dict[int, Float[Array, "batch _ _ _"]], dict[int, Bool[Array, "batch _ _"]]]:
        """`neck_levels` of the images."""
        return self.neck_levels(self.trunk_maps(scenes, train), jnp.asarray(scenes.size))

    def trunk_maps(self, scenes: Scenes, train: bool) -> dict[str, Float[Array, "batch _ _ _"]]:
        """The trunk's maps of the normalised images."""
        image = jnp.asarray(scenes.image)
        image = image if self.dtype is None else image.astype(self.dtype)
        trunk = self.backbone(image, train and not self.freeze_norms)
        for name, features in trunk.items():
            self.sow("intermediates", name, features)
        return trunk

    def neck_levels(
        self, trunk: dict[str, Float[Array, "batch _ _ _"]], size: Int[Array, "batch 2"]
    ) -> tuple[dict[int, Float[Array, "batch _ _ _"]], dict[int, Bool[Array, "batch _ _"]]]:
        """The neck's levels, and which of their positions belong to each scene.

        Those that people are found on are centred, background levels not (released code).
        """
        maps = self.neck(trunk)
        masks = {level: own_positions(size, (x.shape[1], x.shape[2]), level) for level, x in maps.items()}
        for level, features in maps.items():
            self.sow("intermediates", f"p{level}", features)
        if self.centre_features:
            maps |= {level: _centred(maps[level], masks[level]) for level in self.levels}
        return maps, masks

    def head_outputs(
        self, maps: dict[int, Float[Array, "batch _ _ _"]], masks: dict[int, Bool[Array, "batch _ _"]]
    ) -> dict[int, LocationOutput]:
        """What the head says of the levels that people are found on."""
        return {level: self.head(maps[level], masks[level], level) for level in self.levels}

    # Training

    def losses(self, scenes: Scenes, people: People) -> dict[str, Float[Array, ""]]:
        """Terms of the training loss, to be summed; see `ps_jax.systems.System.losses`."""
        maps, masks = self.features(scenes, train=True)
        return _alignps_training.losses(self, maps, masks, jax.tree.map(jnp.asarray, people))[0]

    # Test time

    def detect(self, scenes: Scenes) -> Detections:
        """Finds everybody: arrays [B, at most detections_per_scene, ...]."""
        levels = self.features(scenes, train=False)
        return _alignps_detection.detect(self, *levels, scenes.size, self.score_threshold)

    def embed(
        self, scenes: Scenes, boxes: Float[Array, "batch box 4"]
    ) -> Float[Array, "batch box dimension"]:
        """Embeds given boxes for re-identification: the location nearest to the centre of each."""
        return _alignps_detection.embed(self, *self.features(scenes, train=False), jnp.asarray(boxes))


def own_positions(
    size: Array, feature_size: tuple[int, int], level: int
) -> Bool[Array, "batch height width"]:
    """Which positions of a level belong to each scene, padded on its own to a multiple of 32.

    A batch may be padded further, to the size of its largest scene; what is beyond belongs to nobody.

    Args:
      size: i32[B, 2], (height, width) of the scenes in pixels.
      feature_size: (height, width) of the map.
      level: its number; the stride is 2^level.
    """
    cells = -(-size // LARGEST_STRIDE)
    cells = cells * 2 ** (5 - level) if level <= 5 else -(-cells // 2 ** (level - 5))
    rows = jnp.arange(feature_size[0]) < cells[:, :1]
    columns = jnp.arange(feature_size[1]) < cells[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


def _centred(x, mask):
    """The map less the mean of each channel over the scene's own positions."""
    weight = mask[..., None].astype(jnp.float32)
    total = jnp.sum(x.astype(jnp.float32) * weight, axis=(1, 2), keepdims=True)
    return (x - total / jnp.maximum(jnp.sum(weight, axis=(1, 2), keepdims=True), 1.0)).astype(x.dtype)
