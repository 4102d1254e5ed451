"""Recall and average precision of detection, by mutual best matching as in the released person-search code.

This is not the score-ordered matching of COCO or VOC: a detection and an annotated box are a pair only if
each is the other's best overlap, so a confident detection can lose its person to a less confident one that
fits better. The average precision is relative to the people found; it is multiplied by the recall.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ps_jax.evaluation.metrics import average_precision, pairwise_iou

IOU_THRESHOLD = 0.5


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """What `evaluate_detection` counted.

    Attributes:
      people: annotated boxes.
      found: annotated boxes that have a detection.
      score: f64[detections] of all detections above the score threshold.
      matched: bool[detections], which of them are a person.
    """

    people: int
    found: int
    score: Float[np.ndarray, " detections"]
    matched: Bool[np.ndarray, " detections"]

    @property
    def recall(self) -> float:
        """Found / annotated; 0 where nothing is annotated."""
        return self.found / self.people if self.people else 0.0

    @property
    def ap(self) -> float:
        """Average precision of the list times recall."""
        return average_precision(self.matched, self.score) * self.recall

    @property
    def rap(self) -> float:
        """`ap` times the share of detections that are a person, as SPNet's released code logs it."""
        return self.ap * self.found / len(self.score) if len(self.score) else 0.0


def evaluate_detection(
    scenes: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], score_threshold: float
) -> DetectionResult:
    """Matches detections to annotated boxes, scene by scene.

    Args:
      scenes: for each scene (or each pair of scene and query) the annotated boxes [people, 4], the detected
        boxes [detections, 4] and their scores [detections], all in the same pixels. A scene without annotated
        boxes counts its detections as wrong; leave it out of `scenes` for it not to count.
      score_threshold: detections below it do not count.

    Returns:
      The counts, from which recall and average precision follow.
    """
    people, scores, matches = 0, [np.zeros(0)], [np.zeros(0, bool)]
    for true_box, box, score in scenes:
        people += len(true_box)
        keep = score >= np.float32(score_threshold)
        scores.append(np.asarray(score[keep], np.float64))
        matches.append(match_best(true_box, box[keep]))
    matched = np.concatenate(matches)
    return DetectionResult(people, int(matched.sum()), np.concatenate(scores), matched)


def match_best(
    true_box: Float[np.ndarray, "people 4"], box: Float[np.ndarray, "detections 4"]
) -> Bool[np.ndarray, " detections"]:
    """Which detections are the best overlap (>= 0.5) of the annotated box that is their own best overlap."""
    if not len(true_box) or not len(box):
        return np.zeros(len(box), bool)
    # Rounded to float32 as in the released evaluators, so that ties are the same ties; the first one wins.
    overlap = pairwise_iou(true_box, box).astype(np.float32)
    best_person = overlap.argmax(axis=0)
    best_detection = overlap.argmax(axis=1)
    detections = np.arange(len(box))
    return (best_detection[best_person] == detections) & (overlap[best_person, detections] >= IOU_THRESHOLD)
