"""The porting table of SPNet, on the names of its authors' checkpoints."""

import chex
import jax
import numpy as np
import pytest
from golden_recipe import load_golden

from ps_jax.errors import PortingError
from ps_jax.porting.spnet import port_spnet, spnet_rules
from ps_jax.systems import build_system


@pytest.fixture(scope="module")
def case(golden_dir):
    meta = load_golden(golden_dir, "spnet_s_convnext_tiny_eval").meta
    queue = dict(meta["params"])["head.reid_loss.cq"][0]
    system = build_system(
        "spnet", {"num_identities": meta["lut"], "trunk": "convnext_tiny", "queue_size": queue}
    )
    tensors = {name: np.zeros(shape, np.float32) for name, shape in meta["params"]}
    tensors |= {name: np.zeros(shape, np.int64) for name, shape in meta["untouched"]}
    return system, tensors


def test_every_name_of_a_checkpoint_has_its_place(case):
    system, tensors = case
    tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
    tensors["model.head.reid_loss.lut"] = np.ones_like(tensors["model.head.reid_loss.lut"])
    variables = port_spnet(tensors, system)
    assert set(variables) == {"params", "batch_stats", "memory"}
    assert variables["memory"]["lookup_table"].all() and variables["memory"]["queue_header"] == 0


@pytest.mark.parametrize(
    "trunk, item", [("swin_tiny", "bb_swin_t"), ("solider_swin_tiny", "bb_solider_swin_tiny")]
)
def test_every_name_of_a_checkpoint_with_a_swin_trunk_has_its_place(golden_dir, case, trunk, item):
    """Both are as wide as ConvNeXt-T, so the rest of the checkpoint is that of the other tests."""
    convnext, tensors = case
    system = convnext.changed(trunk=trunk)
    body, embedder = "backbone.body.", "head.align_emb_head.emb_head."
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith((body, embedder))}
    golden = load_golden(golden_dir, item)
    of_trunk = golden.params() | {name: np.zeros(shape, int) for name, shape in golden.meta["untouched"]}
    if trunk.startswith("solider"):  # the whole network, twice
        for prefix in ("backbone.swin.", f"{embedder}swin."):
            tensors |= {prefix + name: tensor for name, tensor in of_trunk.items()}
    else:
        for name, tensor in of_trunk.items():
            if name.startswith("features."):
                name = name.removeprefix("features.")
                tensors[body + name] = tensor
                if name.startswith(("6.", "7.")):
                    tensors[f"{embedder}head.{int(name[0]) - 6}{name[1:]}"] = tensor
    params = port_spnet(tensors, system)["params"]
    chex.assert_trees_all_equal(params["box_embedder"]["last_stage"], params["backbone"]["stage4"])


def test_pretraining_checkpoints_leave_the_memory_empty(case):
    system, tensors = case
    pretrained = {name: tensor for name, tensor in tensors.items() if "reid_loss" not in name}
    for name in (
        "moco_backbone.body.0.0.weight",
        "head.moco_align_emb_head.nae_head.projectors.feat_res4.0.weight",
        "head.reid_loss.emb_cq",
        "head.reid_loss.train_reid_loss.label_cq",
        "lwf_backbone.body.0.0.weight",
        "backbone.classifier.2.weight",
        "backbone.norm.weight",
        "backbone.head.fc.weight",
    ):
        pretrained[name] = np.ones(3, np.float32)
    variables = port_spnet(pretrained, system)
    assert not any(np.any(x) for x in variables["memory"].values())


def test_all_misfits_are_listed_at_once(case):
    system, tensors = case
    broken = dict(tensors)
    del broken["head.bridge_layer.0.linear.bias"]
    broken["head.surprise"] = np.zeros(2, np.float32)
    broken["head.reid_loss.cq"] = np.zeros((3, 128), np.float32)
    with pytest.raises(PortingError) as error:
        port_spnet(broken, system)
    for part in ("params/bridge_0/linear/bias", "head.surprise", "memory/queue is 64x128"):
        assert part in str(error.value)


def test_trunks_without_checkpoints_are_named():
    with pytest.raises(PortingError, match="'mobilenet_v2'"):
        spnet_rules("mobilenet_v2")


def test_every_name_of_a_large_checkpoint_has_its_place(golden_dir):
    meta = load_golden(golden_dir, "spnet_l_convnext_tiny_eval").meta
    shapes = dict(meta["params"])
    options = {
        "num_identities": meta["lut"],
        "trunk": "convnext_tiny",
        "queue_size": shapes["head.reid_loss.cq"][0],
        "reid_dim": shapes["head.reid_loss.lut"][1],
        "num_cascade_steps": 2,
        "separate_location_heads": True,
    }
    tensors = {
        name: np.broadcast_to(np.float32(0), shape) for name, shape in meta["params"] + meta["untouched"]
    }
    marked = {
        "head.align_emb_loc_head.2.head.weight": ("location_embedder_2", "linear", "kernel"),
        "head.align_emb_loc_head.1.emb_head.head.1.2.layer_scale": (
            *("location_embedder_1", "last_stage", "block2", "layer_scale"),
        ),
        "head.regression_head.2.head.bias": ("regression_head_2", "deltas", "bias"),
        "head.bridge_layer.1.linear.bias": ("bridge_1", "linear", "bias"),
    }
    tensors |= {name: np.ones(tensors[name].shape, np.float32) for name in marked}
    params = port_spnet(tensors, build_system("spnet", options))["params"]
    assert sum(np.any(leaf) for leaf in jax.tree.leaves(params)) == len(marked)
    for path in marked.values():
        leaf = params
        for name in path:
            leaf = leaf[name]
        assert np.all(leaf == 1)
    # The same with the other kinds of bridge and logits, which have names of their own.
    renamed = {name.replace(".linear.", ".") if "bridge" in name else name: x for name, x in tensors.items()}
    for place in ("anchor_classification_head.logits", *(f"classification_head.{t}.head" for t in range(3))):
        norm = {
            leaf: np.full(1, len(place), np.float32)
            for leaf in ("weight", "bias", "running_mean", "running_var")
        }
        renamed |= {f"head.{place}.norm.{leaf}": x for leaf, x in norm.items()}
        renamed[f"head.{place}.norm.num_batches_tracked"] = np.zeros((), np.int64)
    options |= {"bridge_type": "direct", "logit_scale": "batch"}
    variables = port_spnet(renamed, build_system("spnet", options))
    assert np.all(variables["params"]["bridge_1"]["linear"]["bias"] == 1)
    # Of the first stage's two normalisations the anchors' is taken: the other one was never trained.
    for t, value in ((0, len("anchor_classification_head.logits")), (2, len("classification_head.2.head"))):
        assert variables["params"][f"classification_head_{t}"]["norm"]["scale"] == value
        assert variables["batch_stats"][f"classification_head_{t}"]["norm"]["var"] == value
