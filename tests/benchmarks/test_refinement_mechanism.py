"""The mechanism of RDLR's refinement: boxes get better by the losses of re-identification, more than by the control."""

import os
from pathlib import Path

import jax.numpy as jnp
import pytest

from benchmarks import refinement_mechanism
from ps_jax.systems import RDLRSystem


def test_losses_of_reidentification_train_the_layer_that_moves_boxes_and_no_other(monkeypatch):
    names = ("classification", "proposal_classification", "softmax", "proxy_triplet")
    terms = {name: jnp.zeros(()) for name in names}
    layers = {"box_predictor": {"deltas": {"kernel": True}, "classification": {"kernel": True}}}
    layers["rpn"] = {"deltas": {"kernel": False}}  # the proposals are not refined
    monkeypatch.setattr(RDLRSystem, "losses", lambda *_: (terms, {}))
    monkeypatch.setattr(RDLRSystem, "trainable", lambda *_: layers)
    *alone, (whole, *_) = refinement_mechanism.VARIANTS.values()
    for system, *_ in alone:
        mechanism = system({"num_identities": 1})
        assert set(mechanism.losses({}, None, None, None)[0]) == {"softmax", "proxy_triplet"}
        trained = mechanism.trainable({})
        assert trained["box_predictor"] == {"deltas": {"kernel": True}, "classification": {"kernel": False}}
        assert not trained["rpn"]["deltas"]["kernel"]
    assert whole is RDLRSystem


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
    assert (tmp_path / "boxes.png").exists()
