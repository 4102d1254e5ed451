from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_roi_alignps import MUTUAL, both_branches_learn
from tiny_spnet import batch

from benchmarks.embedding_map import embed_people
from configs import roi_alignps
from ps_jax.backbones import ResNet
from ps_jax.errors import ConfigError
from ps_jax.interface import Batch, Scenes
from ps_jax.systems import alignps, build_system
from ps_jax.systems._roi_alignps_mutual import BranchTables, mutual_terms, random_pairing
from ps_jax.training.phases import model_arguments

LOCATION_TERMS = {"classification", "regression", "centerness", "reid", "triplet"}
BOX_TERMS = {"box_classification", "box_regression", "box_reid"}
PROPOSAL_TERMS = {"proposal_classification", "proposal_regression"}
MUTUAL_TERMS = {"mutual_information", "divergence", "cosine"}
ALONE = {"branch": "roi", "location_reid": False, "mutual_information_weight": 0.0}


def stepper(system, scenes, people):
    """Variables, and a function of them, scenes and people: terms, gradient and what changed of one step."""
    variables = jax.jit(system.init)(jax.random.key(0), scenes, people)

    @jax.jit
    def step(variables, scenes, people):
        def total(params):
            terms, changed = system.losses({**variables, "params": params}, scenes, people, jax.random.key(1))
            return sum(terms.values()), (terms, changed)

        gradient, (terms, changed) = jax.grad(total, has_aux=True)(variables["params"])
        return terms, gradient, changed

    return variables, step


@pytest.mark.slow
def test_a_step_trains_every_part_and_fills_both_memories(tiny_roi_alignps):
    scenes, people = batch((2, 3), seed=2)
    variables, step = stepper(tiny_roi_alignps(**MUTUAL), scenes, people)
    terms, gradient, changed = step(variables, scenes, people)
    assert set(terms) == LOCATION_TERMS | BOX_TERMS | PROPOSAL_TERMS | MUTUAL_TERMS
    np.testing.assert_allclose(terms["proposal_classification"], np.log(2), rtol=0.02)
    # Empty rows count as zeros: every column of table and queue has the same probability.
    np.testing.assert_allclose(terms["box_reid"], np.log(6 + 40), rtol=1e-5)
    assert terms["divergence"] == 0  # of two uniform distributions
    assert -0.3 <= terms["cosine"] <= 0.3
    for part, tree in gradient.items():
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)), part
        assert any(np.any(leaf) for leaf in jax.tree.leaves(tree)), part
    memory = changed["memory"]
    known = np.unique(people.identity[people.valid & (people.identity >= 0)])
    for table in (memory["lookup_table"], memory["box_table"]):
        np.testing.assert_array_equal(np.any(table != 0, axis=1), np.isin(np.arange(6), known))
    np.testing.assert_allclose(np.linalg.norm(memory["box_table"][known], axis=1), 1, rtol=1e-5)
    for name in ("queue", "box_queue"):
        assert memory[f"{name}_header"] == np.any(memory[name] != 0, axis=1).sum() > 0
    again = step({**variables, **changed}, scenes, people)[0]  # now the tables tell people apart
    assert again["divergence"] > 0


@pytest.mark.slow
def test_a_batch_without_known_people_or_anybody_has_finite_losses(tiny_roi_alignps):
    """Also with a single known person, of whom the bound says nothing."""
    scenes, people = batch((2, 0))
    system = tiny_roi_alignps(**MUTUAL)
    variables, step = stepper(system, scenes, people)
    variables = {**variables, **step(variables, scenes, people)[2]}
    unknown = people._replace(identity=jnp.full_like(people.identity, -1))
    single = unknown._replace(identity=unknown.identity.at[0, 0].set(3))
    nobody = unknown._replace(valid=jnp.zeros_like(people.valid))
    for who, none in (
        (single, {"mutual_information"}),
        (unknown, MUTUAL_TERMS | {"reid", "triplet", "box_reid"}),
        (nobody, MUTUAL_TERMS | {"reid", "triplet", "regression", "box_reid", "box_regression"}),
    ):
        terms, gradient, changed = step(variables, scenes, who)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((terms, gradient, changed)))
        assert all(terms[name] == 0 for name in none)
    assert terms["classification"] > 0 and terms["box_classification"] > 0
    for name in ("queue_header", "box_queue_header"):
        assert changed["memory"][name] == variables["memory"][name]


@pytest.mark.slow
def test_what_fills_a_picture_and_its_slots_up_changes_nothing(tiny_roi_alignps):
    """Neither pixels beyond a scene nor slots beyond its people; maps padded further: see test_anchor_free.py.

    All boxes are trained on, whatever their order.
    """
    scenes, people = batch((2, 3), seed=2)
    scenes = Scenes(scenes.image, jnp.array([[64, 40], [48, 64]]))
    system = tiny_roi_alignps(train_boxes="detections", samples_per_image=64, **MUTUAL)
    variables, step = stepper(system, scenes, people)
    terms, _, changed = step(variables, scenes, people)
    rows, columns = jnp.arange(64)[:, None, None], jnp.arange(64)[:, None]
    own = [(rows < height) & (columns < width) for height, width in scenes.size]
    noisy = Scenes(jnp.where(jnp.stack(own), scenes.image, 255 - scenes.image), scenes.size)
    spare = people._replace(
        box=jnp.where(people.valid[..., None], people.box, jnp.array([-5.0, 3.0, 70.0, 3.0])),
        identity=jnp.where(people.valid, people.identity, 1),
    )
    terms_, _, changed_ = step(variables, noisy, spare)
    for name, value in terms.items():
        np.testing.assert_allclose(terms_[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), changed, changed_)


def test_mutual_terms_of_two_people_by_hand(tiny_roi_alignps):
    """Person 0 is at 90 degrees in the two branches, person 2 at 0 degrees; person 1 is in one branch alone."""
    seen = {}

    def pairing(key, count, slots):
        seen.update(count=count, slots=slots)
        return both_branches_learn(key, count, slots)

    system = tiny_roi_alignps(
        width=2, num_identities=3, oim_scale=1.0, box_oim_scale=2.0, **MUTUAL | {"pairing": pairing}
    )
    x, y = jnp.array([3.0, 0.0]), jnp.array([0.0, 2.0])
    boxes = (jnp.stack([x, y, x]), jnp.array([0, 2, -1]), jnp.array([True, True, True]))
    locations = (jnp.stack([y, y, y, x]), jnp.array([0, 2, 2, 1]), jnp.array([True, True, True, True]))
    tables = BranchTables(jnp.array([[1.0, 0], [0, 0], [0, 1]]), jnp.array([[0, 1.0], [1, 0], [0, 0]]))
    # An estimator that says the first component of the box's embedding plus the second one's of the location.
    params = {
        "mutual_hidden": {"kernel": jnp.array([[1.0, 0], [0, 0], [0, 0], [0, 1.0]]), "bias": jnp.zeros(2)},
        "mutual_output": {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)},
    }

    found, _ = system.module.apply(
        {"params": params},
        method=lambda module: mutual_terms(module, jax.random.key(0), boxes, locations, tables, slots=4),
        mutable=["memory"],
    )
    assert (seen["count"], seen["slots"]) == (2, 3)
    # Estimates: person 0: 1 + 1, person 2: 0 + 1; with the other's location: the same.
    bound = 1.5 - np.log((np.e**2 + np.e) / 2)
    np.testing.assert_allclose(found["mutual_information"], -0.2 * bound, rtol=1e-5)
    np.testing.assert_allclose(found["cosine"], 0.3 * (0 + 1) / 2, rtol=1e-5)

    def divergence(p, q):
        p, q = (np.exp(row) / np.exp(row).sum() for row in (np.array(p), np.array(q)))
        return (p * np.log(p / q)).sum()

    both = [divergence([1, 0, 0], [2, 0, 0]), divergence([1, 0, 0], [0, 0, 2])]
    np.testing.assert_allclose(found["divergence"], 0.5 * np.mean(both), rtol=1e-5)


def test_two_of_three_steps_train_the_estimator_alone(tiny_roi_alignps):
    keys = jax.random.split(jax.random.key(3), 3000)
    alone, partner = jax.vmap(lambda key: random_pairing(key, jnp.asarray(4), 6))(keys)
    np.testing.assert_allclose(jnp.mean(alone), 2 / 3, atol=0.03)
    np.testing.assert_allclose(np.bincount(np.ravel(partner), minlength=4) / partner.size, 0.25, atol=0.02)
    assert jnp.all(random_pairing(keys[0], jnp.asarray(0), 6)[1] == 0)
    rows = (jax.random.normal(keys[0], (4, 32)), jnp.arange(4), jnp.ones(4, bool))
    tables = BranchTables(jnp.zeros((6, 32)), jnp.zeros((6, 32)))
    for alone in (True, False):
        system = tiny_roi_alignps(
            pairing=lambda key, count, slots, alone=alone: (
                jnp.asarray(alone),
                (jnp.arange(slots) + 1) % count,
            )
        )
        params = {
            name: jax.tree.map(lambda x: jax.random.normal(keys[1], x.shape), system.template["params"][name])
            for name in ("mutual_hidden", "mutual_output")
        }

        def term(params, embedding, system=system):
            located = (embedding, *rows[1:])
            found, _ = system.module.apply(
                {"params": params},
                method=lambda module: mutual_terms(module, keys[2], rows, located, tables, slots=4),
                mutable=["memory"],
            )
            return found["mutual_information"]

        of_params, of_embedding = jax.grad(term, argnums=(0, 1))(params, 1 + rows[0])
        assert np.any(of_params["mutual_hidden"]["kernel"])
        assert np.any(of_embedding) == (not alone)


@pytest.mark.slow
def test_a_box_branch_without_proposals_and_a_location_branch_that_only_detects(tiny_roi_alignps):
    """The structures of table VI."""
    scenes, people = batch((2, 3), seed=2)
    system = tiny_roi_alignps(train_boxes="detections", **ALONE)
    assert "rpn" not in system.template["params"]
    variables, step = stepper(system, scenes, people)
    terms, gradient, changed = step(variables, scenes, people)
    assert set(terms) == BOX_TERMS | (LOCATION_TERMS - {"reid", "triplet"})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((terms, gradient)))
    assert terms["box_classification"] > 0 and terms["box_regression"] > 0
    assert not np.any(changed["memory"]["lookup_table"]) and np.any(changed["memory"]["box_table"])


@pytest.mark.slow
@pytest.mark.parametrize("branch", ["both", "alignps", "roi"])
def test_a_scene_is_found_alike_in_any_batch_with_each_branchs_embeddings(tiny_roi_alignps, branch):
    scenes, people = batch((2, 3, 1))
    system = tiny_roi_alignps(branch=branch)
    variables = jax.jit(system.init)(jax.random.key(0), scenes, people)
    leaves, structure = jax.tree.flatten(variables["params"])
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    variables = {**variables, "params": jax.tree.unflatten(structure, noise)}
    detect = jax.jit(system.detect)
    together = detect(variables, scenes)
    assert together.valid.sum() > 3 and together.embedding.shape[-1] == (64 if branch == "both" else 32)
    assert system.branches == together.embedding.shape[-1] // 32
    for row in range(3):
        alone = detect(variables, jax.tree.map(lambda x, row=row: x[row : row + 1], scenes))
        np.testing.assert_array_equal(alone.valid[0], together.valid[row])
        for name in ("box", "score", "embedding"):
            np.testing.assert_allclose(
                getattr(alone, name)[0], getattr(together, name)[row], rtol=1e-3, atol=1e-4
            )
    embedded = jax.jit(system.embed)(variables, scenes, together.box)
    roi = together.embedding.shape[-1] - 32
    if branch != "alignps":  # the box branch embeds a detection and the same box alike
        np.testing.assert_allclose(
            embedded[together.valid][:, roi:],
            together.embedding[together.valid][:, roi:],
            rtol=1e-3,
            atol=1e-4,
        )


@pytest.mark.slow
def test_the_map_of_embeddings_shows_both_branches(tiny_roi_alignps):
    scenes, people = batch((2, 3), seed=2)
    system = tiny_roi_alignps()
    variables = jax.jit(system.init)(jax.random.key(0), scenes, people)
    label = int(people.identity[0, 0])
    assert label >= 0
    split = SimpleNamespace(labels={17: label})
    batches = [Batch(scenes, people, np.arange(2))]
    embedded = embed_people(system, variables, iter(batches), split, [17])
    boxes = np.argwhere(np.asarray(people.valid & (people.identity == label)))
    assert embedded.identity.tolist() == [17] * len(boxes)
    assert embedded.embedding.shape == (len(boxes), 2, 32)
    whole = np.asarray(system.embed(variables, scenes, people.box))
    for (scene, slot), branches in zip(boxes, embedded.embedding, strict=True):
        for branch, row in enumerate(whole[scene, slot].reshape(2, 32)):
            np.testing.assert_allclose(branches[branch], row / np.linalg.norm(row), rtol=1e-4, atol=1e-5)
        assert np.abs(branches[0] - branches[1]).max() > 0.01


def test_contradicting_options_are_refused(tiny_roi_alignps):
    cases = {
        "branch is 'A'. Use one of: both, alignps, roi": {"branch": "A"},
        "train_boxes is 'rpn'. Use one of: proposals, detections": {"train_boxes": "rpn"},
        "location_reid is False: .* Set branch to 'roi'": {"location_reid": False},
        "and mutual_information_weight, .* to 0": {"location_reid": False, "branch": "roi"},
    }
    for message, options in cases.items():
        with pytest.raises(ConfigError, match=message):
            tiny_roi_alignps(**options).template  # noqa: B018


@pytest.mark.slow
def test_the_box_branch_starts_with_the_trunks_last_stage(monkeypatch):
    def small(name, **options):
        return ResNet(depths=(1, 1, 1, 1), stride_in_first=name == "resnet50_caffe", **options)

    monkeypatch.setattr(alignps, "build_trunk", small)
    system = build_system("roi_alignps", {"num_identities": 3, "queue_size": 4})
    scenes, people = batch((2,))
    variables = jax.jit(lambda: system.init(jax.random.key(0), scenes, people))()
    for name in ("params", "batch_stats"):
        jax.tree.map(
            np.testing.assert_array_equal,
            variables[name]["reid_head"]["last_stage"],
            variables[name]["backbone"]["stage4"],
        )
    trunk = jax.tree.map(lambda leaf: leaf + 1, system.trunk(variables))
    changed = system.with_trunk(variables, trunk)
    jax.tree.map(
        np.testing.assert_array_equal,
        changed["params"]["reid_head"]["last_stage"],
        trunk["params"]["stage4"],
    )
    assert jax.tree.structure(changed) == jax.tree.structure(variables)
    trained = system.trainable(variables["params"])
    block = trained["reid_head"]["last_stage"]["block0"]
    assert block["conv1"]["kernel"] and not any(jax.tree.leaves(block["norm1"]))
    assert trained["backbone"]["stage4"] == trained["reid_head"]["last_stage"]


@pytest.mark.slow
def test_a_step_of_the_configuration_for_two_cores_trains_both_copies_of_the_last_stage():
    config = roi_alignps.get_config("streets")
    config.model.unlock().update({"divergence_weight": 0.2, "cosine_weight": 0.2})
    system = build_system(config.system, model_arguments(config, "train", num_identities=6))
    scenes, people = batch((2, 3), seed=2)
    variables, step = stepper(system, scenes, people)
    terms, gradient, changed = step(variables, scenes, people)
    assert set(terms) == LOCATION_TERMS | BOX_TERMS | PROPOSAL_TERMS | MUTUAL_TERMS
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((terms, gradient, changed)))
    stages = gradient["backbone"]["stage4"], gradient["reid_head"]["last_stage"]
    assert jax.tree.structure(stages[0]) == jax.tree.structure(stages[1])
    for stage in stages:
        assert all(np.any(leaf) for leaf in jax.tree.leaves(stage))
