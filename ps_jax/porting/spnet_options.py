"""What the names and shapes of an SPNet checkpoint tell of its model."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ps_jax.backbones import SWIN_SIZES
from ps_jax.errors import PortingError

BODY = "backbone.body."
SOLIDER = "backbone.swin."
LOOKUP_TABLE, QUEUE = "head.reid_loss.lut", "head.reid_loss.cq"
# Rows of the lookup table -> data set. PRW's papers count 482 training identities, its data hold 483.
DATASETS = {5532: "cuhk_sysu", 482: "prw", 483: "prw"}


def spnet_options(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Options of `ps_jax.systems.SPNet` that a checkpoint leaves no choice about.

    Mode, combiner, sign of the norm and thresholds leave no trace in it; they are the configuration's.

    Args:
      tensors: arrays by their name in the checkpoint.

    Raises:
      PortingError: this is not a checkpoint of SPNet, or of a trunk that is not known.
    """
    bridges = _numbered(tensors, r"head\.bridge_layer\.(\d+)\..*weight")
    projector = "head.align_emb_head.nae_head.projectors.feat_res{}.0.weight"
    wanted = ("head.feature_head.emb_pred.weight", projector.format(4), projector.format(5))
    lacking = [name for name in wanted if name not in tensors]
    if lacking or not bridges:
        raise PortingError(
            f"This is not a checkpoint of SPNet: it has no {', '.join(lacking or ['head.bridge_layer'])}."
        )
    direct = "head.bridge_layer.0.weight" in tensors
    options = {
        "trunk": spnet_trunk(tensors),
        "embedding_dim": tensors[f"head.bridge_layer.0.{'' if direct else 'linear.'}weight"].shape[0],
        "reid_dim": sum(tensors[projector.format(level)].shape[0] for level in (4, 5)),
        "num_cascade_steps": max(bridges),
        "separate_location_heads": any(name.startswith("head.align_emb_loc_head.") for name in tensors),
        "bridge_type": "direct" if direct else "combiner",
        "reid_objective": "oim" if LOOKUP_TABLE in tensors else "queue",
    }
    if any(re.fullmatch(r"head\.(anchor_)?classification_head\..*norm\.weight", name) for name in tensors):
        options["logit_scale"] = "batch"
    if LOOKUP_TABLE in tensors:
        options["num_identities"] = tensors[LOOKUP_TABLE].shape[0]
        if QUEUE in tensors:
            options["queue_size"] = tensors[QUEUE].shape[0]
    else:
        sizes = [
            x.shape[0] for name, x in tensors.items() if re.fullmatch(r"head\.reid_loss\..*emb_cq", name)
        ]
        if sizes:
            options["queue_size"] = max(sizes)
    return options


def spnet_trunk(tensors: Mapping[str, np.ndarray]) -> str:
    """Name of the trunk of a checkpoint, by which layers it has and how wide they are.

    Raises:
      PortingError: none of the known trunks is.
    """
    if f"{BODY}conv1.weight" in tensors:
        found = "resnet50", _numbered(tensors, rf"{BODY}layer3\.(\d+)\.conv1\.weight"), 6
    elif f"{SOLIDER}patch_embed.projection.weight" in tensors:
        depth = len(_numbered(tensors, rf"{SOLIDER}stages\.2\.blocks\.(\d+)\.norm1\.weight"))
        return _swin("solider_swin", tensors[f"{SOLIDER}patch_embed.projection.weight"].shape[0], depth)
    elif f"{BODY}0.0.weight" in tensors:
        width = tensors[f"{BODY}0.0.weight"].shape[0]
        if f"{BODY}1.0.attn.qkv.weight" in tensors:
            depth = len(_numbered(tensors, rf"{BODY}5\.(\d+)\.norm1\.weight"))
            version = "swin_v2" if f"{BODY}1.0.attn.logit_scale" in tensors else "swin"
            return _swin(version, width, depth)
        blocks = _numbered(tensors, rf"{BODY}5\.(\d+)\.layer_scale")
        found = ("convnext_tiny", blocks, 9) if width == 96 else ("convnext_base", blocks, 27)
    else:
        raise PortingError(f"The checkpoint has no trunk: there is neither {BODY}* nor {SOLIDER}*.")
    name, blocks, depth = found
    if len(blocks) != depth:
        raise PortingError(
            f"The checkpoint's trunk looks like {name}, but its third stage has {len(blocks)} blocks, "
            f"wanted are {depth}."
        )
    return name


def spnet_config(tensors: Mapping[str, np.ndarray]) -> str:
    """The configuration that a checkpoint is taken to be of where none is given: that of its data set and size."""
    options = spnet_options(tensors)
    large = "_l" if options["separate_location_heads"] else ""
    if options["reid_objective"] == "queue":
        return f"configs/spnet_qc{large}.py:coco_persons"
    return f"configs/spnet_oc{large}.py:{DATASETS.get(options['num_identities'], 'coco_json')}"


def _swin(family: str, width: int, depth: int) -> str:
    for size, options in SWIN_SIZES.items():
        if (options["width"], options["depths"][2]) == (width, depth):
            return f"{family}_{size}"
    raise PortingError(
        f"The checkpoint's trunk is a {family} of width {width} with {depth} blocks in its third stage, "
        f"known are {', '.join(SWIN_SIZES)}."
    )


def _numbered(tensors: Mapping[str, np.ndarray], pattern: str) -> list[int]:
    """The numbers in the names that fit the pattern, ascending."""
    matches = (re.fullmatch(pattern, name) for name in tensors)
    return sorted({int(match[1]) for match in matches if match})
