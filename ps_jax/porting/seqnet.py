"""Porting table of SeqNet and NAE, under the names of their authors' checkpoints."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ps_jax.porting.rules import (
    Rule,
    batch_norm_rules,
    convolution_rules,
    linear_rules,
    port_tensors,
)
from ps_jax.porting.trunks import resnet_rules, resnet_stage_rules
from ps_jax.systems import System


def seqnet_rules(sequential: bool) -> list[Rule]:
    """The table for ResNet trunks.

    Args:
      sequential: of SeqNet, with a first head; else of NAE, whose only head has the name of SeqNet's first.
    """
    heads = "roi_heads."
    reid_head = "reid_head" if sequential else "box_head"
    rules = resnet_rules("backbone.", "backbone/")
    # Below torchvision 0.13, and since
    rules += convolution_rules("rpn.head.conv", "rpn/convolution")
    rules += convolution_rules("rpn.head.conv.0.0", "rpn/convolution")
    rules += convolution_rules("rpn.head.cls_logits", "rpn/objectness")
    rules += convolution_rules("rpn.head.bbox_pred", "rpn/deltas")
    rules += resnet_stage_rules(f"{heads}{reid_head}.layer4.", "reid_head/last_stage/")
    if sequential:
        rules += resnet_stage_rules(f"{heads}box_head.layer4.", "box_head/last_stage/")
        rules += linear_rules(f"{heads}faster_rcnn_predictor.cls_score", "box_predictor/classification")
        rules += linear_rules(f"{heads}faster_rcnn_predictor.bbox_pred", "box_predictor/deltas")
    else:  # in NAE's file, used nowhere
        rules += [rule._replace(ours=None) for rule in linear_rules(f"{heads}box_predictor.cls_score", "")]
    rules += linear_rules(f"{heads}box_predictor.bbox_pred.0", "reid_predictor/regression/linear")
    rules += batch_norm_rules(f"{heads}box_predictor.bbox_pred.1", "reid_predictor/regression/norm")
    for name, half in (("feat_res4", "shallow"), ("feat_res5", "deep")):
        projector = f"{heads}embedding_head.projectors.{name}"
        rules += linear_rules(f"{projector}.0", f"reid_predictor/embedding/{half}_linear")
        rules += batch_norm_rules(f"{projector}.1", f"reid_predictor/embedding/{half}_norm")
    rules += batch_norm_rules(f"{heads}embedding_head.rescaler", "reid_predictor/embedding/rescaler")
    rules += [
        Rule(f"{heads}reid_loss.lut", "memory/lookup_table"),
        Rule(f"{heads}reid_loss.cq", "memory/queue"),
    ]
    return rules


def port_seqnet(tensors: Mapping[str, np.ndarray], system: System) -> dict[str, Any]:
    """Carries the tensors of a checkpoint of SeqNet or NAE to our variables.

    Where the queue was to be written next is not in it, and starts at slot 0.

    Args:
      tensors: arrays by their name in the checkpoint.
      system: what they are for; number of identities and queue size must be the checkpoint's.

    Returns:
      {"params", "batch_stats", "memory"}.

    Raises:
      PortingError: listing every tensor and variable that does not fit.
    """
    template = dict(system.template)
    memory = template["memory"]
    template["memory"] = {name: leaf for name, leaf in memory.items() if name != "queue_header"}
    ported = port_tensors(tensors, seqnet_rules(system.module.sequential), template)
    header = {"queue_header": jnp.zeros((), memory["queue_header"].dtype)}
    return {**ported, "memory": {**ported["memory"], **header}}
