"""The options of an evaluation, checked."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from ps_jax.errors import ConfigError
from ps_jax.evaluation.cbgm import CANDIDATES, ContextMatching
from ps_jax.evaluation.cbgm_grid import ContextGrid
from ps_jax.evaluation.search import IOU_RULES
from ps_jax.evaluation.similarity import check_similarity

QUERY_RULES = ("box", "best_detection")
MODES = ("auto", "oc", "qc")


@dataclass(frozen=True)
class Settings:
    """The evaluation's options, checked; `config.eval` holds them. Every result prints them.

    Attributes:
      mode: "oc", detections independent of any query, "qc", detections of each pair of query and scene, or
        "auto", as the system was trained.
      galleries: names, see `ps_jax.evaluation.protocols.gallery_names`.
      similarity: "cosine" or "score_cosine".
      query: "box" or "best_detection", where the query's embedding is taken; the best one of all detections of the
        query's scene, also of those below the thresholds.
      score_threshold: detections below it are not searched.
      detection_threshold: detections below it do not count for detection recall and average precision.
      iou: "variable" or "fixed", the overlap a right answer needs.
      cross_camera, min_frame_gap: scenes to leave out of the galleries, see `search_task`.
      true_boxes: also search among the annotated boxes.
      context: context bipartite graph matching; None for none.
      context_grid: pairs of k1 and k2 to compare; None for none.
      batch_size: scenes in a batch.
      query_chunk: queries a query-centric system looks for at a time.
      pictures: queries on the contact sheets; 0 for no pictures.
      model: options of the system's module that hold for testing, some of `System.test_options`.
    """

    mode: str = "auto"
    galleries: tuple[str, ...] = ("default",)
    similarity: str = "cosine"
    query: str = "box"
    score_threshold: float = 0.5
    detection_threshold: float = 0.5
    iou: str = "variable"
    cross_camera: bool = False
    min_frame_gap: int = 0
    true_boxes: bool = True
    context: ContextMatching | None = None
    context_grid: ContextGrid | None = None
    batch_size: int = 1
    query_chunk: int = 16
    pictures: int = 20
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_similarity(self.similarity)
        for name, options in (("mode", MODES), ("query", QUERY_RULES), ("iou", IOU_RULES)):
            if getattr(self, name) not in options:
                listed = ", ".join(options)
                raise ConfigError(f"eval.{name}: {getattr(self, name)!r} is unknown; choose one of {listed}")
        for name in ("batch_size", "query_chunk"):
            if getattr(self, name) < 1:
                raise ConfigError(f"eval.{name}: {getattr(self, name)} is not a positive number")
        if self.mode == "qc" and (self.context or self.context_grid):
            raise ConfigError(
                'eval.cbgm needs detections that do not depend on the query: use eval.mode "oc"'
            )
        if self.mode == "qc" and self.query != "box":
            raise ConfigError('eval.query: a query-centric search takes queries at their "box"')

    @property
    def least_score(self) -> float:
        """Detections below it are neither searched nor counted."""
        return min(self.score_threshold, self.detection_threshold)

    def system_threshold(self, least: float, own: float) -> float:
        """The threshold to give a system whose detections of score `least` and more are wanted.

        A query that is a detection is chosen among all that the system finds by itself, however low their scores:
        among fewer, it would silently become a neighbour who overlaps the query's box.

        Args:
          least: the least score that counts.
          own: the threshold that the system has by itself.
        """
        return min(least, own) if self.query == "best_detection" else least

    @classmethod
    def of(cls, config: ConfigDict | Mapping[str, Any]) -> "Settings":
        """Settings from `config.eval`; raises ConfigError for an unknown key or value."""
        options = dict(config.items())
        context = dict(options.pop("cbgm", None) or {})
        grid = dict(options.pop("cbgm_grid", None) or {})
        internal = {"context", "context_grid"}
        unknown = options.keys() - cls.__dataclass_fields__.keys() | internal & options.keys()
        unknown |= {f"cbgm.{name}" for name in context.keys() - {"k1", "k2", "candidates"}}
        unknown |= {f"cbgm_grid.{name}" for name in grid.keys() - {"k1", "k2"}}
        if unknown:
            raise ConfigError(f"eval.{min(unknown)}: there is no such option")
        counting = context.get("candidates", CANDIDATES[0])
        if context.get("k1") or context.get("k2"):
            options["context"] = ContextMatching(context.get("k1", 0), context.get("k2", 0), counting)
        if grid.get("k1") or grid.get("k2"):
            k1, k2 = (tuple(grid.get(name, ())) for name in ("k1", "k2"))
            options["context_grid"] = ContextGrid(k1, k2, counting)
        model = options.get("model", {})
        options["model"] = {name: value for name, value in model.items() if value is not None}
        options["galleries"] = tuple(options.get("galleries", cls.galleries))
        return cls(**options)

    @property
    def printed(self) -> dict[str, Any]:
        """The fields that decide what the numbers mean, for the result."""
        grid = {"cbgm_grid": self.context_grid.words} if self.context_grid else {}
        return {
            "mode": {"oc": "object-centric", "qc": "query-centric"}.get(self.mode, self.mode),
            "similarity": self.similarity,
            "query": self.query,
            "score_threshold": self.score_threshold,
            "detection_threshold": self.detection_threshold,
            "iou": self.iou,
            "cross_camera": self.cross_camera,
            "min_frame_gap": self.min_frame_gap,
            "cbgm": self.context.words if self.context else "off",
            **grid,
        }
