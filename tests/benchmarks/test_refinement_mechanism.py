"""The mechanism of RDLR's refinement: boxes get better by the losses of re-identification, more than by the control."""

import os
from pathlib import Path

import jax.numpy as jnp
import pytest

from benchmarks import refinement_mechanism
from ps_jax.systems import RDLRSystem


def test_each_variant_is_trained_by_the_terms_it_is_named_after(monkeypatch):
    names = ("classification", "proposal_classification", "softmax", "proxy_triplet")
    terms = {name: jnp.zeros(()) for name in names}
    monkeypatch.setattr(RDLRSystem, "losses", lambda *_: (terms, {}))
    trained = {
        name: set(system({"num_identities": 1}).losses({}, None, None, None)[0])
        for name, (system, _) in refinement_mechanism.VARIANTS.items()
    }
    reid = {"softmax", "proxy_triplet"}
    assert trained == {
        "classification alone": {"classification"},
        **dict.fromkeys(("softmax", "proxy triplet", "both"), reid),  # as far as the model has them
        "both and classification": set(names),
    }


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.timeout(1800)  # four trainings
def test_the_losses_of_reidentification_mend_boxes_more_than_classification_does(tmp_path, monkeypatch):
    data = os.environ.get("PS_JAX_REAL_DATA")
    if not data:
        pytest.skip("PS_JAX_REAL_DATA is not set")
    folder = Path(data).parent / "weights"
    trunk = folder / "mobilenet_v2_imagenet" / "mobilenet_v2_imagenet.npz"
    network = folder / "osnet_x0_25_msmt17" / "osnet_x0_25_msmt17.onnx"
    for path in (trunk, network):  # from scratch the frozen network knows too little
        if not path.is_file():
            pytest.skip(f"{path} does not exist")
    kept = {name: refinement_mechanism.VARIANTS[name] for name in ("classification alone", "both")}
    monkeypatch.setattr(refinement_mechanism, "VARIANTS", kept)
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
    before, control, both = (found[name] for name in ("before", "classification alone", "both"))
    for worse in (before, control):
        assert both.iou > worse.iou and both.softmax < worse.softmax and both.triplet < worse.triplet
    assert (tmp_path / "boxes.png").exists()
