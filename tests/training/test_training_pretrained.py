"""Re-identification networks to start from: what a file has, what of it was trained."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ps_jax.porting.reid_networks import osnet_rules
from ps_jax.porting.rules import restore_tensors
from ps_jax.porting.trunks import resnet_rules
from ps_jax.systems import RDLRSystem
from ps_jax.training.phases import Phase
from ps_jax.training.pretrained import Pretrained, ReidStart, load_reid_start, trained_before
from ps_jax.training.state import TrainState

PEOPLE = "0badcafe"


def _start(tmp_path, trunk, rules, **more):
    """What is loaded from a file that has a system's trunk under the names of `rules`, and more."""
    system = RDLRSystem({"num_identities": 5, "reid_trunk": trunk, "crop_size": (64, 32)})
    template = system.reid_network(system.template)
    filled = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32),
        {name: {"backbone": tree["backbone"]} for name, tree in template.items()},
    )
    path = tmp_path / "weights.npz"
    np.savez(path, **restore_tensors(filled, rules), **more)
    return load_reid_start(ConfigDict({"reid_weights": str(path)}), system, PEOPLE)


def test_osnet_was_trained_but_brings_no_classifier(tmp_path):
    start = _start(tmp_path, "osnet_x0_25", [rule for rule in osnet_rules("backbone/") if rule.ours])
    assert set(start.network["params"]) == {"backbone"} and start.trained == {"reid": ""}


@pytest.mark.parametrize("classes", [5, 7])
def test_reid_baseline_brings_a_classifier_of_as_many_people(tmp_path, classes):
    neck = {
        f"bottleneck.{name}": np.ones(2048, np.float32)
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    classifier = {"classifier.weight": np.zeros((classes, 2048), np.float32)}
    start = _start(tmp_path, "resnet50", resnet_rules("base.", "backbone/"), **neck, **classifier)
    assert start.trained == {"reid": ""} | ({"classifier": PEOPLE} if classes == 5 else {})
    assert ("classifier" in start.network["params"]) == (classes == 5)


def test_a_trunk_alone_is_no_trained_network(tmp_path):
    start = _start(tmp_path, "resnet50", resnet_rules("", "backbone/"))
    assert set(start.network["params"]) == {"backbone"} and not start.trained


def test_a_network_that_is_replaced_leaves_nothing_behind():
    """OSNet's files have no bottleneck: that of the network before belongs to another trunk."""

    def variables(value):
        network = {part: {"scale": jnp.full(2, value)} for part in ("backbone", "bottleneck")}
        return {"params": {"detector": {"kernel": jnp.full(3, value)}, "reid": network}, "memory": {}}

    system = RDLRSystem({"num_identities": 1})
    phase = SimpleNamespace(
        name="refine",
        system=system,
        _fresh_variables=lambda: variables(0.0),
        _first_state=lambda variables: TrainState(
            step=0, opt_state={}, rng=jax.random.key(0), batch_stats={}, **variables
        ),
    )
    before = Pretrained("another run", system, variables(1.0), None, dict.fromkeys(system.trains, PEOPLE))
    file = ReidStart({"params": {"backbone": {"scale": jnp.full(2, 2.0)}}}, {"reid": ""})
    params = Phase.start(phase, "", before, file).params
    values = (params["detector"]["kernel"], *(params["reid"][x]["scale"] for x in ("backbone", "bottleneck")))
    assert [float(value[0]) for value in values] == [1, 2, 0]
    old = Pretrained("", system, {}, None, {"detector": "a", "reid": "a", "classifier": "a"})
    assert trained_before(old, file) == {"detector": "a", "reid": ""}
