"""A trained system that finds and embeds people in pictures of any size."""

import dataclasses
import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from input_pipeline.plan import STRIDE
from input_pipeline.resampling import resize_array, window_size
from ps_jax.errors import CheckpointError, ConfigError
from ps_jax.evaluation.inference import MAX_BOX_CHUNK, CompiledSystem
from ps_jax.evaluation.settings import Settings
from ps_jax.evaluation.similarity import gallery_features, unit_rows
from ps_jax.interface import Batch, Scenes
from ps_jax.training import load_system


class Found(NamedTuple):
    """The people of one picture, best score first.

    Attributes:
      box: f32[people, 4], xyxy in pixels of the picture as it was given.
      score: f32[people].
      embedding: f32[people, width], as the model makes it.
    """

    box: Float[np.ndarray, "people 4"]
    score: Float[np.ndarray, " people"]
    embedding: Float[np.ndarray, "people width"]

    def above(self, threshold: float) -> "Found":
        """The people of score >= `threshold`, both as float32, as in `DetectionTable.above`."""
        keep = self.score >= np.float32(threshold)
        return Found(*(field[keep] for field in self))


class Detector:
    """A system with its variables, its own resizing and the settings it is searched with.

    Pictures are resized as the evaluation does, and padded to multiples of `stride`; each padded size is compiled once.

    Attributes:
      about: what identifies the model and what its features mean, as a gallery keeps it.
      settings: the evaluation's settings (similarity, thresholds, rule for queries).

    Args:
      system: a `ps_jax.systems.System`.
      variables: its variables.
      config: the configuration of its training: "eval" and "data" with "resize".
      batch_size: pictures in a batch.
      stride: sizes are padded to multiples of it. 32, the least, is what the evaluation does; with a larger one
        pictures of many different sizes need fewer programs, and the results differ slightly.
    """

    def __init__(
        self,
        system: Any,
        variables: Mapping[str, Any],
        config: Mapping[str, Any],
        batch_size: int = 1,
        stride: int = STRIDE,
    ):
        if batch_size < 1 or stride < 1 or stride % STRIDE:
            raise ConfigError(
                f"batches of {batch_size} and a stride of {stride}: wanted are at least 1 and a multiple of {STRIDE}"
            )
        self.settings = Settings.of(config["eval"])
        threshold = self.settings.system_threshold(
            self.settings.score_threshold, system.module.score_threshold
        )
        system = system.changed(score_threshold=threshold, **self.settings.model)
        self._resize = tuple(config["data"]["resize"])
        self._raw = bool(
            config["data"].get("raw", False)
        )  # the system takes the pictures before resizing, too
        self._batch_size, self._stride = batch_size, stride
        self._compiled = CompiledSystem(system, variables)
        self._system, self._variables = system, variables

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        """JSON values: what decides about features and boxes. Two galleries of the same have the same meaning."""
        settings = self.settings
        return {
            "system": self._system.name,
            "fingerprint": fingerprint(self._variables),
            "options": self._options,
            "resize": list(self._resize),
            "stride": self._stride,
            "similarity": settings.similarity,
            "branches": self._system.branches,
            "score_threshold": settings.score_threshold,
            "width": self._width,
        }

    @property
    def _options(self) -> str:
        """A hash of the module's options, but for those that only say where and how precisely it computes."""
        module = self._system.module
        names = {entry.name for entry in dataclasses.fields(module)} - {
            "parent",
            "name",
            "dtype",
            "axis_name",
        }
        options = {name: getattr(module, name) for name in names}
        named = json.dumps(options, sort_keys=True, default=lambda function: function.__qualname__)
        return hashlib.sha256(named.encode()).hexdigest()[:12]

    @functools.cached_property
    def _width(self) -> int:
        picture = jax.ShapeDtypeStruct((1, STRIDE * 4, STRIDE * 4, 3), np.uint8)
        size = jax.ShapeDtypeStruct((1, 2), np.int32)
        scenes = Scenes(picture, size, *((picture, size) if self._raw else ()))
        boxes = jax.ShapeDtypeStruct((1, 1, 4), np.float32)
        return int(jax.eval_shape(self._system.embed, self._variables, scenes, boxes).shape[-1])

    def detect(self, pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Found]:
        """Finds everybody in pictures of any sizes: u8[height, width, 3] each; whom a gallery is to hold."""
        return [found.above(self.settings.score_threshold) for found in self.look(pictures)]

    def look(self, pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Found]:
        """All that the system finds, of which a query may be one, see `make_query`.

        That may be more than `detect` gives: a query can have a score below the threshold, and a system may look at
        something else than the score that it gives (AlignPS at the probability, without the centerness).
        """
        sizes = [window_size(picture.shape[0], picture.shape[1], self._resize) for picture in pictures]
        groups: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
        for number, size in enumerate(sizes):
            before = (self._padded(_size(pictures[number])),) if self._raw else ()
            groups[self._padded(size), *before].append(number)
        found: dict[int, Found] = {}
        for members in groups.values():
            for start in range(0, len(members), self._batch_size):
                some = members[start : start + self._batch_size]
                batch = self._batch([pictures[n] for n in some], [sizes[n] for n in some])
                detections = self._compiled("detect", batch)
                for row, number in enumerate(some):
                    box, score, embedding, valid = (np.asarray(field)[row] for field in detections)
                    _check_finite(embedding[valid])
                    ratio = _ratio(pictures[number], sizes[number])
                    found[number] = Found(
                        (box[valid] * ratio).astype(np.float32), score[valid], embedding[valid]
                    )
        return [found[number] for number in range(len(pictures))]

    def embed(
        self, picture: UInt8[np.ndarray, "height width 3"], boxes: Float[np.ndarray, "box 4"]
    ) -> Float[np.ndarray, "box dimension"]:
        """f32[boxes, dimension], the embeddings of boxes in pixels of the picture."""
        size = window_size(picture.shape[0], picture.shape[1], self._resize)
        batch = self._batch([picture], [size])
        resized = np.asarray(boxes, np.float64) / _ratio(picture, size)
        rows = []
        for start in range(0, len(resized), MAX_BOX_CHUNK):
            some = resized[start : start + MAX_BOX_CHUNK]
            chunk = np.zeros((self._batch_size, MAX_BOX_CHUNK, 4), np.float32)
            chunk[0, : len(some)] = some
            rows.append(self._compiled("embed", batch, chunk)[0, : len(some)])
        embedding = np.concatenate(rows) if rows else np.zeros((0, self._width), np.float32)
        _check_finite(embedding)
        return embedding

    def gallery_features(self, found: Found) -> Float[np.ndarray, "people width"]:
        """f32[people, width], what a gallery keeps of people."""
        feature = gallery_features(
            found.embedding, found.score, self.settings.similarity, self._system.branches
        )
        return feature.astype(np.float32)

    def query_features(self, embedding: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, "rows width"]:
        """f32[rows, width], what a gallery is asked with."""
        return unit_rows(embedding, self._system.branches).astype(np.float32)

    def _padded(self, size: np.ndarray) -> tuple[int, int]:
        height, width = (-(-size // self._stride) * self._stride).tolist()
        return height, width

    def _batch(self, pictures: Sequence[np.ndarray], sizes: Sequence[np.ndarray]) -> Batch:
        """Pictures that are padded to one size, resized to `sizes`."""
        resized = [resize_array(picture, size) for picture, size in zip(pictures, sizes, strict=True)]
        before = self._padded_pictures(pictures) if self._raw else ()
        index = np.full(self._batch_size, -1, np.int32)
        index[: len(pictures)] = np.arange(len(pictures))
        scenes = Scenes(*self._padded_pictures(resized), *before)
        return Batch(scenes, None, index)  # type: ignore[arg-type]  # nobody is annotated

    def _padded_pictures(self, pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """u8[batch, H, W, 3] with zeros behind the pictures, and their i32[batch, 2] sizes, 1 in empty rows."""
        image = np.zeros((self._batch_size, *self._padded(_size(pictures[0])), 3), np.uint8)
        size = np.ones((self._batch_size, 2), np.int32)
        for row, picture in enumerate(pictures):
            image[row, : picture.shape[0], : picture.shape[1]] = picture
            size[row] = picture.shape[:2]
        return image, size


def _size(picture: np.ndarray) -> np.ndarray:
    return np.array(picture.shape[:2])


def load_detector(
    model: str | Path,
    phase: str | None = None,
    checkpoint: str = "last",
    batch_size: int = 1,
    stride: int = STRIDE,
) -> Detector:
    """The detector of a work directory or a model package.

    Args:
      model: the directory.
      phase, checkpoint: see `ps_jax.training.load_variables`.
      batch_size, stride: see `Detector`.

    Raises:
      CheckpointError: there is no model, it is damaged, or another version of this library made it.
    """
    system, variables, meta = load_system(model, phase, checkpoint)
    return Detector(system, variables, meta["config"], batch_size, stride)


def fingerprint(variables: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of a hash of the variables that detect and embed: names, shapes and values."""
    digest = hashlib.sha256()
    for collection in ("params", "batch_stats"):
        leaves = jax.tree_util.tree_flatten_with_path(variables.get(collection, {}))[0]
        for path, leaf in sorted(leaves, key=lambda pair: jax.tree_util.keystr(pair[0])):
            leaf = np.asarray(leaf, order="C")
            name = json.dumps([collection, jax.tree_util.keystr(path), str(leaf.dtype), leaf.shape])
            digest.update(name.encode())
            digest.update(leaf.reshape(-1).view(np.uint8))
    return digest.hexdigest()[:12]


def _ratio(picture: np.ndarray, size: np.ndarray) -> Float[np.ndarray, " 4"]:
    """f64[4], original pixels a resized pixel, for (x1, y1, x2, y2)."""
    height, width = picture.shape[:2]
    return np.array([width / size[1], height / size[0]] * 2)


def _check_finite(values: np.ndarray) -> None:
    if not np.all(np.isfinite(values)):
        raise CheckpointError(
            "the model's numbers are not finite; its weights are damaged or its training diverged, take an earlier "
            "checkpoint"
        )
