"""Porting tables of torchvision's Faster R-CNN and RetinaNet with a feature pyramid, under their published names."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import linen as nn

from ps_jax.porting.rules import Rule, Transform, convolution_rules, linear_rules, port_tensors
from ps_jax.porting.trunks import resnet_rules
from ps_jax.systems import FasterRCNN

POOLED = 7  # cells along a side of a pooled box

# A linear layer of a flattened map: (out, channel * height * width) -> (height * width * channel, out).
map_kernel = Transform(
    lambda tensor: (
        tensor.reshape(tensor.shape[0], -1, POOLED, POOLED).transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])
    ),
    lambda value: np.ascontiguousarray(
        value.reshape(POOLED, POOLED, -1, value.shape[1]).transpose(3, 2, 0, 1).reshape(value.shape[1], -1)
    ),
)


def proposal_rules() -> list[Rule]:
    """Rules of the head that proposes boxes, named as below torchvision 0.13 or as since."""
    return [
        *convolution_rules("rpn.head.conv", "rpn/convolution"),
        *convolution_rules("rpn.head.conv.0.0", "rpn/convolution"),
        *convolution_rules("rpn.head.cls_logits", "rpn/objectness"),
        *convolution_rules("rpn.head.bbox_pred", "rpn/deltas"),
    ]


def detector_rules(module: nn.Module) -> list[Rule]:
    """The table of `FasterRCNN` or `RetinaNet` with a ResNet.

    Args:
      module: the detector.
    """
    two_stage = isinstance(module, FasterRCNN)
    rules = resnet_rules("backbone.body.", "backbone/")
    for index, level in enumerate((2, 3, 4, 5) if two_stage else (3, 4, 5)):
        for suffix in ("", ".0"):  # below torchvision 0.13, and since
            rules += convolution_rules(f"backbone.fpn.inner_blocks.{index}{suffix}", f"fpn/lateral{level}")
            rules += convolution_rules(f"backbone.fpn.layer_blocks.{index}{suffix}", f"fpn/output{level}")
    if two_stage:
        heads = "roi_heads.box_predictor."
        return [
            *rules,
            *proposal_rules(),
            Rule("roi_heads.box_head.fc6.weight", "params/box_head/fc6/kernel", map_kernel),
            *linear_rules("roi_heads.box_head.fc6", "box_head/fc6"),
            *linear_rules("roi_heads.box_head.fc7", "box_head/fc7"),
            *linear_rules(f"{heads}cls_score", "box_predictor/classification"),
            *linear_rules(f"{heads}bbox_pred", "box_predictor/deltas"),
        ]
    for extra in ("p6", "p7"):
        rules += convolution_rules(f"backbone.fpn.extra_blocks.{extra}", f"fpn/{extra}")
    for branch, output in (("classification", "cls_logits"), ("regression", "bbox_reg")):
        torch = f"head.{branch}_head."
        for index in range(4):
            for name in (f"{2 * index}", f"{index}.0"):
                rules += convolution_rules(f"{torch}conv.{name}", f"head/{branch}{index}")
        rules += convolution_rules(f"{torch}{output}", f"head/{branch}")
    return rules


def port_detector(
    tensors: Mapping[str, np.ndarray], module: nn.Module, template: Mapping[str, Any]
) -> dict[str, Any]:
    """Carries the tensors of a checkpoint of torchvision to a detector's variables.

    Args:
      tensors: arrays by their name in the checkpoint.
      module: the detector; its trunk is a ResNet, its number of classes the checkpoint's.
      template: its variables {"params", "batch_stats"}, or their shapes.

    Returns:
      The filled variables.

    Raises:
      PortingError: listing every tensor and variable that does not fit.
    """
    return port_tensors(tensors, detector_rules(module), template)
