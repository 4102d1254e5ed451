"""The porting table of SPNet-S, on the names of its authors' checkpoints."""

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
