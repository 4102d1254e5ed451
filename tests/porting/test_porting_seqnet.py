"""Checkpoints of SeqNet, NAE and SeqNeXt with a small trunk: names, options, the way there and back."""

import jax
import numpy as np
import pytest
from golden_recipe import load_golden

from ps_jax.errors import PortingError
from ps_jax.porting import restore_tensors
from ps_jax.porting.seqnet import complete_seqnet, port_seqnet, seqnet_config, seqnet_options, seqnet_rules
from ps_jax.systems import build_system

SMALL = {"num_identities": 3, "queue_size": 2, "reid_dim": 8}


def system_of(**options):
    return build_system("seqnet", SMALL | {"trunk": "resnet50"} | options)


def tensors_of(system, seed=0):
    """A checkpoint with random numbers, as the way back names its tensors."""
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), dict(system.template)
    )
    variables["memory"]["queue_header"] = np.zeros((), np.int32)
    return restore_tensors(variables, seqnet_rules(system)), variables


@pytest.mark.parametrize("sequential", [True, False])
def test_names_are_the_authors(golden_dir, sequential):
    golden = load_golden(golden_dir, "seqnet_eval" if sequential else "nae_eval")
    system = system_of(sequential=sequential)
    tensors, _ = tensors_of(system)
    complete = complete_seqnet(tensors, system)
    names = {name for name, _ in golden.meta["params"]} | {name for name, _ in golden.meta["untouched"]}
    assert set(complete) == names
    assert all(complete[name].dtype == np.int64 for name in names if name.endswith("num_batches_tracked"))


@pytest.mark.parametrize(
    "options",
    [{}, {"sequential": False}, {"head": "seqnext", "trunk": "convnext_tiny", "first_score": False}],
    ids=["seqnet", "nae", "seqnext"],
)
def test_there_and_back_bit_for_bit(options):
    system = system_of(**options)
    tensors, variables = tensors_of(system)
    ported = port_seqnet(tensors, system)
    jax.tree.map(np.testing.assert_array_equal, dict(ported), variables)
    back = restore_tensors(ported, seqnet_rules(system), tensors)
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        assert back[name].tobytes() == tensor.tobytes(), name
    found = seqnet_options(tensors)
    assert {name: found[name] for name in SMALL} == SMALL
    assert {name: found[name] for name in options} == options
    assert found["head"] == system.module.head and found["trunk"] == system.module.trunk


def test_the_names_of_newer_torchvision_are_known():
    system = system_of()
    tensors, variables = tensors_of(system)
    newer = {name.replace("rpn.head.conv.", "rpn.head.conv.0.0."): x for name, x in tensors.items()}
    assert newer.keys() != tensors.keys()
    jax.tree.map(np.testing.assert_array_equal, dict(port_seqnet(newer, system)), variables)


def test_seqnexts_aliases_and_scene_filter():
    system = system_of(head="seqnext", trunk="convnext_tiny", first_score=False, skip_unwritten=True)
    tensors, variables = tensors_of(system)
    second = "roi_heads.reid_head."
    aliases = {
        name.replace(second, "roi_heads.box_head."): x
        for name, x in tensors.items()
        if name.startswith(second)
    }
    assert aliases
    filters = {
        f"{prefix}.fuser.norm.norm.weight": np.ones(8, np.float32) for prefix in ("gfn", "roi_heads.gfn")
    }
    ported = port_seqnet({**aliases, **tensors, **filters}, system)
    jax.tree.map(np.testing.assert_array_equal, dict(ported), variables)
    with pytest.raises(PortingError, match="its PyTorch module holds the scene filter GFN"):
        complete_seqnet(tensors, system)
    name = next(iter(aliases))
    with pytest.raises(PortingError, match=r"is already filled by .*, with other values"):
        port_seqnet({**tensors, **filters, name: aliases[name] + 1}, system)


def test_the_data_set_is_told_by_the_table():
    tensors = dict(tensors_of(system_of())[0])
    for rows, expected in ((5532, "seqnet.py:cuhk_sysu"), (482, "seqnet.py:prw"), (7, "seqnet.py:coco_json")):
        tensors["roi_heads.reid_loss.lut"] = np.broadcast_to(np.float32(0), (rows, 8))
        assert seqnet_config(tensors) == f"configs/{expected}"
    nae = dict(tensors_of(system_of(sequential=False))[0])
    assert seqnet_config(nae) == "configs/nae.py:coco_json"


def test_other_checkpoints_and_models_are_refused():
    with pytest.raises(
        PortingError, match=r"not a checkpoint of SeqNet, NAE or GFN: it has no rpn\.head\.cls_logits"
    ):
        seqnet_options({"backbone.conv1.weight": np.zeros(1)})
    tensors = tensors_of(system_of())[0]
    shallow = {name: x for name, x in tensors.items() if not name.startswith("backbone.layer3.5.")}
    with pytest.raises(PortingError, match="third stage of the checkpoint's trunk has 5 blocks"):
        seqnet_options(shallow)
    with pytest.raises(PortingError, match="no SeqNet or NAE in PyTorch with head 'softmax'"):
        seqnet_rules(system_of(head="softmax"))
    with pytest.raises(PortingError, match="no SeqNeXt in PyTorch with trunk 'mobilenet_v2'"):
        seqnet_rules(system_of(head="seqnext", trunk="mobilenet_v2"))
