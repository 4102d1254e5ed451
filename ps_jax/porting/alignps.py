"""Porting table of AlignPS and AlignPS+, under the names of their authors' code (MMDetection 2)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ps_jax.errors import PortingError
from ps_jax.porting.rules import (
    Rule,
    Transform,
    convolution_rules,
    layer_norm_rules,
    port_tensors,
    with_batch_counters,
)
from ps_jax.porting.spnet_options import DATASETS
from ps_jax.porting.trunks import resnet_rules
from ps_jax.systems import System

HEAD = "bbox_head."
LOOKUP_TABLE = f"{HEAD}labeled_matching_layer.lookup_table"
QUEUE, TAIL = f"{HEAD}unlabeled_matching_layer.queue", f"{HEAD}unlabeled_matching_layer.tail"
TRUNK_OFFSET = "backbone.layer{}.0.conv2.conv_offset.weight"  # of a stage
OUTPUT = "neck.fpn_convs.0.weight"
LEVELS = (3, 4, 5, 6, 7)  # in the order of the checkpoint's lists

_counter = Transform(lambda tensor: tensor, lambda value: value.astype(np.int64))


def alignps_rules(system: System) -> list[Rule]:
    """The table of one system.

    Levels that the system does not have are left out: nobody is found on them.

    Raises:
      PortingError: there are no checkpoints of that form of the model.
    """
    module = system.module
    aligned = module.lateral_deformable and module.output_deformable and module.concatenate
    if module.trunk != "resnet50_caffe" or module.structure != "reid_first" or not aligned:
        raise PortingError(
            "The only AlignPS in PyTorch has the trunk 'resnet50_caffe', the structure 'reid_first', deformable "
            "lateral and output convolutions, and concatenates."
        )
    rules = resnet_rules("backbone.", "backbone/", bgr=True)
    for index, level in enumerate(LEVELS[:3]):
        rules += _deformable_rules(f"neck.lateral_convs.{index}", f"neck/lateral{level}")
    found, known = set(module.levels), {*module.levels, *module.background_levels}
    for index, level in enumerate(LEVELS):
        torch = f"neck.fpn_convs.{index}"
        if level <= 5:
            output = _deformable_rules(torch, f"neck/output{level}")
        else:
            output = convolution_rules(f"{torch}.conv", f"neck/p{level}")
        rules += [rule if level in known else rule._replace(ours=None) for rule in output]
        scale = f"params/head/scale{level}" if level in found else None
        rules.append(Rule(f"{HEAD}scales.{index}.scale", scale))
    for torch, ours in (("cls_convs", "classification_tower"), ("reg_convs", "regression_tower")):
        rules += _deformable_rules(f"{HEAD}{torch}.{{i}}.conv", f"head/{ours}/conv{{i}}")
        rules += layer_norm_rules(f"{HEAD}{torch}.{{i}}.gn", f"head/{ours}/norm{{i}}")
    for torch, ours in (("cls", "classification"), ("reg", "regression"), ("centerness", "centerness")):
        rules += convolution_rules(f"{HEAD}conv_{torch}", f"head/{ours}")
    return [
        *rules,
        Rule(LOOKUP_TABLE, "memory/lookup_table"),
        Rule(QUEUE, "memory/queue"),
        Rule(TAIL, "memory/queue_header", _counter),
    ]


def _deformable_rules(torch: str, ours: str) -> list[Rule]:
    return [*convolution_rules(f"{torch}.conv_offset", f"{ours}/offset"), *convolution_rules(torch, ours)]


def port_alignps(tensors: Mapping[str, np.ndarray], system: System) -> dict[str, Any]:
    """Carries the tensors of a checkpoint to our variables.

    Where the queue's next slot is not in it, the queue goes on at slot 0.

    Args:
      tensors: arrays by their name in the checkpoint.
      system: what they are for; number of identities and queue size must be the checkpoint's.

    Returns:
      {"params", "batch_stats", "memory"}.

    Raises:
      PortingError: listing every tensor and variable that does not fit.
    """
    tensors = {TAIL: np.zeros((), np.int64), **tensors}
    return port_tensors(tensors, alignps_rules(system), system.template)


def complete_alignps(tensors: Mapping[str, np.ndarray], system: System) -> dict[str, np.ndarray]:
    """Adds counters of batches, and the levels that only the released training has.

    Those convolutions are zeros and the scales ones: at test time they are not used.

    Args:
      tensors: restored tensors by their name in the checkpoint.
      system: the system they are of.
    """
    width = system.module.width
    unused: dict[str, np.ndarray] = {
        f"{HEAD}scales.{index}.scale": np.ones((), np.float32) for index in range(len(LEVELS))
    }
    for index in range(len(LEVELS)):
        torch = f"neck.fpn_convs.{index}"
        if index < 3:
            channels = (3 - index) * width
            unused[f"{torch}.weight"] = np.zeros((width, channels, 3, 3), np.float32)
            unused[f"{torch}.conv_offset.weight"] = np.zeros((18, channels, 3, 3), np.float32)
            unused[f"{torch}.conv_offset.bias"] = np.zeros(18, np.float32)
        else:
            unused[f"{torch}.conv.weight"] = np.zeros((width, width, 3, 3), np.float32)
            unused[f"{torch}.conv.bias"] = np.zeros(width, np.float32)
    return with_batch_counters({**unused, **tensors})


def alignps_options(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Options of `ps_jax.systems.AlignPS` that a checkpoint leaves no choice about.

    Its training had the extra levels, so that further training and the way back are those of the release.

    Args:
      tensors: arrays by their name in the checkpoint.

    Raises:
      PortingError: this is not a checkpoint of AlignPS or AlignPS+.
    """
    lacking = [name for name in (OUTPUT, LOOKUP_TABLE, QUEUE) if name not in tensors]
    if lacking:
        raise PortingError(f"This is not a checkpoint of AlignPS: it has no {', '.join(lacking)}.")
    if any(name.startswith("roi_head.") for name in tensors):
        raise PortingError("This is a checkpoint of ROI-AlignPS; port it as roi_alignps.")
    return {
        "trunk": "resnet50_caffe",
        "deformable_stages": tuple(stage for stage in range(1, 5) if TRUNK_OFFSET.format(stage) in tensors),
        "width": tensors[OUTPUT].shape[0],
        "num_identities": tensors[LOOKUP_TABLE].shape[0],
        "queue_size": tensors[QUEUE].shape[0],
        "extra_levels": True,
    }


def alignps_config(tensors: Mapping[str, np.ndarray]) -> str:
    """The configuration that a checkpoint is taken to be of where none is given: that of its trunk and data set."""
    options = alignps_options(tensors)
    name = "alignps_plus" if options["deformable_stages"] else "alignps"
    return f"configs/{name}.py:{DATASETS.get(options['num_identities'], 'coco_json')}"
