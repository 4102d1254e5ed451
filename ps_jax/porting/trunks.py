"""Porting tables of the trunks, under torchvision's or PVT's names (Swin: `swin.py`), and loading a trunk's weights.

Each table is a function of the two prefixes, so that the same lines serve a bare trunk ("" and ""), a trunk
inside a system ("backbone.body." and "trunk/") and a copy of the last stage under another name.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ps_jax.backbones.mobilenet_v2 import STAGES as MOBILENET_V2_STAGES
from ps_jax.errors import ConfigError
from ps_jax.porting.rules import (
    Rule,
    batch_norm_rules,
    bgr_kernel,
    convolution_kernel,
    convolution_rules,
    flatten,
    layer_norm_rules,
    linear_rules,
    port_tensors,
)
from ps_jax.porting.swin import solider_swin_rules, swin_rules
from ps_jax.porting.tensors import read_tensors

# Parts of torchvision's classifiers that stand behind the trunk: left out wherever they occur.
CLASSIFIER_NAMES = ("fc.*", "classifier.*", "head.*", "norm.*")


def resnet_stage_rules(torch: str, ours: str) -> list[Rule]:
    """Rules of one ResNet stage.

    Args:
      torch: prefix before the number of the block, "layer4." or "head.align_emb_head.emb_head.head.".
      ours: prefix of the stage's variables without collection, "stage4/".
    """
    block, our_block = f"{torch}{{block}}.", f"{ours}block{{block}}/"
    rules = []
    rules += convolution_rules(f"{block}conv2.conv_offset", f"{our_block}conv2/offset")  # deformable
    for index in (1, 2, 3):
        rules += convolution_rules(f"{block}conv{index}", f"{our_block}conv{index}")
        rules += batch_norm_rules(f"{block}bn{index}", f"{our_block}norm{index}")
    rules += convolution_rules(f"{block}downsample.0", f"{our_block}shortcut_conv")
    rules += batch_norm_rules(f"{block}downsample.1", f"{our_block}shortcut_norm")
    return rules


def resnet_rules(torch: str = "", ours: str = "", bgr: bool = False) -> list[Rule]:
    """Rules of a ResNet trunk of any depth.

    Args:
      torch: prefix of the trunk in the checkpoint, ending in "." unless empty.
      ours: prefix of the trunk's variables without collection, ending in "/" unless empty.
      bgr: the checkpoint's first convolution takes blue, green, red; ours always takes red, green, blue.
    """
    kernel = bgr_kernel if bgr else convolution_kernel
    return [
        Rule(f"{torch}conv1.weight", f"params/{ours}stem_conv/kernel", kernel),
        *batch_norm_rules(f"{torch}bn1", f"{ours}stem_norm"),
        *resnet_stage_rules(f"{torch}layer{{stage}}.", f"{ours}stage{{stage}}/"),
    ]


def detectron_resnet_rules(torch: str, ours: str = "") -> list[Rule]:
    """Rules of a ResNet trunk of any depth under detectron2's names, its first convolution on red, green, blue.

    Args:
      torch: prefix of the trunk in the checkpoint, "backbone.bottom_up.".
      ours: prefix of the trunk's variables without collection, ending in "/" unless empty.
    """
    rules = [
        *convolution_rules(f"{torch}stem.conv1", f"{ours}stem_conv"),
        *batch_norm_rules(f"{torch}stem.conv1.norm", f"{ours}stem_norm"),
    ]
    for stage in (1, 2, 3, 4):
        block, our_block = f"{torch}res{stage + 1}.{{block}}.", f"{ours}stage{stage}/block{{block}}/"
        for index in (1, 2, 3):
            rules += convolution_rules(f"{block}conv{index}", f"{our_block}conv{index}")
            rules += batch_norm_rules(f"{block}conv{index}.norm", f"{our_block}norm{index}")
        rules += convolution_rules(f"{block}shortcut", f"{our_block}shortcut_conv")
        rules += batch_norm_rules(f"{block}shortcut.norm", f"{our_block}shortcut_norm")
    return rules


def convnext_stage_rules(torch_downsample: str | None, torch_blocks: str, ours: str) -> list[Rule]:
    """Rules of one ConvNeXt stage.

    Args:
      torch_downsample: prefix of the downsampler, "features.6." or "head.align_emb_head.emb_head.head.0.";
        None for the first stage, which has none.
      torch_blocks: prefix before the number of the block, "features.7.".
      ours: prefix of the stage's variables without collection, "stage4/".
    """
    block, our_block = f"{torch_blocks}{{block}}.", f"{ours}block{{block}}/"
    rules = [
        *convolution_rules(f"{block}block.0", f"{our_block}depthwise"),
        *layer_norm_rules(f"{block}block.2", f"{our_block}norm"),
        *linear_rules(f"{block}block.3", f"{our_block}expand"),
        *linear_rules(f"{block}block.5", f"{our_block}project"),
        Rule(f"{block}layer_scale", f"params/{our_block}layer_scale", flatten),
    ]
    if torch_downsample is not None:
        rules += layer_norm_rules(f"{torch_downsample}0", f"{ours}downsample_norm")
        rules += convolution_rules(f"{torch_downsample}1", f"{ours}downsample_conv")
    return rules


def convnext_rules(torch: str = "features.", ours: str = "") -> list[Rule]:
    """Rules of a ConvNeXt trunk of any size.

    Args:
      torch: prefix of the numbered parts in the checkpoint, "features." or "backbone.body.".
      ours: prefix of the trunk's variables without collection, ending in "/" unless empty.
    """
    rules = [
        *convolution_rules(f"{torch}0.0", f"{ours}stem_conv"),
        *layer_norm_rules(f"{torch}0.1", f"{ours}stem_norm"),
    ]
    for index in range(4):
        downsample = f"{torch}{2 * index}." if index else None
        rules += convnext_stage_rules(downsample, f"{torch}{2 * index + 1}.", f"{ours}stage{index + 1}/")
    return rules


def mobilenet_v2_stage_rules(
    torch: str, ours: str, stage: int = 4, first: int | None = None, flat: bool = False
) -> list[Rule]:
    """Rules of one MobileNetV2 stage.

    Args:
      torch: prefix before the number of the block, "features.".
      ours: prefix of the stage's variables without collection, "stage4/".
      stage: 1 .. 4; the fourth is the last one, from c4 to c5.
      first: number of the stage's first block under that prefix; None is its number in torchvision's
        `features` (14 for the last stage).
      flat: the blocks' parts are numbered through (conv.0, conv.1, conv.3, conv.4 ..., files written before
        torchvision grouped them) instead of nested (conv.0.0, conv.0.1, conv.1.0 ...).
    """
    if first is None:
        first = 1 + sum(len(blocks) for blocks in MOBILENET_V2_STAGES[: stage - 1])
    rules = []
    for index, (expansion, _, _) in enumerate(MOBILENET_V2_STAGES[stage - 1]):
        block, our_block = f"{torch}{first + index}.conv.", f"{ours}block{index}/"
        parts = ("expand", "depthwise", "project") if expansion != 1 else ("depthwise", "project")
        for position, part in enumerate(parts):
            if flat:
                names = (f"{block}{3 * position}", f"{block}{3 * position + 1}")
            elif part == "project":
                names = (f"{block}{position}", f"{block}{position + 1}")
            else:
                names = (f"{block}{position}.0", f"{block}{position}.1")
            rules += convolution_rules(names[0], f"{our_block}{part}/conv")
            rules += batch_norm_rules(names[1], f"{our_block}{part}/norm")
    return rules


def mobilenet_v2_rules(torch: str = "features.", ours: str = "", flat: bool = False) -> list[Rule]:
    """Rules of the MobileNetV2 trunk, with its last convolution to 1280 channels.

    Args:
      torch: prefix of the numbered parts in the checkpoint.
      ours: prefix of the trunk's variables without collection, ending in "/" unless empty.
      flat: see `mobilenet_v2_stage_rules`; `is_flat_mobilenet_v2` tells from the names.
    """
    rules = [
        *convolution_rules(f"{torch}0.0", f"{ours}stem/conv"),
        *batch_norm_rules(f"{torch}0.1", f"{ours}stem/norm"),
        *convolution_rules(f"{torch}18.0", f"{ours}last/conv"),
        *batch_norm_rules(f"{torch}18.1", f"{ours}last/norm"),
    ]
    for stage in (1, 2, 3, 4):
        rules += mobilenet_v2_stage_rules(torch, f"{ours}stage{stage}/", stage, flat=flat)
    return rules


def pvt_v2_stage_rules(torch: str, ours: str, stage: int = 4) -> list[Rule]:
    """Rules of one stage of PVT v2, whose parts stand in several places of the checkpoint.

    Args:
      torch: prefix of the whole network, "" or "backbone.".
      ours: prefix of the stage's variables without collection, "stage4/".
      stage: 1 .. 4; the fourth is the last one, from c4 to c5.
    """
    block, our_block = f"{torch}block{stage}.{{block}}.", f"{ours}block{{block}}/"
    attention = f"{our_block}attention/"
    return [
        *convolution_rules(f"{torch}patch_embed{stage}.proj", f"{ours}patch_conv"),
        *layer_norm_rules(f"{torch}patch_embed{stage}.norm", f"{ours}patch_norm"),
        *layer_norm_rules(f"{block}norm1", f"{our_block}norm1"),
        *linear_rules(f"{block}attn.q", f"{attention}query"),
        *linear_rules(f"{block}attn.kv", f"{attention}key_value"),
        *linear_rules(f"{block}attn.proj", f"{attention}project"),
        *convolution_rules(f"{block}attn.sr", f"{attention}reduce"),
        *layer_norm_rules(f"{block}attn.norm", f"{attention}norm"),
        *layer_norm_rules(f"{block}norm2", f"{our_block}norm2"),
        *linear_rules(f"{block}mlp.fc1", f"{our_block}expand"),
        *convolution_rules(f"{block}mlp.dwconv.dwconv", f"{our_block}depthwise"),
        *linear_rules(f"{block}mlp.fc2", f"{our_block}project"),
        *layer_norm_rules(f"{torch}norm{stage}", f"{ours}norm"),
    ]


def pvt_v2_rules(torch: str = "", ours: str = "") -> list[Rule]:
    """Rules of a PVT v2 trunk of any size.

    Args:
      torch: prefix of the network in the checkpoint, "" or "backbone.".
      ours: prefix of the trunk's variables without collection, ending in "/" unless empty.
    """
    return [
        rule for stage in (1, 2, 3, 4) for rule in pvt_v2_stage_rules(torch, f"{ours}stage{stage}/", stage)
    ]


def is_flat_mobilenet_v2(names: Iterable[str], torch: str = "features.") -> bool:
    """Tells whether a MobileNetV2 checkpoint numbers the parts of its blocks through."""
    return f"{torch}1.conv.0.weight" in names


def trunk_rules(trunk: str, names: Iterable[str], torch: str | None = None, ours: str = "") -> list[Rule]:
    """Returns the table of a trunk by the name `build_trunk` knows it under.

    Args:
      trunk: one of `ps_jax.backbones.TRUNKS`.
      names: the names in the checkpoint, by which two ways of writing MobileNetV2, and files of SOLIDER's trunk
        alone and with its training heads, are told apart.
      torch: prefix in the checkpoint; None is torchvision's own ("" or "features."), PVT's (""), or SOLIDER's
        ("" or "backbone.").
      ours: prefix of the trunk's variables without collection, ending in "/" unless empty.

    Raises:
      ConfigError: if there is no table for that trunk.
    """
    if trunk.startswith("resnet"):
        return resnet_rules(torch or "", ours, bgr=trunk.endswith("_caffe"))
    if trunk.startswith("pvt_v2"):
        return pvt_v2_rules(torch or "", ours)
    if trunk.startswith("solider_swin"):
        if torch is None:
            torch = "backbone." if any(name.startswith("backbone.") for name in names) else ""
        return solider_swin_rules(torch, ours)
    torch = "features." if torch is None else torch
    if trunk.startswith("convnext"):
        return convnext_rules(torch, ours)
    if trunk.startswith("swin"):
        return swin_rules(torch, ours)
    if trunk == "mobilenet_v2":
        return mobilenet_v2_rules(torch, ours, flat=is_flat_mobilenet_v2(names, torch))
    raise ConfigError(f"There is no porting table for a trunk {trunk!r}.")


def port_trunk(
    tensors: Mapping[str, np.ndarray], trunk: str, template: Mapping[str, Any], torch: str | None = None
) -> dict[str, Any]:
    """Carries the tensors of a checkpoint of torchvision, PVT or SOLIDER to a trunk's variables.

    The classifier's tensors (`CLASSIFIER_NAMES`) are left out, and MobileNetV2's last convolution where the
    template has none.

    Args:
      tensors: arrays by their name in the checkpoint.
      trunk: the trunk's name, see `trunk_rules`.
      template: the trunk's variables, {"params": ..., "batch_stats": ...}, or their shapes.
      torch: prefix in the checkpoint; None is the file's own, see `trunk_rules`.

    Returns:
      The filled variables.

    Raises:
      PortingError: if a tensor or variable is left over or does not fit.
    """
    ignore = list(CLASSIFIER_NAMES)
    if trunk == "mobilenet_v2" and "last" not in template["params"]:
        ignore.append(f"{'features.' if torch is None else torch}18.*")
    return port_tensors(tensors, trunk_rules(trunk, tuple(tensors), torch), template, ignore)


def load_trunk_weights(
    path: str | Path, trunk: str, template: Mapping[str, Any], torch: str | None = None
) -> dict[str, Any]:
    """Reads a weights file and carries it to a trunk's variables: `read_tensors`, then `port_trunk`.

    Args:
      path: file with torchvision's, PVT's or SOLIDER's names, or a published name; see `read_tensors`.
      trunk: the trunk's name, see `trunk_rules`.
      template: the trunk's variables, {"params": ..., "batch_stats": ...}, or their shapes.
      torch: prefix in the checkpoint; None is the file's own, see `trunk_rules`.

    Returns:
      The filled variables, to be put in the place of the trunk's fresh ones.

    Raises:
      PortingError: if the file cannot be read, or a tensor or variable is left over or does not fit.
    """
    return port_trunk(read_tensors(path), trunk, template, torch)
