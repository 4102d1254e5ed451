"""AlignPS and AlignPS+ against the authors' own code, whole model: evaluation stage by stage, one training step.

The files hold what the network takes, channels in the order blue, green, red; ours takes them the other way round.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden_recipe import Golden, load_golden
from spnet_cases import padded_scenes

from ps_jax.interface import People
from ps_jax.porting.alignps import LOOKUP_TABLE, QUEUE, TRUNK_OFFSET, alignps_rules, port_alignps
from ps_jax.porting.rules import match_rules
from ps_jax.systems import build_system

TRUNK, MODEL, LOSS = 1e-4, 1e-3, 1e-4
# What sets the release's training on the two data sets apart.
RELEASED = {"extra_levels": True, "released_memory": True}
PRW = {"oim_scale": 15.0, "normalise_table": True, "triplet": "none"}


def system_of(golden: Golden, **options):
    shapes = dict(golden.meta["params"])
    return build_system(
        "alignps",
        {
            "num_identities": shapes[LOOKUP_TABLE][0],
            "queue_size": shapes[QUEUE][0],
            "deformable_stages": (2, 3, 4) if TRUNK_OFFSET.format(2) in shapes else (),
            **options,
        },
    )


def _scenes(golden, *names):
    return padded_scenes([golden.input(name)[::-1] for name in names])


def _seen(collections) -> dict:
    return {name: value[0] for name, value in collections["intermediates"].items()}


def _channels_first(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("item", ["alignps_cuhk_eval", "alignps_plus_eval"])
def test_evaluation(golden_dir, item):
    golden = load_golden(golden_dir, item)
    system = system_of(golden)
    variables = port_alignps(golden.params(), system)
    scenes = _scenes(golden, "image")
    found, collections = jax.jit(
        lambda variables: system.module.apply(variables, scenes, method="detect", mutable=["intermediates"])
    )(variables)
    seen = _seen(collections)
    for name in ("c2", "c3", "c4", "c5"):
        golden.check(name, seen[name], relative=TRUNK)
    golden.check("neck0", seen["p3"], relative=TRUNK)
    output = seen["output3"]
    golden.check("head_cls0", output.logit[..., None], relative=MODEL)
    golden.check("head_reg0", 8 * output.distances, relative=MODEL)
    golden.check("head_ctr0", output.centerness[..., None], relative=MODEL)
    golden.check("head_reid0", output.embedding, relative=MODEL)
    _check_found(golden, jax.tree.map(lambda x: np.asarray(x[0]), found))


def _check_found(golden, found):
    valid, stored = found.valid, golden.array("det_boxes")
    assert valid.sum() == len(stored)
    ours = np.concatenate([found.box, found.score[:, None]], axis=1)[valid]
    distance = np.abs(ours[None] - stored[:, None]).max(-1)
    place = distance.argmin(1)
    assert len(set(place)) == len(stored)
    assert distance.min(1).max() <= MODEL * np.abs(stored[:, :4]).max()
    golden.check("det_boxes", ours[place], relative=MODEL, layout=None)
    np.testing.assert_allclose(ours[place, 4], stored[:, 4], rtol=0, atol=MODEL * stored[:, 4].max())
    golden.check("det_reid", found.embedding[valid][place], relative=MODEL, layout=None)
    assert np.all(np.diff(found.score[valid]) <= 0)


def _people(golden, count, spare_slots=1):
    slots = max(len(golden.array(f"boxes{i}")) for i in range(count)) + spare_slots
    box = np.zeros((count, slots, 4), np.float32)
    identity = np.full((count, slots), -1, np.int32)
    valid = np.zeros((count, slots), bool)
    for i in range(count):
        n = len(golden.array(f"ids{i}"))
        box[i, :n], identity[i, :n], valid[i, :n] = golden.array(f"boxes{i}"), golden.array(f"ids{i}"), True
    person = np.where(identity >= 0, identity, 100_000 + np.arange(identity.size).reshape(identity.shape))
    return People(*map(jnp.asarray, (box, identity, person.astype(np.int32), valid)))


def _training_batch(golden):
    count = sum(name.startswith("image") for name in golden.meta["inputs"])
    return _scenes(golden, *(f"image{i}" for i in range(count))), _people(golden, count)


@pytest.mark.slow
@pytest.mark.parametrize(("item", "options"), [("alignps_cuhk_train", {}), ("alignps_prw_train", PRW)])
def test_training(golden_dir, item, options):
    golden = load_golden(golden_dir, item)
    system = system_of(golden, **RELEASED, **options)
    variables = port_alignps(golden.params(), system)
    scenes, people = _training_batch(golden)
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    def total(params, rest):
        terms, changed = system.module.apply(
            {"params": params, **rest},
            *(scenes, people),
            method="losses",
            mutable=["batch_stats", "memory", "intermediates"],
        )
        return sum(terms.values()), (terms, changed)

    gradients, (terms, changed) = jax.jit(jax.grad(total, has_aux=True))(variables["params"], rest)
    seen = _seen(changed)
    for index in range(5):
        golden.check(f"neck{index}", seen[f"p{index + 3}"], relative=TRUNK)
    _check_targets(golden, seen, people)
    names = {"cls": "classification", "bbox": "regression", "centerness": "centerness", "oim": "reid"}
    if "loss_tri" in golden.meta["losses"]:
        names["tri"] = "triplet"
    assert set(terms) == set(names.values()) and len(names) == len(golden.meta["losses"])
    for name, ours in names.items():
        stored = golden.meta["losses"][f"loss_{name}"]
        np.testing.assert_allclose(terms[ours], stored, rtol=LOSS, err_msg=name)
    _check_memory(golden, variables["memory"], changed["memory"])
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])
    check_gradients(golden, system, alignps_rules(system), gradients)


def _check_targets(golden, seen, people):
    """The locations of P3 come first in the file, scene by scene; those of the other levels are all background."""
    matched = np.asarray(seen["matched3"])
    label = golden.array("target_labels")
    np.testing.assert_array_equal(matched.ravel() >= 0, label[: matched.size] == 0)
    assert np.all(label[matched.size :] == 1)
    identity = np.take_along_axis(np.asarray(people.identity), np.maximum(matched, 0), axis=1)
    identity = np.where(matched >= 0, identity, -2).ravel()
    np.testing.assert_array_equal(identity, golden.array("target_ids")[: matched.size])
    positives = seen["positives"]
    valid = np.asarray(positives.valid)
    stored = golden.array("target_boxes")[: matched.size][matched.ravel() >= 0]
    np.testing.assert_allclose(np.asarray(positives.target)[valid], stored, rtol=0, atol=1e-5)


def _check_memory(golden, before, after):
    """The rows of lookup table and queue that the step wrote, and where the queue goes on."""
    assert after["queue_header"] == golden.meta["tail_after"]
    for ours, theirs in (("lookup_table", "lut"), ("queue", "queue")):
        (rows,) = np.nonzero(np.any(np.asarray(before[ours]) != np.asarray(after[ours]), axis=1))
        np.testing.assert_array_equal(rows, golden.array(f"{theirs}_changed_rows"))
        golden.check(f"{theirs}_changed_values", after[ours][rows], relative=MODEL, layout=None)


def check_gradients(golden, system, rules, gradients):
    """Norms of all gradients of what the release trains, and the direction of those that are stored."""
    flat = traverse_util.flatten_dict(gradients, sep="/")
    trained = traverse_util.flatten_dict(system.trainable(gradients), sep="/")
    stored = golden.meta["grad_l2"]
    compared = 0
    for name, rule in match_rules(stored, rules).items():
        if rule.ours is None:
            continue
        path = rule.ours.removeprefix("params/")
        assert trained[path], name
        np.testing.assert_allclose(
            np.linalg.norm(flat[path]), stored[name], rtol=1e-2, atol=1e-5, err_msg=name
        )
        compared += 1
    assert compared == sum(trained.values())
    for name in (name for name in golden.names if name.startswith("grad:")):
        (rule,) = match_rules([name.removeprefix("grad:")], rules).values()
        value = np.asarray(flat[rule.ours.removeprefix("params/")])
        layout = {4: "OIHW", 2: "OI"}.get(value.ndim)
        golden.check(name, value, relative=1e-2, layout=layout)
