"""Porting tables of SeqNet, NAE and SeqNeXt (the person-search network of GFN), under their authors' names."""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ps_jax.errors import PortingError
from ps_jax.porting.rules import (
    Rule,
    batch_norm_rules,
    linear_rules,
    port_tensors,
    with_batch_counters,
)
from ps_jax.porting.spnet import last_stage_rules
from ps_jax.porting.spnet_options import DATASETS, spnet_trunk
from ps_jax.porting.torchvision_detectors import proposal_rules
from ps_jax.porting.trunks import resnet_rules, resnet_stage_rules, trunk_rules
from ps_jax.systems import System

HEADS = "roi_heads."
PROJECTOR = f"{HEADS}embedding_head.projectors."
LOOKUP_TABLE, QUEUE = f"{HEADS}reid_loss.lut", f"{HEADS}reid_loss.cq"
SEQNEXT_CLASSIFIER = f"{HEADS}score_predictor.cls_score.weight"
FIRST_CLASSIFIER = f"{HEADS}faster_rcnn_predictor.cls_score.weight"
NAE_UNUSED = f"{HEADS}box_predictor.cls_score"


def seqnet_rules(system: System) -> list[Rule]:
    """The table of one system.

    SeqNet and NAE have ResNet-50, and NAE's only head has the name of SeqNet's first. SeqNeXt (`head` "seqnext") has
    names of its own; the scene filter behind it, GFN, is left out.

    Raises:
      PortingError: there are no checkpoints with that head or trunk.
    """
    module = system.module
    rules = proposal_rules()
    rules += [Rule(LOOKUP_TABLE, "memory/lookup_table"), Rule(QUEUE, "memory/queue")]
    if module.sequential:
        rules += linear_rules(f"{HEADS}faster_rcnn_predictor.cls_score", "box_predictor/classification")
        rules += linear_rules(f"{HEADS}faster_rcnn_predictor.bbox_pred", "box_predictor/deltas")
    if module.head == "seqnext":
        return rules + _seqnext_rules(module.trunk)
    if module.head != "norm_aware" or not module.trunk.startswith("resnet"):
        raise PortingError(
            f"There is no SeqNet or NAE in PyTorch with head {module.head!r} and trunk {module.trunk!r}: they have "
            '"norm_aware" and a ResNet.'
        )
    rules += resnet_rules("backbone.", "backbone/")
    reid_head = "reid_head" if module.sequential else "box_head"
    rules += resnet_stage_rules(f"{HEADS}{reid_head}.layer4.", "reid_head/last_stage/")
    if module.sequential:
        rules += resnet_stage_rules(f"{HEADS}box_head.layer4.", "box_head/last_stage/")
    else:
        rules += [rule._replace(ours=None) for rule in linear_rules(NAE_UNUSED, "")]
    rules += linear_rules(f"{HEADS}box_predictor.bbox_pred.0", "reid_predictor/regression/linear")
    rules += batch_norm_rules(f"{HEADS}box_predictor.bbox_pred.1", "reid_predictor/regression/norm")
    rules += _projector_rules("reid_predictor/embedding/projector")
    return rules + batch_norm_rules(f"{HEADS}embedding_head.rescaler", "reid_predictor/embedding/rescaler")


def _projector_rules(ours: str) -> list[Rule]:
    rules = []
    for name, half in (("feat_res4", "shallow"), ("feat_res5", "deep")):
        rules += linear_rules(f"{PROJECTOR}{name}.0", f"{ours}/{half}_linear")
        rules += batch_norm_rules(f"{PROJECTOR}{name}.1", f"{ours}/{half}_norm")
    return rules


def _seqnext_rules(trunk: str) -> list[Rule]:
    if not trunk.startswith(("resnet", "convnext")):
        raise PortingError(
            f"There is no SeqNeXt in PyTorch with trunk {trunk!r}: it has a ResNet or ConvNeXt."
        )
    rules = trunk_rules(trunk, (), "backbone.body.", "backbone/")
    rules += last_stage_rules(trunk, f"{HEADS}prop_head.", "box_head/last_stage/")
    rules += last_stage_rules(trunk, f"{HEADS}reid_head.", "reid_head/last_stage/")
    rules += last_stage_rules(
        trunk, f"{HEADS}box_head.", "reid_head/last_stage/"
    )  # the same under another name
    rules += _projector_rules("reid_predictor/projector")
    rules += linear_rules(f"{HEADS}score_predictor.cls_score", "reid_predictor/classification")
    rules += linear_rules(f"{HEADS}score_predictor.bbox_pred", "reid_predictor/deltas")
    return [*rules, Rule("gfn.*", None), Rule(f"{HEADS}gfn.*", None)]


def port_seqnet(tensors: Mapping[str, np.ndarray], system: System) -> dict[str, Any]:
    """Carries the tensors of a checkpoint of SeqNet, NAE or GFN to our variables.

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
    ported = port_tensors(tensors, seqnet_rules(system), template)
    header = {"queue_header": jnp.zeros((), memory["queue_header"].dtype)}
    return {**ported, "memory": {**ported["memory"], **header}}


def complete_seqnet(tensors: Mapping[str, np.ndarray], system: System) -> dict[str, np.ndarray]:
    """Adds counters of batches, and for NAE the classifier that its module has and uses nowhere (zeros).

    Args:
      tensors: restored tensors by their name in the checkpoint.
      system: the system they are of.

    Raises:
      PortingError: the system is SeqNeXt: its module holds the scene filter, too.
    """
    if system.module.head == "seqnext":
        raise PortingError(
            "SeqNeXt cannot be written from scratch: its PyTorch module holds the scene filter GFN, which is not "
            "trained here. Only a work directory that was ported from a checkpoint can be."
        )
    if not system.module.sequential:
        width = tensors[f"{PROJECTOR}feat_res5.0.weight"].shape[1]
        unused = {f"{NAE_UNUSED}.weight": np.zeros((2, width), np.float32)}
        tensors = {**tensors, **unused, f"{NAE_UNUSED}.bias": np.zeros(2, np.float32)}
    return with_batch_counters(tensors)


def seqnet_options(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Options of `ps_jax.systems.SeqNet` that a checkpoint leaves no choice about.

    Args:
      tensors: arrays by their name in the checkpoint.

    Raises:
      PortingError: this is not a checkpoint of SeqNet, NAE or GFN, or of a trunk that is not known.
    """
    wanted = (
        "rpn.head.cls_logits.weight",
        f"{PROJECTOR}feat_res4.0.weight",
        f"{PROJECTOR}feat_res5.0.weight",
    )
    lacking = [name for name in (*wanted, LOOKUP_TABLE, QUEUE) if name not in tensors]
    if lacking:
        raise PortingError(f"This is not a checkpoint of SeqNet, NAE or GFN: it has no {', '.join(lacking)}.")
    options = {
        "trunk": "resnet50",
        "sequential": FIRST_CLASSIFIER in tensors,
        "head": "norm_aware",
        "reid_dim": sum(tensors[name].shape[0] for name in wanted[1:]),
        "num_identities": tensors[LOOKUP_TABLE].shape[0],
        "queue_size": tensors[QUEUE].shape[0],
    }
    if SEQNEXT_CLASSIFIER in tensors:
        return {
            **options,
            "trunk": spnet_trunk(tensors),
            "head": "seqnext",
            "first_score": False,  # its detections have the second head's score
            "skip_unwritten": True,
        }
    blocks = len([name for name in tensors if re.fullmatch(r"backbone\.layer3\.\d+\.conv1\.weight", name)])
    if blocks != 6:
        raise PortingError(
            f"The third stage of the checkpoint's trunk has {blocks} blocks; ResNet-50, the only trunk of SeqNet and "
            "NAE, has 6."
        )
    return options


def seqnet_config(tensors: Mapping[str, np.ndarray]) -> str:
    """The configuration that a checkpoint is taken to be of where none is given: that of its system and data set."""
    options = seqnet_options(tensors)
    name = "seqnet" if options["sequential"] else "nae"
    return f"configs/{name}.py:{DATASETS.get(options['num_identities'], 'coco_json')}"
