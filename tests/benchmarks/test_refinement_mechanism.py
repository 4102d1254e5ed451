"""The mechanism of RDLR's refinement: boxes get better by the losses of re-identification, more than by the control."""

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


@pytest.mark.slow
def test_the_losses_of_reidentification_mend_boxes_more_than_classification_does(tmp_path, monkeypatch):
    kept = {name: refinement_mechanism.VARIANTS[name] for name in ("classification alone", "both")}
    monkeypatch.setattr(refinement_mechanism, "VARIANTS", kept)
    found = refinement_mechanism.main(
        ["--dir", str(tmp_path / "scenes"), "--out", str(tmp_path / "boxes.png")]
    )
    assert found["true boxes"].iou == 1 and found["true boxes"].found == 1
    before, control, both = (found[name] for name in ("before", "classification alone", "both"))
    assert both.softmax < before.softmax and both.triplet < before.triplet
    assert both.iou > before.iou and both.iou > control.iou
    assert (tmp_path / "boxes.png").exists()
