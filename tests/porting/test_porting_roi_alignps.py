"""Checkpoints of ROI-AlignPS with few channels: names, options, the way there and back."""

import jax
import numpy as np
import pytest
from golden_recipe import load_golden

from ps_jax.errors import PortingError
from ps_jax.porting import restore_tensors
from ps_jax.porting.alignps import LOOKUP_TABLE, alignps_options
from ps_jax.porting.roi_alignps import (
    BOX_TABLE,
    CLASSIFIER,
    SPARE_QUEUES,
    SPARE_TABLES,
    SPARE_TAIL,
    complete_roi_alignps,
    port_roi_alignps,
    roi_alignps_config,
    roi_alignps_options,
    roi_alignps_rules,
)
from ps_jax.porting.sources import source_of
from ps_jax.systems import build_system

SMALL = {"num_identities": 3, "queue_size": 4, "width": 32}
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
PROJECTORS = ("embedding_head.projectors.0", "embedding_head.projectors.1")
OWN_NAMES = {
    *(f"rpn_head.rpn_{part}.{leaf}" for part in ("conv", "cls", "reg") for leaf in ("weight", "bias")),
    *(
        f"roi_head.bbox_head.{part}.0.{leaf}"
        for part in (*PROJECTORS, "fc_reg")
        for leaf in ("weight", "bias")
    ),
    *(f"roi_head.bbox_head.{part}.1.{leaf}" for part in (*PROJECTORS, "fc_reg") for leaf in NORM),
    *(f"roi_head.bbox_head.embedding_head.rescaler.{leaf}" for leaf in NORM),
    *(
        f"roi_head.bbox_head.{leaf}"
        for leaf in ("fc_cls.weight", "fc_cls.bias", "loss_oim.lut", "loss_oim.cq")
    ),
    *("loss_oim.lut", "loss_oim.cq", "labeled_matching_layer.lookup_table"),
    *("unlabeled_matching_layer.queue", "unlabeled_matching_layer.tail"),
    *(f"mi_estimator.T_func.{index}.{leaf}" for index in (0, 2) for leaf in ("weight", "bias")),
}


def system_of(**options):
    return build_system("roi_alignps", SMALL | options)


@pytest.fixture(scope="module")
def released():
    """A system as checkpoints are ported to, a checkpoint with random numbers, and its variables."""
    system = system_of(extra_levels=True)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), dict(system.template)
    )
    variables["memory"]["queue_header"] = np.array(2, np.int32)
    variables["memory"]["box_queue_header"] = np.array(0, np.int32)
    tensors = complete_roi_alignps(restore_tensors(variables, roi_alignps_rules(system)), system)
    return system, tensors, variables


def test_names_are_the_authors(golden_dir, released):
    _, tensors, _ = released
    golden = load_golden(golden_dir, "alignps_cuhk_eval")
    names = {name for name, _ in golden.meta["params"]} | {name for name, _ in golden.meta["untouched"]}
    stage = {name for name in names if name.startswith("backbone.layer4.")}
    names |= {name.replace("backbone.", "roi_head.shared_head.") for name in stage}
    assert set(tensors) == names | OWN_NAMES


@pytest.mark.slow
def test_shapes_are_the_authors(golden_dir):
    """With all channels, and people and slots of CUHK-SYSU."""
    golden = load_golden(golden_dir, "roi_alignps_eval")
    stored = {name: tuple(shape) for name, shape in [*golden.meta["params"], *golden.meta["untouched"]]}
    sizes = {"num_identities": stored[BOX_TABLE][0], "queue_size": 5000}
    system = build_system("roi_alignps", {**sizes, "extra_levels": True})
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), dict(system.template))
    tensors = complete_roi_alignps(restore_tensors(variables, roi_alignps_rules(system)), system)
    assert {name: tensor.shape for name, tensor in tensors.items()} == stored


def test_there_and_back_bit_for_bit(released):
    system, tensors, variables = released
    ported = port_roi_alignps(tensors, system)
    jax.tree.map(np.testing.assert_array_equal, dict(ported), variables)
    back = restore_tensors(ported, roi_alignps_rules(system), tensors)
    dropped = {name for name in tensors if name.endswith("num_batches_tracked")}
    dropped |= {f"bbox_head.scales.{index}.scale" for index in range(1, 5)}  # nobody is found on those levels
    dropped |= {f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias", *SPARE_TABLES, *SPARE_QUEUES, SPARE_TAIL}
    assert list(back) == [name for name in tensors if name not in dropped]
    for name, tensor in back.items():
        assert tensor.tobytes() == tensors[name].tobytes() and tensor.dtype == tensors[name].dtype, name


def test_what_is_used_nowhere_is_made_up_in_the_size_it_has_on_any_data_set(released):
    _, tensors, _ = released
    assert all(tensors[name].shape == (5532, 32) for name in SPARE_TABLES)
    assert all(tensors[name].shape == (5000, 32) for name in SPARE_QUEUES)
    assert tensors[f"{CLASSIFIER}.weight"].shape == (2, 2048) and tensors[SPARE_TAIL].dtype == np.int64


def test_options_and_configuration_are_told_by_the_checkpoint(released):
    _, tensors, _ = released
    found = roi_alignps_options(tensors)
    assert {name: found[name] for name in SMALL} == SMALL and found["extra_levels"]
    build_system("roi_alignps", found).template  # noqa: B018
    for rows, dataset in ((5532, "cuhk_sysu"), (483, "prw"), (7, "coco_json")):
        table = {LOOKUP_TABLE: np.broadcast_to(np.float32(0), (rows, 32))}
        assert roi_alignps_config({**tensors, **table}) == f"configs/roi_alignps.py:{dataset}"
    assert source_of("roi_alignps").own == ("memory/box_queue_header",)


def test_other_checkpoints_and_models_are_refused(released):
    _, tensors, _ = released
    with pytest.raises(PortingError, match=r"a checkpoint of ROI-AlignPS; port it as roi_alignps"):
        alignps_options(tensors)
    alone = {name: leaf for name, leaf in tensors.items() if not name.startswith("roi_head.")}
    with pytest.raises(
        PortingError, match=r"not a checkpoint of ROI-AlignPS: it has no roi_head\.bbox_head\."
    ):
        roi_alignps_options(alone)
    with pytest.raises(PortingError, match="has train_boxes 'proposals'"):
        roi_alignps_rules(system_of(train_boxes="detections"))
    extra = {**tensors, "roi_head.bbox_head.unknown.weight": np.zeros(1, np.float32)}
    with pytest.raises(PortingError, match=r"unknown\.weight 1: no rule takes this name"):
        port_roi_alignps(extra, released[0])
