"""Porting tables of re-identification networks: torchreid's OSNet, reid_baseline's ResNet-50, and bare trunks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ps_jax.backbones.osnet import STAGES
from ps_jax.heads.reid_network import OSNET
from ps_jax.layers import BatchNorm
from ps_jax.porting.rules import (
    Rule,
    batch_norm_rules,
    convolution_rules,
    linear_kernel,
    linear_rules,
    port_tensors,
)
from ps_jax.porting.tensors import read_tensors
from ps_jax.porting.trunks import port_trunk, resnet_rules

BASELINE = "base."  # how names of reid_baseline's trunk begin


def osnet_rules(ours: str = "") -> list[Rule]:
    """The table of OSNet under torchreid's names; its classifier is left out.

    Args:
      ours: prefix of the network's variables without collection, ending in "/" unless empty.
    """

    def conv_norm(torch, name):
        return [
            *convolution_rules(f"{torch}.conv", f"{ours}{name}/conv"),
            *batch_norm_rules(f"{torch}.bn", f"{ours}{name}/norm"),
        ]

    rules = [*conv_norm("conv1", "stem"), *conv_norm("conv5", "last")]
    for stage in range(1, STAGES + 1):
        rules += conv_norm(f"conv{stage + 1}.2.0", f"transition{stage}")
        block, name = f"conv{stage + 1}.{{block}}", f"stage{stage}_block{{block}}"
        for torch, part in (("conv1", "reduce"), ("conv3", "expand"), ("downsample", "shortcut")):
            rules += conv_norm(f"{block}.{torch}", f"{name}/{part}")
        for layer in ("fc1", "fc2"):
            rules += convolution_rules(f"{block}.gate.{layer}", f"{ours}{name}/gate/{layer}")
        for stream, letter in enumerate("abcd"):
            torch, index = (
                (f"{block}.conv2{letter}", "0")
                if not stream
                else (
                    f"{block}.conv2{letter}.{{index}}",
                    "{index}",
                )
            )
            light = f"{ours}{name}/stream{stream}_{index}"
            rules += convolution_rules(f"{torch}.conv1", f"{light}/pointwise")
            rules += convolution_rules(f"{torch}.conv2", f"{light}/depthwise")
            rules += batch_norm_rules(f"{torch}.bn", f"{light}/norm")
    rules += linear_rules("fc.0", f"{ours}embedding")
    rules += batch_norm_rules("fc.1", f"{ours}embedding_norm")
    return [*rules, Rule("classifier.weight", None), Rule("classifier.bias", None)]


def unfolded(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors of an OSNet whose normalisation an exporter has folded into its convolutions, as if it had not been.

    A convolution's bias becomes that of a normalisation that changes nothing else.

    Args:
      tensors: arrays by their name.
    """
    whole = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        parent, _, layer = module.rpartition(".")
        if part == "bias" and layer in ("conv", "conv2"):
            whole[f"{parent}.bn.bias"] = tensor
            whole[f"{parent}.bn.weight"] = np.ones_like(tensor)
            whole[f"{parent}.bn.running_mean"] = np.zeros_like(tensor)
            whole[f"{parent}.bn.running_var"] = np.full_like(tensor, 1 - BatchNorm.epsilon)
        else:
            whole[name] = tensor
    return whole


def port_reid_network(
    tensors: Mapping[str, np.ndarray], trunk: str, template: Mapping[str, Any]
) -> dict[str, Any]:
    """Carries the tensors of a checkpoint to the variables of a `ps_jax.heads.ReidNetwork`.

    Args:
      tensors: of torchreid's OSNet, of reid_baseline's network, or of a trunk alone.
      trunk: the network's trunk.
      template: its variables {"params", "batch_stats"}, or their shapes.

    Returns:
      The parts that the checkpoint has, by collection; a classifier only where it has as many people.

    Raises:
      PortingError: listing every tensor and variable that does not fit.
    """
    backbone = {name: {"backbone": tree["backbone"]} for name, tree in template.items()}
    if trunk == OSNET:
        return port_tensors(unfolded(tensors), osnet_rules("backbone/"), backbone)
    if not any(name.startswith(BASELINE) for name in tensors):
        ported = port_trunk(tensors, trunk, {name: tree["backbone"] for name, tree in template.items()})
        return {name: {"backbone": tree} for name, tree in ported.items()}
    rules = resnet_rules(BASELINE, "backbone/") + batch_norm_rules("bottleneck", "bottleneck")
    wanted = {name: {**backbone[name], "bottleneck": tree["bottleneck"]} for name, tree in template.items()}
    classifier = template["params"].get("classifier")
    if classifier and classifier["kernel"].shape[1] == len(tensors.get("classifier.weight", ())):
        wanted["params"] = {**wanted["params"], "classifier": classifier}
        rules.append(Rule("classifier.weight", "params/classifier/kernel", linear_kernel))
    rules += [Rule("classifier.weight", None)]
    return port_tensors(tensors, rules, wanted)


def load_reid_network(path: str | Path, trunk: str, template: Mapping[str, Any]) -> dict[str, Any]:
    """A trained re-identification network of a file with weights.

    Args:
      path: what `read_tensors` reads.
      trunk: the network's trunk.
      template: its variables {"params", "batch_stats"}, or their shapes.

    Returns:
      Its parts, by collection; the classifier only where it is of as many people.

    Raises:
      PortingError: the file cannot be read, or is of another network.
    """
    return port_reid_network(read_tensors(path), trunk, template)
