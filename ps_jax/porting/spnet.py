"""Porting table of SPNet, S and L, under the names of its authors' checkpoints."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ps_jax.errors import PortingError
from ps_jax.porting.rules import (
    Rule,
    batch_norm_rules,
    convolution_rules,
    linear_kernel,
    linear_rules,
    port_tensors,
)
from ps_jax.porting.trunks import convnext_rules, convnext_stage_rules, resnet_rules, resnet_stage_rules
from ps_jax.systems import System

# Only in pre-training checkpoints: the momentum branch, its queue, and the branch that keeps ImageNet's classes.
PRETRAINING_NAMES = (
    "moco_backbone.*",
    "head.moco_*",
    "lwf_backbone.*",
    "backbone.classifier.*",
    "head.reid_loss.*",
)


def _last_stage_rules(trunk: str, torch: str, ours: str) -> list[Rule]:
    """Rules of a box embedder's copy of the trunk's last stage.

    Args:
      trunk: the trunk's name.
      torch: prefix in the checkpoint, "head.align_emb_head.emb_head.".
      ours: prefix of the stage's variables without collection, ending in "/".
    """
    if trunk.startswith("resnet"):
        return resnet_stage_rules(f"{torch}head.", ours)
    return convnext_stage_rules(f"{torch}head.0.", f"{torch}head.1.", ours)


def spnet_rules(trunk: str) -> list[Rule]:
    """The table for one trunk.

    Args:
      trunk: "resnet50", "convnext_tiny" or "convnext_base".

    Returns:
      Rules for every tensor of a fine-tuned checkpoint, of any number of cascade steps, with shared or separate
      location heads.

    Raises:
      PortingError: if there are no checkpoints with that trunk.
    """
    if trunk.startswith("convnext"):
        rules = convnext_rules("backbone.body.", "backbone/")
    elif trunk.startswith("resnet"):
        rules = resnet_rules("backbone.body.", "backbone/")
    else:
        raise PortingError(
            f"There is no SPNet checkpoint with trunk {trunk!r} to port. Use a ResNet or ConvNeXt trunk."
        )
    rules += _last_stage_rules(trunk, "head.align_emb_head.emb_head.", "box_embedder/last_stage/")
    rules += _last_stage_rules(
        trunk, "head.align_emb_loc_head.{t}.emb_head.", "location_embedder_{t}/last_stage/"
    )

    for index, level in enumerate((3, 4, 5)):
        rules += convolution_rules(f"backbone.fpn.inner_blocks.{index}.0", f"fpn/lateral{level}")
        rules += convolution_rules(f"backbone.fpn.layer_blocks.{index}.0", f"fpn/output{level}")
    for extra in ("p6", "p7"):
        rules += convolution_rules(f"backbone.fpn.extra_blocks.{extra}", f"fpn/{extra}")

    rules += convolution_rules("head.feature_head.emb_pred", "anchor_embedder/convolution")
    rules += linear_rules("head.bridge_layer.{t}.linear", "bridge_{t}/linear")
    rules += linear_rules("head.bridge_layer.{t}", "bridge_{t}/linear")  # of bridge_type "direct"
    for layer in range(4):
        rules += linear_rules(
            f"head.regression_head.{{t}}.tfm.{2 * layer}", f"regression_head_{{t}}/hidden_{layer}"
        )
    rules += linear_rules("head.regression_head.{t}.head", "regression_head_{t}/deltas")
    for feature, ours in (("feat_res4", "shallow"), ("feat_res5", "deep")):
        projector = f"head.align_emb_head.nae_head.projectors.{feature}"
        rules += linear_rules(f"{projector}.0", f"box_embedder/projector/{ours}_linear")
        rules += batch_norm_rules(f"{projector}.1", f"box_embedder/projector/{ours}_norm")
    rules.append(
        Rule(
            "head.align_emb_loc_head.{t}.head.weight",
            "params/location_embedder_{t}/linear/kernel",
            linear_kernel,
        )
    )
    # Batch-normalised logits: of the first stage's two normalisations ours is the one that is trained, the anchors'.
    rules += batch_norm_rules("head.anchor_classification_head.logits.norm", "classification_head_0/norm")
    rules += [
        rule._replace(ours=None) for rule in batch_norm_rules("head.classification_head.0.head.norm", "")
    ]
    rules += batch_norm_rules("head.classification_head.{t}.head.norm", "classification_head_{t}/norm")
    rules += [
        Rule("head.reid_loss.lut", "memory/lookup_table"),
        Rule("head.reid_loss.cq", "memory/queue"),
    ]
    return rules


def port_spnet(tensors: Mapping[str, np.ndarray], system: System) -> dict[str, Any]:
    """Carries the tensors of a checkpoint to our variables.

    A fine-tuned checkpoint fills everything; where the queue was to be written next is not in it, and starts
    at slot 0. A pre-training checkpoint (no lookup table) leaves the memory empty.

    Args:
      tensors: arrays by their name in the checkpoint, with or without the prefix "model.".
      system: the SPNet they are for; trunk, cascade steps, heads, number of identities and queue size must be the
        checkpoint's.

    Returns:
      {"params", "batch_stats", "memory"}.

    Raises:
      PortingError: listing every tensor and variable that does not fit.
    """
    tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    template = dict(system.template)
    empty = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in template.pop("memory").items()}
    rules = spnet_rules(system.module.trunk)
    if "head.reid_loss.lut" in tensors:
        template["memory"] = {name: leaf for name, leaf in empty.items() if name != "queue_header"}
        ported = port_tensors(tensors, rules, template)
    else:
        ported = port_tensors(tensors, rules, template, ignore=PRETRAINING_NAMES)
    return {"batch_stats": {}, **ported, "memory": {**empty, **ported.get("memory", {})}}
