"""Porting table of SPNet, S and L, under the names of its authors' checkpoints."""

from collections.abc import Mapping
from typing import Any

import jax
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
from ps_jax.porting.swin import solider_swin_stage_rules, swin_stage_rules
from ps_jax.porting.trunks import convnext_stage_rules, resnet_stage_rules, trunk_rules
from ps_jax.systems import System
from ps_jax.systems._spnet_reid import MOMENTUM_ENCODER

# Only in pre-training checkpoints: the momentum branch, its queue, and the branch that keeps ImageNet's classes.
MOMENTUM_NAMES = ("moco_backbone.*", "head.moco_*")
PRETRAINING_NAMES = (
    "lwf_backbone.*",
    "backbone.classifier.*",
    "backbone.norm.*",
    "backbone.head.*",
    "moco_backbone.classifier.*",
    "head.reid_loss.*",
)


def last_stage_rules(trunk: str, torch: str, ours: str) -> list[Rule]:
    """Rules of a box head's copy of the trunk's last stage, in SPNet and GFN.

    Args:
      trunk: the trunk's name.
      torch: prefix in the checkpoint, "head.align_emb_head.emb_head.".
      ours: prefix of the stage's variables without collection, ending in "/".
    """
    if trunk.startswith("resnet"):
        return resnet_stage_rules(f"{torch}head.", ours)
    if trunk.startswith("solider_swin"):  # the checkpoint holds the whole network once more
        return [*solider_swin_stage_rules(f"{torch}swin.", ours), Rule(f"{torch}swin.*", None)]
    stage_rules = convnext_stage_rules if trunk.startswith("convnext") else swin_stage_rules
    return stage_rules(f"{torch}head.0.", f"{torch}head.1.", ours)


def spnet_rules(trunk: str) -> list[Rule]:
    """The table for one trunk.

    Args:
      trunk: one of `ps_jax.backbones.TRUNKS`.

    Returns:
      Rules for every tensor of a fine-tuned checkpoint, of any number of cascade steps, with shared or separate
      location heads.

    Raises:
      PortingError: if there are no checkpoints with that trunk.
    """
    if not trunk.startswith(("resnet", "convnext", "swin", "solider_swin")):
        raise PortingError(
            f"There is no SPNet checkpoint with trunk {trunk!r} to port. Use a ResNet, ConvNeXt or Swin trunk."
        )
    body = "backbone.swin." if trunk.startswith("solider_swin") else "backbone.body."
    rules = trunk_rules(trunk, (), body, "backbone/")
    rules += last_stage_rules(trunk, "head.align_emb_head.emb_head.", "box_embedder/last_stage/")
    rules += last_stage_rules(
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


def momentum_encoder_rules(trunk: str) -> list[Rule]:
    """Rules of the momentum encoder in a pre-training checkpoint: the encoder's own, under other prefixes."""
    prefixes = {"backbone.": "moco_backbone.", "head.align_emb_head.": "head.moco_align_emb_head."}
    return [
        rule._replace(
            torch=momentum + rule.torch.removeprefix(trained),
            ours=rule.ours and f"memory/{MOMENTUM_ENCODER}/{rule.ours}",
        )
        for rule in spnet_rules(trunk)
        for trained, momentum in prefixes.items()
        if rule.torch.startswith(trained)
    ]


def port_spnet(tensors: Mapping[str, np.ndarray], system: System) -> dict[str, Any]:
    """Carries the tensors of a checkpoint to our variables.

    A fine-tuned checkpoint fills everything; where the queue was to be written next is not in it, and starts
    at slot 0. A pre-training checkpoint (no lookup table) leaves lookup table and queue empty, as its queue
    knows people by numbers of its own data; its momentum encoder is carried to a system that has one.

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
    memory = template.pop("memory")
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), memory)
    rules = spnet_rules(system.module.trunk)
    if "head.reid_loss.lut" in tensors:
        template["memory"] = {name: leaf for name, leaf in memory.items() if name != "queue_header"}
        ported = port_tensors(tensors, rules, template)
    elif MOMENTUM_ENCODER in memory:
        template["memory"] = {MOMENTUM_ENCODER: memory[MOMENTUM_ENCODER]}
        rules += momentum_encoder_rules(system.module.trunk)
        ported = port_tensors(tensors, rules, template, ignore=PRETRAINING_NAMES)
    else:
        ported = port_tensors(tensors, rules, template, ignore=PRETRAINING_NAMES + MOMENTUM_NAMES)
    return {"batch_stats": {}, **ported, "memory": {**empty, **ported.get("memory", {})}}
