"""Porting table of Sparse R-CNN, trained on COCO, as a start for LEAPS.

LEAPS has no checkpoints in PyTorch. Sparse R-CNN's have its trunk, learned proposals and stages, under the names of
the release (detectron2) or of MMDetection 2. The levels of the pyramid that LEAPS does not have are left out, and all
classes but the first, which is a person; what re-identifies starts anew.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ps_jax.errors import PortingError
from ps_jax.interface import People, Scenes
from ps_jax.porting.rules import (
    Rule,
    Transform,
    convolution_rules,
    layer_norm_rules,
    linear_kernel,
    linear_rules,
    port_tensors,
)
from ps_jax.porting.trunks import detectron_resnet_rules, pvt_v2_rules, resnet_rules
from ps_jax.systems import System


class _Names(NamedTuple):
    """What the parts are called; triples in the order of our norm1, norm2, norm3.

    Attributes:
      boxes, features: tables of the learned proposals.
      lateral, output: convolutions of the pyramid.
      first_level: what their {level} is at stride 4.
      stage: prefix of a stage; the rest stands behind it.
      attention, interaction, norms, expand, contract, classification, regression, logit, deltas: of a stage.
      interaction_norms, project: of the interaction.
    """

    boxes: str
    features: str
    lateral: str
    output: str
    first_level: int
    stage: str
    attention: str
    interaction: str
    interaction_norms: tuple[str, str, str]
    project: str
    norms: tuple[str, str, str]
    expand: str
    contract: str
    classification: str
    regression: str
    logit: str
    deltas: str


RELEASE = _Names(
    boxes="init_proposal_boxes.weight",
    features="init_proposal_features.weight",
    lateral="backbone.fpn_lateral{level}",
    output="backbone.fpn_output{level}",
    first_level=2,
    stage="head.head_series.{stage}.",
    attention="self_attn",
    interaction="inst_interact",
    interaction_norms=("norm1", "norm2", "norm3"),
    project="out_layer",
    norms=("norm1", "norm2", "norm3"),
    expand="linear1",
    contract="linear2",
    classification="cls_module",
    regression="reg_module",
    logit="class_logits",
    deltas="bboxes_delta",
)
MMDETECTION = _Names(
    boxes="rpn_head.init_proposal_bboxes.weight",
    features="rpn_head.init_proposal_features.weight",
    lateral="neck.lateral_convs.{level}.conv",
    output="neck.fpn_convs.{level}.conv",
    first_level=0,
    stage="roi_head.bbox_head.{stage}.",
    attention="attention.attn",
    interaction="instance_interactive_conv",
    interaction_norms=("norm_in", "norm_out", "fc_norm"),
    project="fc_layer",
    norms=("attention_norm", "instance_interactive_conv_norm", "ffn_norm"),
    expand="ffn.layers.0.0",
    contract="ffn.layers.1",
    classification="cls_fcs",
    regression="reg_fcs",
    logit="fc_cls",
    deltas="fc_reg",
)

# PVT's own Sparse R-CNNs (MMDetection's names): channels of the first stage, which tell the trunk.
PVT_PATCHES = "backbone.patch_embed1.proj.weight"
PVT_WIDTHS = {32: "pvt_v2_b0", 64: "pvt_v2_b2"}

# Of a layer with a row for each class that of the first; the other rows are not given back.
_person = Transform(lambda tensor: tensor[:1], lambda value: value)
_person_kernel = Transform(lambda tensor: tensor[:1].transpose(1, 0), lambda value: value.transpose(1, 0))


def sparse_rcnn_rules(system: System) -> list[Rule]:
    """The table of LEAPS's trunk, pyramid, proposals and stages, by either names.

    Raises:
      PortingError: there are no checkpoints of that form of the model.
    """
    trunk = system.module.trunk
    if trunk == "resnet50":
        rules = [
            *detectron_resnet_rules("backbone.bottom_up.", "backbone/"),
            *resnet_rules("backbone.", "backbone/"),
        ]
    elif trunk in PVT_WIDTHS.values():
        rules = pvt_v2_rules("backbone.", "backbone/")
    else:
        known = ", ".join(map(repr, ("resnet50", *PVT_WIDTHS.values())))
        raise PortingError(
            f"The Sparse R-CNN that can be ported has one of the trunks {known}, not {trunk!r}."
        )
    for names in (RELEASE, MMDETECTION):
        rules += [
            Rule(names.boxes, "params/proposal_boxes"),
            Rule(names.features, "params/proposal_features"),
        ]
        for level in (2, 3, 4, 5):
            index = names.first_level + level - 2
            lateral = convolution_rules(names.lateral.format(level=index), f"fpn/lateral{level}")
            output = convolution_rules(names.output.format(level=index), f"fpn/output{level}")
            rules += [rule if level > 2 else rule._replace(ours=None) for rule in lateral]
            rules += [rule if level in (3, 4) else rule._replace(ours=None) for rule in output]
        rules += proposal_stage_rules(names)
    return rules


def proposal_stage_rules(names: _Names = RELEASE, ours: str = "stage_{stage}/") -> list[Rule]:
    """Rules of every `ProposalStage`.

    Args:
      names: `RELEASE` or `MMDETECTION`.
      ours: prefix of a stage's variables without collection; by default that of LEAPS.
    """
    torch = names.stage
    attention, interaction = f"{torch}{names.attention}.", f"{torch}{names.interaction}."
    rules = [
        Rule(f"{attention}in_proj_weight", f"params/{ours}attention/qkv/kernel", linear_kernel),
        Rule(f"{attention}in_proj_bias", f"params/{ours}attention/qkv/bias"),
        *linear_rules(f"{attention}out_proj", f"{ours}attention/project"),
        *linear_rules(f"{interaction}dynamic_layer", f"{ours}interaction/make_kernels"),
        *linear_rules(f"{interaction}{names.project}", f"{ours}interaction/project"),
        *linear_rules(f"{torch}{names.expand}", f"{ours}expand"),
        *linear_rules(f"{torch}{names.contract}", f"{ours}contract"),
        Rule(f"{torch}{names.logit}.weight", f"params/{ours}logit/kernel", _person_kernel),
        Rule(f"{torch}{names.logit}.bias", f"params/{ours}logit/bias", _person),
        *linear_rules(f"{torch}{names.deltas}", f"{ours}deltas"),
    ]
    for index in range(3):
        norm = f"norm{index + 1}"
        rules += layer_norm_rules(
            f"{interaction}{names.interaction_norms[index]}", f"{ours}interaction/{norm}"
        )
        rules += layer_norm_rules(f"{torch}{names.norms[index]}", f"{ours}{norm}")
        # Of the layers before a prediction every third is linear, the next its normalisation.
        for part, layers in ((names.classification, "classification"), (names.regression, "regression")):
            rules += linear_rules(f"{torch}{part}.{3 * index}", f"{ours}{layers}{index}")
            rules += layer_norm_rules(f"{torch}{part}.{3 * index + 1}", f"{ours}{layers}_norm{index}")
    return rules


def port_sparse_rcnn(tensors: Mapping[str, np.ndarray], system: System) -> dict[str, Any]:
    """Carries the tensors of a checkpoint to the variables of LEAPS; heads that re-identify are as they start.

    Args:
      tensors: arrays by their name in the checkpoint.
      system: LEAPS with the checkpoint's numbers of proposals and stages.

    Returns:
      {"params", "batch_stats", "memory"}.

    Raises:
      PortingError: listing every tensor and variable that does not fit.
    """
    scene = Scenes(np.zeros((1, 64, 64, 3), np.uint8), np.full((1, 2), 64))
    nobody = People(*(np.zeros(shape) for shape in ((1, 1, 4), (1, 1), (1, 1), (1, 1))))
    start = system.init(jax.random.key(0), scene, nobody)
    own = {name: tree for name, tree in start["params"].items() if name.startswith("reid_head_")}
    template = {
        "params": {name: tree for name, tree in start["params"].items() if name not in own},
        "batch_stats": start["batch_stats"],
    }
    ported = port_tensors(tensors, sparse_rcnn_rules(system), template)
    statistics = ported.get("batch_stats", {})  # PVT has none
    return {"params": {**ported["params"], **own}, "batch_stats": statistics, "memory": start["memory"]}


def sparse_rcnn_options(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Options of `ps_jax.systems.LEAPS` that a checkpoint leaves no choice about.

    Args:
      tensors: arrays by their name in the checkpoint.

    Raises:
      PortingError: this is not a checkpoint of Sparse R-CNN.
    """
    found = [names for names in (RELEASE, MMDETECTION) if {names.boxes, names.features} <= set(tensors)]
    if not found:
        raise PortingError(
            "This is not a checkpoint of Sparse R-CNN, the only one that LEAPS can start from: it has no "
            f"{RELEASE.features}, nor {MMDETECTION.features}."
        )
    names = found[0]
    count, width = tensors[names.features].shape
    stages = 0
    while f"{names.stage.format(stage=stages)}{names.deltas}.weight" in tensors:
        stages += 1
    trunk = "resnet50"
    if PVT_PATCHES in tensors:
        channels = len(tensors[PVT_PATCHES])
        if channels not in PVT_WIDTHS:
            raise PortingError(
                f"The trunk is a PVT v2 whose first stage has {channels} channels; known are {PVT_WIDTHS}."
            )
        trunk = PVT_WIDTHS[channels]
    return {"trunk": trunk, "num_proposals": count, "width": width, "num_stages": stages}


def sparse_rcnn_config(tensors: Mapping[str, np.ndarray]) -> str:
    """The configuration that a checkpoint is taken to be of where none is given."""
    sparse_rcnn_options(tensors)
    return "configs/leaps.py:coco_json"


def complete_sparse_rcnn(tensors: Mapping[str, np.ndarray], system: System) -> dict[str, np.ndarray]:
    """Refuses: what re-identifies has no place in Sparse R-CNN, so no module loads these strictly.

    Raises:
      PortingError: always.
    """
    raise PortingError("There is no LEAPS in PyTorch that a state dict could be written for.")
