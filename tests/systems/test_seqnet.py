import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_seqnet import NAE
from tiny_spnet import batch

from ps_jax.errors import ConfigError
from ps_jax.interface import People

TERMS = {
    "proposal_classification",
    "proposal_regression",
    "first_classification",
    "first_regression",
    "classification",
    "regression",
    "reid",
}


def _step(system, scenes, people, variables=None):
    """Terms, gradient and what changed of one step."""
    variables = variables or system.init(jax.random.key(0), scenes, people)

    @jax.jit
    def step(params, rest):
        def total(params):
            terms, changed = system.losses({"params": params, **rest}, scenes, people, jax.random.key(1))
            return sum(terms.values()), (terms, changed)

        return jax.grad(total, has_aux=True)(params)

    rest = {name: tree for name, tree in variables.items() if name != "params"}
    gradient, (terms, changed) = step(variables["params"], rest)
    return variables, terms, gradient, changed


def test_a_step_trains_every_part_and_fills_the_memory(tiny_seqnet):
    scenes, people = batch((2, 3))
    system = tiny_seqnet(freeze_stem=False, samples_per_image=16)
    variables, terms, gradient, changed = _step(system, scenes, people)
    assert set(terms) == TERMS
    # The binary cross-entropy of an untrained net starts at log 2.
    np.testing.assert_allclose(terms["proposal_classification"], np.log(2), rtol=0.02)
    assert 0.5 < terms["classification"] < 1.5  # of lengths that are normalised to spread 1
    # Empty rows count as zeros: at first every column of table and queue is as good as another.
    np.testing.assert_allclose(terms["reid"], np.log(6 + 5), rtol=1e-5)
    for part, tree in gradient.items():
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))
        assert 0 < largest < 1e3, part
    table = np.asarray(changed["memory"]["lookup_table"])
    known = np.unique(people.identity[people.valid & (people.identity >= 0)])
    np.testing.assert_allclose(
        np.linalg.norm(table, axis=1), np.isin(np.arange(6), known), rtol=1e-5, atol=1e-7
    )
    assert not np.any(variables["memory"]["lookup_table"]) and changed["memory"]["queue_header"] > 0


VARIANTS = [
    {},
    *(
        pytest.param(options, marks=pytest.mark.slow)
        for options in (NAE, NAE | {"head": "softmax"}, {"head": "seqnext", "first_score": False})
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("options", VARIANTS)
def test_a_batch_without_known_people_or_anybody_has_finite_losses(tiny_seqnet, options):
    """Released code has NaN here: a mean over no rows."""
    scenes, people = batch((2, 0))
    people = People(people.box, jnp.full_like(people.identity, -1), people.person, people.valid)
    _, terms, gradient, changed = _step(tiny_seqnet(**options), scenes, people)
    assert terms["reid"] == 0 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert changed["memory"]["queue_header"] > 0  # unknown people go into the queue
    nobody = people._replace(valid=jnp.zeros_like(people.valid))
    _, terms, gradient, changed = _step(tiny_seqnet(**options), scenes, nobody)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((terms, gradient)))
    assert terms["reid"] == terms["regression"] == 0 and changed["memory"]["queue_header"] == 0


@pytest.mark.slow
def test_tasks_of_the_second_head_can_be_left_out(tiny_seqnet):
    scenes, people = batch((2, 3))
    system = tiny_seqnet(classification=False, regression=False)
    _, terms, gradient, _ = _step(system, scenes, people)
    assert set(terms) == TERMS - {"classification", "regression"}
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["reid_predictor"]["regression"]))


def test_contradicting_options_are_refused(tiny_seqnet):
    cases = {
        "head is 'linear'. Use one of: norm_aware, softmax, seqnext": {"head": "linear"},
        "is the detector: it needs classification and regression": NAE | {"regression": False},
        "leaves no score of its own": {"classification": False, "first_score": False},
        "embed_detections is for a system without a first head": {"embed_detections": True},
    }
    for message, options in cases.items():
        with pytest.raises(ConfigError, match=message):
            tiny_seqnet(**options).template  # noqa: B018


@pytest.fixture
def trained(tiny_seqnet):
    """Variables whose scores and deltas differ from box to box, and a function that detects with them."""
    scenes, people = batch((2, 3, 1))

    def build(**options):
        system = tiny_seqnet(**options)
        variables = system.init(jax.random.key(0), scenes, people)
        leaves, structure = jax.tree.flatten(variables["params"])
        keys = jax.random.split(jax.random.key(1), len(leaves))
        noise = [
            leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)
        ]
        return system, {**variables, "params": jax.tree.unflatten(structure, noise)}

    return build, scenes


def _detect(system, variables, scenes):
    return jax.jit(system.detect)(variables, scenes)


@pytest.mark.parametrize("options", VARIANTS)
def test_a_scene_is_found_alike_in_any_batch(trained, options):
    build, scenes = trained
    system, variables = build(**options)
    together = _detect(system, variables, scenes)
    assert together.valid.sum() > 3
    for row in range(3):
        alone = _detect(system, variables, jax.tree.map(lambda x, row=row: x[row : row + 1], scenes))
        np.testing.assert_array_equal(alone.valid[0], together.valid[row])
        for name in ("box", "score", "embedding"):
            np.testing.assert_allclose(
                getattr(alone, name)[0], getattr(together, name)[row], rtol=1e-4, atol=1e-4
            )


@pytest.mark.slow
def test_the_switches_of_the_test_do_what_they_say(trained):
    build, scenes = trained
    system, variables = build()

    def seen(**options):
        changed = system.changed(**options)
        found, collections = jax.jit(
            lambda variables: changed.module.apply(
                variables, changed.normalise(scenes), method="detect", mutable=["intermediates"]
            )
        )(variables)
        return found, {name: value[0] for name, value in collections["intermediates"].items()}

    found, parts = seen(nms_threshold=1.0)
    valid = np.asarray(parts["first_valid"])
    scores = np.sort(np.asarray(parts["first_scores"])[valid])
    np.testing.assert_allclose(np.sort(np.asarray(found.score)[np.asarray(found.valid)]), scores, rtol=1e-6)
    # The second head's own score
    found, parts = seen(nms_threshold=1.0, first_score=False)
    own = np.asarray(jax.nn.sigmoid(parts["reid_output"].logit))[np.asarray(parts["first_valid"])]
    expected = np.sort(own[own > system.module.score_threshold])
    np.testing.assert_allclose(np.sort(np.asarray(found.score)[np.asarray(found.valid)]), expected, rtol=1e-5)
    # Without suppression between the heads more boxes reach the second one.
    _, without = seen(suppress_between=False)
    assert without["first_valid"].sum() > valid.sum()


@pytest.mark.slow
def test_detections_embedded_once_more_are_embedded_at_their_boxes(trained):
    build, scenes = trained
    system, variables = build(**NAE)
    plain, again = (_detect(system.changed(embed_detections=x), variables, scenes) for x in (False, True))
    np.testing.assert_array_equal(plain.box, again.box)
    at_boxes = jax.jit(system.embed)(variables, scenes, again.box)
    valid = np.asarray(again.valid)
    np.testing.assert_allclose(again.embedding[valid], at_boxes[valid], rtol=1e-4, atol=1e-5)
    assert np.abs(plain.embedding[valid] - again.embedding[valid]).max() > 1e-3


def test_both_heads_start_from_the_trunks_last_stage(tiny_seqnet):
    system = tiny_seqnet()
    variables = system.init(jax.random.key(0), *batch())
    trunk = system.trunk(variables)
    assert "stage4" in trunk["params"]
    other = jax.tree.map(lambda x: x + 1.0, trunk)
    changed = system.with_trunk(variables, other)
    for head in ("box_head", "reid_head"):
        jax.tree.map(
            np.testing.assert_array_equal, changed["params"][head]["last_stage"], other["params"]["stage4"]
        )
    jax.tree.map(np.testing.assert_array_equal, system.trunk(changed), other)
    frozen = system.trainable(variables["params"])
    stem = [frozen["backbone"][part] for part in ("stem_conv", "stem_norm")]
    assert not any(jax.tree.leaves(stem)) and all(jax.tree.leaves(frozen["reid_head"]))
    assert all(jax.tree.leaves(tiny_seqnet(freeze_stem=False).trainable(variables["params"])))
