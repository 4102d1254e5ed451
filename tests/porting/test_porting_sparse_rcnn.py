"""Sparse R-CNN's names: those of its released files and of MMDetection, and where they lead in LEAPS."""

import jax
import numpy as np
import pytest
from golden_recipe import load_golden

from ps_jax.errors import PortingError
from ps_jax.porting import match_rules, proposal_stage_rules, restore_tensors
from ps_jax.porting.sparse_rcnn import (
    MMDETECTION,
    RELEASE,
    port_sparse_rcnn,
    sparse_rcnn_config,
    sparse_rcnn_options,
    sparse_rcnn_rules,
)
from ps_jax.porting.workdirs import export_checkpoint, port_checkpoint
from ps_jax.systems import build_system
from ps_jax.training import load_variables

CLASSES = 3  # of a checkpoint made here; COCO has 80
OPTIONS = {"trunk": "resnet50", "num_proposals": 5, "width": 16, "num_stages": 2}
SMALL = {"heads": 2, "dynamic_width": 4, "perceptron_width": 24}


def tensors_of(names, trunk="resnet50", seed=0):
    """A checkpoint with few channels and random numbers, a row of a prediction for each of its classes."""
    system = build_system("leaps", {"num_identities": 1, **OPTIONS, **SMALL, "trunk": trunk})
    rng = np.random.default_rng(seed)
    params = {name: tree for name, tree in system.template["params"].items() if "reid" not in name}
    template = {"params": params, "batch_stats": system.template["batch_stats"]}
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), template)
    rules = sparse_rcnn_rules(system)
    if names is MMDETECTION:
        rules = [rule for rule in rules if not rule.torch.startswith(("backbone.bottom_up", "backbone.fpn"))]
        rules = [rule for rule in rules if not rule.torch.startswith(("head.", "init_"))]
    tensors = restore_tensors(variables, rules)
    for name in [name for name in tensors if f".{names.logit}." in name]:
        others = rng.normal(size=(CLASSES - 1, *tensors[name].shape[1:])).astype(np.float32)
        tensors[name] = np.concatenate([tensors[name], others])
    finest = 256 if trunk == "resnet50" else 32  # channels of the level that LEAPS does without
    for part, shape in ((names.lateral, (16, finest, 1, 1)), (names.output, (16, 16, 3, 3))):
        for level in (2,) if part == names.lateral else (2, 5):
            name = part.format(level=names.first_level + level - 2)
            tensors[f"{name}.weight"], tensors[f"{name}.bias"] = (
                np.ones(shape, np.float32),
                np.ones(16, np.float32),
            )
    return tensors, variables


def test_stages_of_leaps_have_the_names_and_shapes_of_the_release(golden_dir):
    expected = {
        f"head.{name}": tuple(shape)
        for name, shape in load_golden(golden_dir, "sparse_rcnn_head").meta["params"]
    }
    params = build_system("leaps", {"num_identities": 3}).template["params"]
    stages = {name: params[name] for name in ("stage_0", "stage_1", "stage_2")}
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), {"params": stages})
    restored = restore_tensors(empty, proposal_stage_rules())
    assert {name: tensor.shape for name, tensor in restored.items()} == expected
    assert set(match_rules(expected, proposal_stage_rules())) == set(expected)


def test_names_of_mmdetection():
    """Some of each part, with the shapes that its Sparse R-CNN on ResNet-50 has."""
    system = build_system("leaps", {"num_identities": 3})
    shapes = {
        "backbone.layer3.5.conv2.weight": (256, 256, 3, 3),
        "backbone.layer1.0.downsample.1.running_var": (256,),
        "neck.lateral_convs.1.conv.weight": (256, 512, 1, 1),
        "neck.fpn_convs.2.conv.weight": (256, 256, 3, 3),
        "rpn_head.init_proposal_bboxes.weight": (100, 4),
        "rpn_head.init_proposal_features.weight": (100, 256),
        "roi_head.bbox_head.5.attention.attn.in_proj_weight": (768, 256),
        "roi_head.bbox_head.5.attention_norm.weight": (256,),
        "roi_head.bbox_head.0.instance_interactive_conv.dynamic_layer.weight": (32768, 256),
        "roi_head.bbox_head.0.instance_interactive_conv.norm_in.weight": (64,),
        "roi_head.bbox_head.0.instance_interactive_conv.fc_layer.weight": (256, 12544),
        "roi_head.bbox_head.0.instance_interactive_conv_norm.bias": (256,),
        "roi_head.bbox_head.0.ffn.layers.0.0.weight": (2048, 256),
        "roi_head.bbox_head.0.ffn.layers.1.weight": (256, 2048),
        "roi_head.bbox_head.0.ffn_norm.weight": (256,),
        "roi_head.bbox_head.2.cls_fcs.1.bias": (256,),
        "roi_head.bbox_head.2.reg_fcs.6.weight": (256, 256),
        "roi_head.bbox_head.2.fc_cls.weight": (80, 256),
        "roi_head.bbox_head.2.fc_reg.bias": (4,),
    }
    flat = {
        "/".join(str(key.key) for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(dict(system.template))
    }
    placed = match_rules(shapes, sparse_rcnn_rules(system))
    assert set(placed) == set(shapes)
    for name, shape in shapes.items():
        tensor = np.broadcast_to(np.float32(0), shape)
        assert placed[name].transform(tensor).shape == flat[placed[name].ours], name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "trunk"),
    [(RELEASE, "resnet50"), (MMDETECTION, "resnet50"), (MMDETECTION, "pvt_v2_b0")],
    ids=["release", "mmdetection", "pvt"],
)
def test_a_start_from_sparse_rcnn(names, trunk, tmp_path):
    """Everything that it has is carried over, of the classes the first; the rest is as LEAPS starts. And back."""
    from ps_jax.porting.__main__ import load_config
    from ps_jax.porting.torch_files import read_state_dict

    tensors, variables = tensors_of(names, trunk)
    assert sparse_rcnn_options(tensors) == OPTIONS | {"trunk": trunk}
    assert sparse_rcnn_config(tensors) == "configs/leaps.py:coco_json"
    np.savez(tmp_path / "coco.npz", **tensors)
    changes = [f"--config.model.{name}={value}" for name, value in SMALL.items()]
    config = load_config("configs/leaps_tiny.py:coco_json", "leaps", changes)
    system = port_checkpoint(tmp_path / "coco.npz", config, tmp_path / "start", set(SMALL))
    ported, meta = load_variables(tmp_path / "start")
    params = dict(ported["params"])
    heads = {name: params.pop(name) for name in list(params) if name.startswith("reid_head_")}
    jax.tree.map(np.testing.assert_array_equal, params, dict(variables["params"]))
    jax.tree.map(np.testing.assert_array_equal, dict(ported["batch_stats"]), dict(variables["batch_stats"]))
    assert bool(ported["batch_stats"]) == (trunk == "resnet50")
    assert set(heads) == {"reid_head_0", "reid_head_1"} and meta["model"]["num_stages"] == 2
    assert not np.any(heads["reid_head_0"]["offsets"]["kernel"])
    assert np.std(heads["reid_head_0"]["branch0"]["hidden"]["kernel"]) > 0
    assert not np.any(ported["memory"]["lookup_table"])
    export_checkpoint(tmp_path / "start", tmp_path / "back.pth")
    back = read_state_dict(tmp_path / "back.pth")
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)
    # It is what a training starts from: the memory anew, everything else as it is.
    bigger = system.changed(num_identities=7)
    fresh = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), dict(bigger.template))
    begun = bigger.transfer(ported, fresh)
    assert begun["memory"]["lookup_table"].shape == (2, 7, 16)
    assert jax.tree.map(np.shape, dict(begun["params"])) == jax.tree.map(
        lambda leaf: leaf.shape, dict(bigger.template["params"])
    )


@pytest.mark.slow
def test_other_checkpoints_and_trunks_are_refused():
    tensors, _ = tensors_of(RELEASE)
    with pytest.raises(
        PortingError, match=r"not a checkpoint of Sparse R-CNN, .* it has no init_proposal_features"
    ):
        sparse_rcnn_options({"backbone.conv1.weight": np.zeros(1)})
    wide = {name: tensors[name] for name in tensors if name.startswith("init_proposal")}
    with pytest.raises(PortingError, match="PVT v2 whose first stage has 48 channels"):
        sparse_rcnn_options(wide | {"backbone.patch_embed1.proj.weight": np.zeros((48, 3, 7, 7))})
    other = build_system(
        "leaps", {"num_identities": 1, **OPTIONS, **SMALL, "trunk": "convnext_tiny", "frozen_stages": -1}
    )
    with pytest.raises(PortingError, match=r"one of the trunks 'resnet50', .* not 'convnext_tiny'"):
        sparse_rcnn_rules(other)
    system = build_system("leaps", {"num_identities": 1, **OPTIONS, **SMALL})
    del tensors["head.head_series.1.linear2.bias"]
    with pytest.raises(PortingError, match="does not fill:\n  params/stage_1/contract/bias 16"):
        port_sparse_rcnn(tensors, system)
