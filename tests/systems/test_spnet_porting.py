"""The porting table of SPNet-S, on the names of its authors' checkpoints."""

import chex
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
