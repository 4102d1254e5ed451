"""Porting table of ROI-AlignPS, under the names of its authors' code (MMDetection 2): AlignPS's, and the box branch."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ps_jax.errors import PortingError
from ps_jax.porting.alignps import TAIL, alignps_options, alignps_rules, complete_alignps
from ps_jax.porting.rules import (
    Rule,
    batch_norm_rules,
    convolution_rules,
    linear_rules,
    port_tensors,
    with_batch_counters,
)
from ps_jax.porting.spnet_options import DATASETS
from ps_jax.porting.trunks import resnet_stage_rules
from ps_jax.systems import System

BRANCH = "roi_head."
HEAD = f"{BRANCH}bbox_head."
BOX_TABLE, BOX_QUEUE = f"{HEAD}loss_oim.lut", f"{HEAD}loss_oim.cq"
REGRESSION = f"{HEAD}fc_reg.0.weight"
SHALLOW = f"{HEAD}embedding_head.projectors.0.0.weight"
CLASSIFIER = f"{HEAD}fc_cls"
# The detector makes tables and queues beside those of its heads, for CUHK-SYSU's people on any data set.
SPARE_TABLES = ("loss_oim.lut", "labeled_matching_layer.lookup_table")
SPARE_QUEUES = ("loss_oim.cq", "unlabeled_matching_layer.queue")
SPARE_TAIL = "unlabeled_matching_layer.tail"
SPARE_IDENTITIES, SPARE_SLOTS = 5532, 5000


def roi_alignps_rules(system: System) -> list[Rule]:
    """The table of one system.

    Left out are a classifier and third copies of the tables, which the released code makes and uses nowhere.

    Raises:
      PortingError: there are no checkpoints of that form of the model.
    """
    if system.module.train_boxes != "proposals":
        raise PortingError("The only ROI-AlignPS in PyTorch has train_boxes 'proposals'.")
    projector = "reid_predictor/projector"
    rules = [
        *alignps_rules(system),
        *resnet_stage_rules(f"{BRANCH}shared_head.layer4.", "reid_head/last_stage/"),
    ]
    for torch, ours in (("conv", "convolution"), ("cls", "objectness"), ("reg", "deltas")):
        rules += convolution_rules(f"rpn_head.rpn_{torch}", f"rpn/{ours}")
    for index, half in enumerate(("shallow", "deep")):
        torch = f"{HEAD}embedding_head.projectors.{index}"
        rules += linear_rules(f"{torch}.0", f"{projector}/{half}_linear")
        rules += batch_norm_rules(f"{torch}.1", f"{projector}/{half}_norm")
    rules += batch_norm_rules(f"{HEAD}embedding_head.rescaler", "reid_predictor/rescaler")
    rules += linear_rules(f"{HEAD}fc_reg.0", "box_regressor/linear")
    rules += batch_norm_rules(f"{HEAD}fc_reg.1", "box_regressor/norm")
    rules += linear_rules("mi_estimator.T_func.0", "mutual_hidden")
    rules += linear_rules("mi_estimator.T_func.2", "mutual_output")
    unused = (f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias", *SPARE_TABLES, *SPARE_QUEUES, SPARE_TAIL)
    return [
        *rules,
        Rule(BOX_TABLE, "memory/box_table"),
        Rule(BOX_QUEUE, "memory/box_queue"),
        *(Rule(name, None) for name in unused),
    ]


def port_roi_alignps(tensors: Mapping[str, np.ndarray], system: System) -> dict[str, Any]:
    """Carries the tensors of a checkpoint to our variables.

    Where the box branch's queue goes on is not in it: at slot 0. So does AlignPS's queue where its slot is not in it.

    Args:
      tensors: arrays by their name in the checkpoint.
      system: what they are for; number of identities and queue size must be the checkpoint's.

    Returns:
      {"params", "batch_stats", "memory"}.

    Raises:
      PortingError: listing every tensor and variable that does not fit.
    """
    tensors = {TAIL: np.zeros((), np.int64), **tensors}
    template = dict(system.template)
    header = {"box_queue_header": jnp.zeros((), jnp.int32)}
    template["memory"] = {name: leaf for name, leaf in template["memory"].items() if name not in header}
    ported = port_tensors(tensors, roi_alignps_rules(system), template)
    return {**ported, "memory": {**ported["memory"], **header}}


def complete_roi_alignps(tensors: Mapping[str, np.ndarray], system: System) -> dict[str, np.ndarray]:
    """Adds what `complete_alignps` does, and the classifier and the tables that are used nowhere, as zeros.

    Args:
      tensors: restored tensors by their name in the checkpoint.
      system: the system they are of.
    """
    width = system.module.width
    unused: dict[str, np.ndarray] = {
        f"{CLASSIFIER}.weight": np.zeros((2, tensors[REGRESSION].shape[1]), np.float32),
        f"{CLASSIFIER}.bias": np.zeros(2, np.float32),
        SPARE_TAIL: np.zeros((), np.int64),
    }
    for names, rows in ((SPARE_TABLES, SPARE_IDENTITIES), (SPARE_QUEUES, SPARE_SLOTS)):
        unused |= {name: np.zeros((rows, width), np.float32) for name in names}
    return with_batch_counters({**unused, **complete_alignps(tensors, system)})


def roi_alignps_options(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Options of `ps_jax.systems.ROIAlignPS` that a checkpoint leaves no choice about.

    Args:
      tensors: arrays by their name in the checkpoint.

    Raises:
      PortingError: this is not a checkpoint of ROI-AlignPS.
    """
    lacking = [name for name in (SHALLOW, REGRESSION, BOX_TABLE, BOX_QUEUE) if name not in tensors]
    if lacking:
        raise PortingError(f"This is not a checkpoint of ROI-AlignPS: it has no {', '.join(lacking)}.")
    return alignps_options({name: leaf for name, leaf in tensors.items() if not name.startswith(BRANCH)})


def roi_alignps_config(tensors: Mapping[str, np.ndarray]) -> str:
    """The configuration that a checkpoint is taken to be of where none is given: that of its data set."""
    identities = roi_alignps_options(tensors)["num_identities"]
    return f"configs/roi_alignps.py:{DATASETS.get(identities, 'coco_json')}"
