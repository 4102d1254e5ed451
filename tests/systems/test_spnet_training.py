import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_spnet import batch, two_views

from ps_jax.interface import People
from ps_jax.systems._spnet_query_centric import choose_anchors, choose_pairs, without_duplicates

TERMS = ["anchor_classification", "bbox_regression1", "reid"]


def _gradient(system, variables, scenes, people, key):
    def total(params):
        terms, changed = system.losses({**variables, "params": params}, scenes, people, key)
        return sum(terms.values()), (terms, changed)

    return jax.grad(total, has_aux=True)(variables["params"])


def _all_finite(tree) -> bool:
    return all(np.all(np.isfinite(x)) for x in jax.tree.leaves(tree))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["oc", "qc"])
def test_steps_with_everybody_somebody_and_nobody(tiny, mode):
    """One compilation serves them all; empty scenes and an empty batch train, and lower the loss no further."""
    system = tiny(mode=mode)
    variables = system.init(jax.random.key(0), *batch())
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(variables, scenes, people, key):
        return _gradient(system, variables, scenes, people, key)

    for counts in ((2, 3), (0, 4), (1, 0), (0, 0)):
        gradient, (terms, changed) = step(variables, *batch(counts), jax.random.key(1))
        assert list(terms) == TERMS
        assert _all_finite((gradient, terms, changed)), counts
        people = batch(counts)[1]
        known = {int(i) for i in people.identity[people.valid] if i >= 0}
        filled = set(np.flatnonzero(np.any(np.asarray(changed["memory"]["lookup_table"]), axis=1)))
        assert filled == known
        if sum(counts) == 0:
            assert terms["bbox_regression1"] == 0 and terms["reid"] == 0
            assert changed["memory"]["queue_header"] == 0
            jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])


@pytest.mark.slow
def test_padding_of_people_is_not_seen(tiny):
    system = tiny()
    variables = system.init(jax.random.key(0), *batch())
    scenes, people = batch()
    dirty = People(
        box=jnp.where(people.valid[..., None], people.box, jnp.asarray([5.0, 5.0, 60.0, 60.0])),
        identity=jnp.where(people.valid, people.identity, 3),
        person=jnp.where(people.valid, people.person, 3),
        valid=people.valid,
    )
    for mode in ("oc", "qc"):
        system = tiny(mode=mode)
        losses = jax.jit(system.losses)
        clean_terms, clean_changed = losses(variables, scenes, people, jax.random.key(1))
        dirty_terms, dirty_changed = losses(variables, scenes, dirty, jax.random.key(1))
        chex.assert_trees_all_close(clean_terms, dirty_terms, rtol=1e-6)
        chex.assert_trees_all_close(clean_changed, dirty_changed, rtol=1e-6)


@pytest.mark.slow
def test_query_centric_training_leaves_the_bridge_alone(tiny):
    system = tiny(mode="qc")
    scenes, people = two_views((3,), missing_in_second=1)
    variables = system.init(jax.random.key(0), scenes, people)
    step = jax.jit(lambda variables: _gradient(system, variables, scenes, people, jax.random.key(1)))
    gradient, (terms, _) = step(variables)
    assert _all_finite((gradient, terms))
    assert not any(np.any(x) for x in jax.tree.leaves(gradient["bridge_0"]))
    for part in ("backbone", "fpn", "anchor_embedder", "box_embedder", "regression_head_0"):
        assert any(np.any(x) for x in jax.tree.leaves(gradient[part])), part


def _people(persons, slots=3):
    count = len(persons)
    person, valid = np.full((count, slots), -7), np.zeros((count, slots), bool)
    for i, row in enumerate(persons):
        person[i, : len(row)], valid[i, : len(row)] = row, True
    box = np.arange(count * slots * 4, dtype=np.float32).reshape(count, slots, 4)
    person = jnp.asarray(person, jnp.int32)
    return People(jnp.asarray(box), person, person, jnp.asarray(valid))


def _in_order(key, mask):
    return jnp.where(mask, jnp.arange(mask.shape[0], dtype=jnp.float32), jnp.inf)


def test_pairs_other_views_come_first_then_the_own_scene_then_strangers():
    # Scenes 0 and 1 are views of one picture, person 12 is missing in the second; scene 2 shows somebody else.
    people = _people([[11, 12], [11], [13]])
    key = jax.random.key(0)

    def pairs(count):
        result, chosen = choose_pairs(people, count, key, _in_order)
        columns = map(np.asarray, (result.scene, result.query, result.positive, result.valid))
        rows = zip(*columns, strict=True)
        table = [(int(s), int(q), bool(positive)) for s, q, positive, valid in rows if valid]
        assert chosen.sum() == len(table) and result.scene.shape == (count,)
        return table, result

    # Queries by slot: 0 = 11 in scene 0, 1 = 12 in scene 0, 3 = 11 in scene 1, 6 = 13 in scene 2.
    assert pairs(2)[0] == [(0, 3, True), (1, 0, True)]
    assert pairs(6)[0] == [(0, 0, True), (0, 1, True), (0, 3, True), (1, 0, True), (1, 3, True), (2, 6, True)]
    table, result = pairs(20)
    assert len(table) == 3 * 4  # all combinations; the rest of the budget stays empty
    assert {(s, q) for s, q, positive in table if not positive} == {
        (0, 6),
        (1, 1),
        (1, 6),
        (2, 0),
        (2, 1),
        (2, 3),
    }
    columns = map(np.asarray, (result.scene, result.query, result.positive, result.target_box))
    for s, q, positive, target in zip(*columns, strict=True):
        slot = np.flatnonzero(np.asarray(people.person)[s] == np.asarray(people.person).reshape(-1)[q])
        np.testing.assert_array_equal(target, people.box[s, slot[0]] if positive else np.zeros(4))


def test_pairs_of_one_kind_are_drawn_at_random():
    people = _people([[1, 2, 3], [4, 5, 6]])
    drawn = {
        tuple(np.flatnonzero(choose_pairs(people, 2, jax.random.key(seed), _random)[1].reshape(-1)))
        for seed in range(20)
    }
    assert len(drawn) > 5


def _random(key, mask):
    return jnp.where(mask, jax.random.uniform(key, mask.shape), jnp.inf)


def test_a_person_annotated_twice_in_one_scene_is_dropped_there():
    people = _people([[11, 12, 11], [11, 12, 13], [14, 14]])
    left = without_duplicates(people).valid
    np.testing.assert_array_equal(left, [[False, True, False], [True, True, True], [False, False, False]])


def test_anchors_of_a_positive_pair_are_the_best_overlapping_then_the_first_of_the_nearest():
    giou = jnp.asarray([[0.9, -1.0, 0.8, -1.0, -1.0, -1.0, 0.1, -1.0]] * 2)
    distance = jnp.asarray([[1.0, 9.0, 9.0, 9.0, 4.0, 2.0, 9.0, 3.0]] * 2)
    chosen = choose_anchors(giou, distance, jnp.asarray([True, False]), 4)
    # Nearest four: 0, 5, 7, 4. Of them 0 is taken already; of 4, 5, 7 the lowest numbers.
    np.testing.assert_array_equal(chosen, [[0, 2, 4, 5], [0, 5, 7, 4]])


def test_equal_keys_give_equal_samples_and_other_keys_others(tiny):
    system = tiny(samples_per_image=8)
    variables = system.init(jax.random.key(0), *batch())
    losses = jax.jit(lambda key: system.losses(variables, *batch(), key)[0]["bbox_regression1"])
    values = [float(losses(jax.random.key(seed))) for seed in (1, 1, 2, 3)]
    assert values[0] == values[1] and len(set(values)) == 3


def test_bfloat16_computes_norms_and_losses_in_float32(tiny):
    scenes, people = batch()
    reference = tiny()
    variables = reference.init(jax.random.key(0), scenes, people)
    exact, _ = jax.jit(reference.losses)(variables, scenes, people, jax.random.key(1))
    system = tiny(dtype=jnp.dtype("bfloat16"))
    terms, changed = jax.jit(system.losses)(variables, scenes, people, jax.random.key(1))
    assert all(x.dtype == jnp.float32 for x in terms.values())
    assert all(x.dtype in (jnp.float32, jnp.int32) for x in jax.tree.leaves(changed))
    for name in ("anchor_classification", "bbox_regression1"):
        np.testing.assert_allclose(terms[name], exact[name], rtol=0.02)
