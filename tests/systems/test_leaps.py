import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from tiny_leaps import OPTIONS
from tiny_spnet import batch, tiny_trunk

from ps_jax.boxes import pairwise_iou
from ps_jax.errors import ConfigError
from ps_jax.systems import build_system, leaps

TERMS = {"classification", "l1", "giou", "reid", "triplet", "diversity"}


def spread(variables, seed=1):
    """Variables whose proposals differ, near the people that `batch` makes."""
    params = dict(variables["params"])
    rng = np.random.default_rng(seed)
    count = params["proposal_boxes"].shape[0]
    centre, side = rng.uniform(0.25, 0.75, (count, 2)), rng.uniform(0.3, 0.5, (count, 2))
    params["proposal_boxes"] = jnp.asarray(np.concatenate([centre, side], axis=-1), jnp.float32)
    return {**variables, "params": params}


def stepper(system, scenes):
    """A function of variables and people: terms, gradient and what changed of one step."""

    @jax.jit
    def step(variables, people):
        def total(params):
            terms, changed = system.losses({**variables, "params": params}, scenes, people, jax.random.key(1))
            return sum(terms.values()), (terms, changed)

        gradient, (terms, changed) = jax.grad(total, has_aux=True)(variables["params"])
        return terms, gradient, changed

    return step


@pytest.fixture(scope="module")
def case():
    """People, variables and a step, compiled once for all tests."""
    scenes, people = batch((2, 3), seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaps, "build_trunk", tiny_trunk)
        system = build_system("leaps", OPTIONS | {"triplet": True, "match_threshold": 0.2})
        variables = spread(system.init(jax.random.key(0), scenes, people))
        step = stepper(system, scenes)
        step(variables, people)
    return people, variables, step


def test_a_step_trains_every_part_and_fills_the_memory(case):
    people, variables, step = case
    terms, gradient, changed = step(variables, people)
    assert set(terms) == TERMS and min(terms.values()) > 0
    for part, tree in gradient.items():
        for path, leaf in traverse_util.flatten_dict({part: tree}, sep="/").items():
            assert np.isfinite(leaf).all(), path
            assert np.any(leaf) or path.endswith("qkv/bias"), path  # keys' biases change nothing
    memory = changed["memory"]
    known = np.unique(people.identity[people.valid & (people.identity >= 0)])
    for table in np.asarray(memory["lookup_table"]):
        np.testing.assert_array_equal(np.any(table != 0, axis=1), np.isin(np.arange(6), known))
    assert np.any(memory["lookup_table"][0] != memory["lookup_table"][1])
    # At most one slot of the queue for every unknown person and stage.
    unknown = np.sum(people.valid & (people.identity < 0))
    assert 0 < memory["queue_header"] <= 2 * unknown
    assert np.any(memory["queue"] != 0, axis=(0, 2)).sum() == memory["queue_header"]


def test_what_stands_in_slots_without_people_changes_nothing(case):
    people, variables, step = case
    assert not people.valid.all()
    box = jnp.where(people.valid[..., None], people.box, jnp.array([5.0, 5.0, 40.0, 50.0]))
    filled = people._replace(
        box=box,
        identity=jnp.where(people.valid, people.identity, 3),
        person=jnp.where(people.valid, people.person, 3),
    )
    jax.tree.map(np.testing.assert_array_equal, step(variables, people), step(variables, filled))
    # Nor does it matter which slots they are, but for the order in which the memory takes them.
    turned = jax.tree.map(lambda x: jnp.roll(x, 1, axis=1), people)
    for name, term in step(variables, people)[0].items():
        np.testing.assert_allclose(step(variables, turned)[0][name], term, rtol=1e-5, err_msg=name)


def test_a_batch_without_known_people_or_anybody_has_finite_losses(case):
    people, variables, step = case
    unknown = people._replace(identity=jnp.full_like(people.identity, -1))
    terms, gradient, changed = step(variables, unknown)
    assert terms["reid"] == terms["triplet"] == 0 and changed["memory"]["queue_header"] > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    terms, gradient, changed = step(variables, unknown._replace(valid=jnp.zeros_like(people.valid)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((terms, gradient)))
    assert all(terms[name] == 0 for name in TERMS - {"classification"})
    assert terms["classification"] > 0 and changed["memory"]["queue_header"] == 0


@pytest.mark.slow
def test_a_scene_is_found_alike_in_any_batch_and_a_box_is_its_nearest_detection(tiny_leaps):
    scenes, people = batch((2, 3, 1))
    system = tiny_leaps()
    variables = spread(system.init(jax.random.key(0), scenes, people))
    detect = jax.jit(system.detect)
    together = detect(variables, scenes)
    assert together.embedding.shape == (3, 8, 32) and together.valid.sum() > 20
    assert np.all(np.diff(together.score, axis=1) <= 0)
    assert together.box.min() >= 0 and together.box.max() <= 64
    for row in range(3):
        alone = detect(variables, jax.tree.map(lambda x, row=row: x[row : row + 1], scenes))
        for ours, theirs in zip(alone, together, strict=True):
            np.testing.assert_allclose(ours[0], theirs[row], rtol=1e-4, atol=1e-4)
    boxes = jnp.asarray(people.box)
    found = jax.jit(system.embed)(variables, scenes, boxes)
    strict = system.changed(score_threshold=float(together.score[0, 3]))
    fewer = jax.jit(strict.detect)(variables, scenes)
    np.testing.assert_array_equal(fewer.valid, together.score > together.score[0, 3])
    assert not np.any(jnp.where(fewer.valid, 0.0, fewer.score)) and fewer.valid[0].sum() == 3
    for row in range(3):
        nearest = np.argmax(pairwise_iou(boxes[row], together.box[row]), axis=1)
        np.testing.assert_allclose(found[row], together.embedding[row][nearest], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_learned_boxes_can_start_side_by_side(tiny_leaps):
    scenes, people = batch((1,))
    params = tiny_leaps(proposal_start="grid").init(jax.random.key(0), scenes, people)["params"]
    expected = [[(x + 0.5) / 3, (y + 0.5) / 3, 1 / 3, 1 / 3] for y in range(3) for x in range(3)][:8]
    np.testing.assert_allclose(params["proposal_boxes"], expected, rtol=1e-6)


def test_learned_boxes_are_parts_of_each_scenes_own_size(tiny_leaps):
    scenes, people = batch((1, 1))
    system = tiny_leaps()
    variables = system.init(jax.random.key(0), scenes, people)
    scenes = system.normalise(scenes._replace(size=jnp.array([[64, 64], [40, 56]])))

    def first_boxes(module, scenes):
        return module.run_stages(module.levels(scenes, train=False), scenes.size)[0].box

    box = jax.jit(lambda scenes: system.module.apply(variables, scenes, method=first_boxes))(scenes)
    np.testing.assert_allclose(box[0, 0], [0, 0, 64, 64])
    np.testing.assert_allclose(box[1, 5], [0, 0, 56, 40])


def test_computing_in_bfloat16_leaves_variables_and_results_in_float32(tiny_leaps):
    scenes, people = batch((2, 3))
    half = tiny_leaps(dtype=jnp.bfloat16)
    assert jax.tree.map(lambda x: x.dtype, half.template) == jax.tree.map(
        lambda x: x.dtype, tiny_leaps().template
    )
    found = jax.eval_shape(half.detect, half.template, scenes)
    assert {x.dtype.name for x in found} == {"float32", "bool"}
    terms, _ = jax.eval_shape(half.losses, half.template, scenes, people, jax.random.key(0))
    assert {x.dtype.name for x in terms.values()} == {"float32"}


VARIANTS = [
    {"branches": ("plain",), "sample_matching": "one_to_one", "roi_align": "plain"},
    {"branches": ("interaction", "interaction"), "intra": False, "roi_align": "deformable"},
    {"inter": False, "reid_boxes": "refined", "reid_features": "attended"},
    {"reid_stages": 1, "reid_features": "output", "centre_over_proposals": True, "diversity_weight": 0.0},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", VARIANTS)
def test_variants_of_the_tables_are_trained_and_find(tiny_leaps, options):
    scenes, people = batch((2, 3), seed=2)
    system = tiny_leaps(match_threshold=0.2, **options)
    variables = spread(system.init(jax.random.key(0), scenes, people))
    terms, gradient, changed = stepper(system, scenes)(variables, people)
    diverse = len(system.module.branches) == 2 and system.module.diversity_weight
    assert set(terms) == TERMS - {"triplet"} - (set() if diverse else {"diversity"})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((terms, gradient)))
    assert np.any(changed["memory"]["lookup_table"])
    found = jax.jit(system.detect)(variables, scenes)
    assert found.valid.any() and np.isfinite(found.embedding).all()
    if options.get("centre_over_proposals"):
        np.testing.assert_allclose(jnp.mean(found.embedding, axis=1), 0, atol=1e-5)


@pytest.mark.slow
def test_heads_of_another_build_start_anew(tiny_leaps):
    """A detector with one plain branch goes on as the whole model; one like it keeps its heads."""
    scenes, people = batch((1,))
    detector = tiny_leaps(branches=("plain",), roi_align="plain", reid_stages=1, num_identities=1)
    system = tiny_leaps()
    trained = detector.init(jax.random.key(1), scenes, people)
    fresh = system.init(jax.random.key(2), scenes, people)
    begun = system.transfer(trained, fresh)
    for name, tree in begun["params"].items():
        source = fresh if name.startswith("reid_head") else trained
        jax.tree.map(np.testing.assert_array_equal, tree, source["params"][name])
    assert set(begun["params"]) == set(fresh["params"]) and "reid_head_1" in begun["params"]
    assert begun["memory"] is fresh["memory"]
    again = system.transfer(system.init(jax.random.key(3), scenes, people), fresh)
    kept = again["params"]["reid_head_0"]["branch0"]["hidden"]["kernel"]
    assert np.any(kept != fresh["params"]["reid_head_0"]["branch0"]["hidden"]["kernel"])


def test_contradicting_options_are_refused(tiny_leaps):
    cases = {
        "reid_boxes is 'output'. Use one of: input, refined": {"reid_boxes": "output"},
        "reid_features is 'none'. Use one of: input, attended, output": {"reid_features": "none"},
        "roi_align is 'static'. Use one of: dynamic, deformable, plain": {"roi_align": "static"},
        "sample_matching is 'all'. Use one of: weighted, diverse, one_to_one": {"sample_matching": "all"},
        "proposal_start is 'random'. Use one of: image, grid": {"proposal_start": "random"},
        r"branches are \('prm',\). Use some of: plain, interaction": {"branches": ("prm",)},
        "reid_stages is 3. Use 1 to 2": {"reid_stages": 3},
        "heads is 3. Use a divisor of width, which is 16": {"heads": 3},
        "match_threshold is 1.0. Use an overlap from 0 to less than 1": {"match_threshold": 1.0},
    }
    for message, options in cases.items():
        with pytest.raises(ConfigError, match=message):
            tiny_leaps(**options).template  # noqa: B018
    scenes, people = batch((2,), slots=9)
    system = tiny_leaps()
    with pytest.raises(ConfigError, match="9 slots for people, but 8 proposals"):
        jax.eval_shape(lambda: system.losses(system.template, scenes, people, jax.random.key(0)))


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_the_papers_model_has_its_size_and_trains_all_but_the_first_stages():
    system = build_system("leaps", {"num_identities": 483})
    params = system.template["params"]
    assert count(params) == 135_323_570
    parts = {name: count(tree) for name, tree in params.items()}
    assert (parts["backbone"], parts["fpn"]) == (23_508_032, 2_098_432)
    assert [parts[f"stage_{s}"] for s in range(6)] == [13_215_109] * 6
    assert [parts[f"reid_head_{s}"] for s in range(2)] == [15_200_226] * 2
    trained = traverse_util.flatten_dict(system.trainable(params), sep="/")
    kept = {"/".join(path.split("/")[:2]) for path, value in trained.items() if not value}
    assert kept == {"backbone/stem_conv", "backbone/stem_norm", "backbone/stage1"}
    assert trained["backbone/stage2/block0/norm1/scale"]
    memory = {name: leaf.shape for name, leaf in system.template["memory"].items()}
    assert memory == {"lookup_table": (2, 483, 256), "queue": (2, 500, 256), "queue_header": ()}
    with_pvt = build_system("leaps", {"num_identities": 483, "trunk": "pvt_v2_b2", "frozen_stages": -1})
    assert count(with_pvt.template["params"]) == 135_993_650
    assert all(jax.tree.leaves(with_pvt.trainable(with_pvt.template["params"])))
