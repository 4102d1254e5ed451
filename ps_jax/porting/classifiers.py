"""Porting tables of the ImageNet classifiers behind the trunks, under torchvision's names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ps_jax.errors import ConfigError
from ps_jax.porting.rules import (
    Rule,
    batch_norm_rules,
    convolution_rules,
    layer_norm_rules,
    linear_rules,
    match_rules,
    port_tensors,
)
from ps_jax.porting.tensors import read_tensors


def classifier_rules(trunk: str) -> list[Rule]:
    """Rules of the `TrunkClassifier` of a trunk, those of its linear layer first.

    Args:
      trunk: "resnet50", "mobilenet_v2", a ConvNeXt, a PVT v2 or one of torchvision's Swin Transformers.

    Raises:
      ConfigError: if there is no table for that trunk.
    """
    if trunk.startswith("resnet"):
        return linear_rules("fc", "linear")
    if trunk.startswith("convnext"):
        return [*linear_rules("classifier.2", "linear"), *layer_norm_rules("classifier.0", "norm")]
    if trunk == "mobilenet_v2":
        return [
            *linear_rules("classifier.1", "linear"),
            *convolution_rules("features.18.0", "convolution/conv"),
            *batch_norm_rules("features.18.1", "convolution/norm"),
        ]
    if trunk.startswith("swin"):
        return [*linear_rules("head", "linear"), *layer_norm_rules("norm", "map_norm")]
    if trunk.startswith("pvt_v2"):
        return linear_rules("head", "linear")
    raise ConfigError(f"There is no porting table for the classifier of a trunk {trunk!r}.")


def port_classifier(
    tensors: Mapping[str, np.ndarray], trunk: str, template: Mapping[str, Any]
) -> dict[str, Any]:
    """Carries the classifier of a torchvision checkpoint to our variables; the trunk's tensors are left out.

    Args:
      tensors: arrays by their name in the checkpoint.
      trunk: the trunk's name, see `classifier_rules`.
      template: the classifier's variables, {"params": ...} and possibly {"batch_stats": ...}, or their shapes.

    Returns:
      The filled variables.

    Raises:
      ConfigError: if the checkpoint is of a trunk without classifier, or there is no table.
      PortingError: if a variable is left over or a tensor does not fit.
    """
    rules = classifier_rules(trunk)
    wanted = rules[0].torch
    if wanted not in tensors:
        raise ConfigError(
            f"The weights hold no classifier ({wanted}), which learning without forgetting (lwf) needs. "
            f"Take all weights of torchvision's {trunk}, or leave lwf out."
        )
    return port_tensors({name: tensors[name] for name in match_rules(tensors, rules)}, rules, template)


def load_classifier_weights(path: str | Path, trunk: str, template: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a weights file and carries its classifier to our variables: `read_tensors`, then `port_classifier`."""
    return port_classifier(read_tensors(path), trunk, template)
