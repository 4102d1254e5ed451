"""Boxes: `xyxy` in absolute pixels of the resized image, float32, always with fixed shapes and masks."""

from ps_jax.boxes.anchors import cell_anchors, pyramid_anchors
from ps_jax.boxes.assignment import assign_one_to_one
from ps_jax.boxes.coder import clip_boxes, decode, encode, large_enough
from ps_jax.boxes.locations import (
    assign_locations,
    boxes_around,
    centerness,
    distances_to_sides,
    level_locations,
)
from ps_jax.boxes.matching import BACKGROUND, IGNORED, match_anchors
from ps_jax.boxes.overlap import area, elementwise_giou, elementwise_iou, pairwise_giou, pairwise_iou
from ps_jax.boxes.rows import best_first, suppress, take
from ps_jax.boxes.sampling import Order, random_order, sample_balanced, sample_indices

__all__ = [
    "BACKGROUND",
    "IGNORED",
    "Order",
    "area",
    "assign_locations",
    "assign_one_to_one",
    "best_first",
    "boxes_around",
    "cell_anchors",
    "centerness",
    "clip_boxes",
    "decode",
    "distances_to_sides",
    "elementwise_giou",
    "elementwise_iou",
    "encode",
    "large_enough",
    "level_locations",
    "match_anchors",
    "pairwise_giou",
    "pairwise_iou",
    "pyramid_anchors",
    "random_order",
    "sample_balanced",
    "sample_indices",
    "suppress",
    "take",
]
