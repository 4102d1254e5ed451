"""The mechanism of RDLR's refinement: each loss of re-identification alone mends boxes."""

import os
from pathlib import Path

import jax.numpy as jnp
import pytest
from flax import traverse_util

from benchmarks import refinement_mechanism
from ps_jax.systems import RDLRSystem


def test_losses_of_reidentification_train_the_layer_that_moves_boxes_and_no_other(monkeypatch):
    names = ("classification", "proposal_classification", "softmax", "proxy_triplet")
    terms = {name: jnp.zeros(()) for name in names}
    monkeypatch.setattr(RDLRSystem, "losses", lambda *_: (terms, {}))
    options = {**refinement_mechanism.MODEL, "num_identities": 2, "freeze_proposals": True}
    options["detector_options"] = refinement_mechanism.DETECTOR
    mechanism = refinement_mechanism.ReidAlone(options)
    assert set(mechanism.losses({}, None, None, None)[0]) == {"softmax", "proxy_triplet"}
    trained = traverse_util.flatten_dict(mechanism.trainable(mechanism.template["params"]))
    layer = ("detector", "box_predictor", "deltas")
    assert {path for path, on in trained.items() if on} == {(*layer, "kernel"), (*layer, "bias")}
    control = refinement_mechanism.ClassificationAlone(options)
    assert set(control.losses({}, None, None, None)[0]) == {"classification", "proposal_classification"}


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.timeout(1800)  # six trainings
def test_each_loss_of_reidentification_mends_boxes(tmp_path):
    data = os.environ.get("PS_JAX_REAL_DATA")
    if not data:
        pytest.skip("PS_JAX_REAL_DATA is not set")
    folder = Path(data).parent / "weights"
    trunk = folder / "mobilenet_v2_imagenet" / "mobilenet_v2_imagenet.npz"
    network = folder / "osnet_x0_25_msmt17" / "osnet_x0_25_msmt17.onnx"
    for path in (trunk, network):  # from scratch the frozen network knows too little
        if not path.is_file():
            pytest.skip(f"{path} does not exist")
    found = refinement_mechanism.main(
        [
            "--dir",
            str(tmp_path / "scenes"),
            "--out",
            str(tmp_path / "boxes.png"),
            "--weights",
            str(trunk),
            "--reid_weights",
            str(network),
        ]
    )
    assert found["true boxes"].iou == 1 and found["true boxes"].found == 1
    before = found["before"]
    assert before.iou < 0.6  # boxes moved by 15 % of both sides overlap the true ones by 0.57
    for name in ("softmax", "proxy triplet", "both"):
        after = found[name]
        assert after.iou > before.iou + 0.05 and after.found >= before.found, (name, after, before)
        assert after.softmax < 0.7 * before.softmax and after.triplet < 0.7 * before.triplet, (name, after)
    whole = found["whole stage: both and classification"]
    assert whole.iou > before.iou + 0.05 and whole.softmax < before.softmax and whole.triplet < before.triplet
    assert (tmp_path / "boxes.png").exists()
