"""Checkpoints of AlignPS and AlignPS+ with few channels: names, options, the way there and back."""

import jax
import numpy as np
import pytest
from golden_recipe import load_golden

from ps_jax.errors import PortingError
from ps_jax.porting import restore_tensors
from ps_jax.porting.alignps import (
    LOOKUP_TABLE,
    TAIL,
    alignps_config,
    alignps_options,
    alignps_rules,
    complete_alignps,
    port_alignps,
)
from ps_jax.systems import build_system

SMALL = {"num_identities": 3, "queue_size": 4, "width": 32}


def system_of(**options):
    return build_system("alignps", SMALL | options)


def tensors_of(system, seed=0):
    """A checkpoint with random numbers, as the way back names its tensors."""
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), dict(system.template)
    )
    variables["memory"]["queue_header"] = np.array(2, np.int32)
    return restore_tensors(variables, alignps_rules(system)), variables


@pytest.fixture(params=[(), (2, 3, 4)], ids=["alignps", "alignps_plus"])
def released(request):
    """A system as checkpoints are ported to, a checkpoint and its variables."""
    system = system_of(deformable_stages=request.param, extra_levels=True)
    return system, *tensors_of(system)


def test_names_are_the_authors(golden_dir, released):
    system, tensors, _ = released
    golden = load_golden(
        golden_dir, "alignps_plus_eval" if system.module.deformable_stages else "alignps_cuhk_eval"
    )
    names = {name for name, _ in golden.meta["params"]} | {name for name, _ in golden.meta["untouched"]}
    assert set(complete_alignps(tensors, system)) == names


def test_there_and_back_bit_for_bit(released):
    system, tensors, variables = released
    ported = port_alignps(tensors, system)
    jax.tree.map(np.testing.assert_array_equal, dict(ported), variables)
    back = restore_tensors(ported, alignps_rules(system), tensors)
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        assert back[name].tobytes() == tensor.tobytes() and back[name].dtype == tensor.dtype, name
    found = alignps_options(tensors)
    assert {name: found[name] for name in SMALL} == SMALL
    assert found["deformable_stages"] == system.module.deformable_stages and found["extra_levels"]


def test_the_first_convolution_takes_the_channels_the_other_way_round(released):
    _, tensors, variables = released
    kernel = variables["params"]["backbone"]["stem_conv"]["kernel"]
    np.testing.assert_array_equal(tensors["backbone.conv1.weight"][:, 2, 1, 3], kernel[1, 3, 0])


def test_levels_that_only_the_released_training_has_are_left_out_and_made_up(released):
    system, tensors, _ = released
    plain = system.changed(extra_levels=False)
    ported = port_alignps(tensors, plain)
    assert set(ported["params"]["neck"]) == {"lateral3", "lateral4", "lateral5", "output3"}
    whole = complete_alignps(restore_tensors(ported, alignps_rules(plain)), plain)
    assert set(whole) == set(complete_alignps(tensors, system))
    assert not np.any(whole["neck.fpn_convs.3.conv.weight"]) and whole["bbox_head.scales.4.scale"] == 1
    for name, tensor in complete_alignps(tensors, system).items():
        assert whole[name].shape == tensor.shape and whole[name].dtype == tensor.dtype, name
    without = {name: tensor for name, tensor in tensors.items() if name != TAIL}
    assert port_alignps(without, system)["memory"]["queue_header"] == 0


def test_the_configuration_is_told_by_trunk_and_table(released):
    system, tensors, _ = released
    name = "alignps_plus" if system.module.deformable_stages else "alignps"
    for rows, dataset in ((5532, "cuhk_sysu"), (483, "prw"), (7, "coco_json")):
        table = {LOOKUP_TABLE: np.broadcast_to(np.float32(0), (rows, 32))}
        assert alignps_config({**tensors, **table}) == f"configs/{name}.py:{dataset}"


def test_other_checkpoints_and_models_are_refused(released):
    _, tensors, _ = released
    with pytest.raises(
        PortingError, match=r"not a checkpoint of AlignPS: it has no neck\.fpn_convs\.0\.weight"
    ):
        alignps_options({"backbone.conv1.weight": np.zeros(1)})
    with pytest.raises(PortingError, match="a checkpoint of ROI-AlignPS"):
        alignps_options({**tensors, "roi_head.shared_head.layer4.0.conv1.weight": np.zeros(1)})
    with pytest.raises(PortingError, match="The only AlignPS in PyTorch has the trunk 'resnet50_caffe'"):
        alignps_rules(system_of(concatenate=False))
