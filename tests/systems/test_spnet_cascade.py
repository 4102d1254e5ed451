"""SPNet-L: cascade steps and location heads, in training, detection and search."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_spnet import LARGE, batch, two_views

from ps_jax.boxes import BACKGROUND, IGNORED
from ps_jax.errors import ConfigError
from ps_jax.heads import fixed_norm_logit, offset_norm
from ps_jax.interface import People, Scenes
from ps_jax.systems._box_sampling import candidates_with_people
from ps_jax.systems._spnet_cascade import Samples, Stage, predicted_boxes
from ps_jax.systems._spnet_query_centric import Pairs, cascade_samples

TERMS = [
    "anchor_classification",
    *("bbox_regression1", "bbox_regression2", "bbox_regression3"),
    *("classification2", "classification3"),
    "reid",
]


def _all_finite(tree) -> bool:
    return all(np.all(np.isfinite(x)) for x in jax.tree.leaves(tree))


def _searchable(variables):
    """Variables that give some detections: anchor embeddings short enough to score."""
    embedder = variables["params"]["anchor_embedder"]["convolution"]
    embedder["bias"] = 0.8 * jax.random.normal(jax.random.key(1), embedder["bias"].shape)
    embedder["kernel"] = 0.1 * jax.random.normal(jax.random.key(2), embedder["kernel"].shape)
    return variables


def _with_known_people(variables):
    """A lookup table that is filled, so that there is a re-identification loss."""
    table = jax.random.normal(jax.random.key(3), variables["memory"]["lookup_table"].shape)
    variables["memory"]["lookup_table"] = table / jnp.linalg.norm(table, axis=-1, keepdims=True)
    return variables


def test_parts_of_the_large_model(tiny):
    system = tiny(**LARGE)
    variables = system.init(jax.random.key(0), *batch())
    params = variables["params"]
    for part, numbers in (
        ("bridge", (0, 1, 2)),
        ("regression_head", (0, 1, 2)),
        ("location_embedder", (1, 2)),
    ):
        assert {name for name in params if name.startswith(part)} == {
            f"{part}_{number}" for number in numbers
        }
    assert params["bridge_2"]["linear"]["kernel"].shape == (16, 16)
    assert params["box_embedder"]["projector"]["deep_linear"]["kernel"].shape == (24, 16)  # half of 32
    assert variables["memory"]["lookup_table"].shape == (6, 32)
    for number in (1, 2):
        head = params[f"location_embedder_{number}"]
        assert head["linear"].keys() == {"kernel"} and head["linear"]["kernel"].shape == (24, 16)
        jax.tree.map(np.testing.assert_array_equal, head["last_stage"], params["backbone"]["stage4"])
    assert np.any(
        params["location_embedder_1"]["linear"]["kernel"] != params["location_embedder_2"]["linear"]["kernel"]
    )
    assert "location_embedder_1" in tiny(separate_location_heads=True).template["params"]  # for queries
    shared = tiny(num_cascade_steps=2).template["params"]
    assert "bridge_2" in shared and not any(name.startswith("location") for name in shared)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["oc", "qc"])
def test_steps_with_everybody_somebody_and_nobody(tiny, mode):
    """One compilation serves them all; every part that the path uses is trained, the others are left alone."""
    system = tiny(mode=mode, first_stage_classification=mode == "qc", **LARGE)
    views = two_views if mode == "qc" else batch
    variables = _with_known_people(system.init(jax.random.key(0), *batch()))
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(scenes, people):
        def total(params):
            terms, changed = system.losses({**variables, "params": params}, scenes, people, jax.random.key(1))
            return sum(terms.values()), (terms, changed)

        return jax.grad(total, has_aux=True)(variables["params"])

    first = ["classification1"] if mode == "qc" else []
    for counts in ((4, 2), (0, 4), (0, 0)):
        scenes, people = views(counts) if mode == "oc" else views(counts, missing_in_second=0)
        gradient, (terms, changed) = step(scenes, people)
        assert list(terms) == sorted(TERMS + first)
        assert _all_finite((gradient, terms, changed)), counts
        somebody = sum(counts) > 0
        for name, value in terms.items():
            assert somebody <= (value > 0), (name, value)  # with somebody, every term takes part
        if not somebody:
            assert all(terms[f"bbox_regression{n}"] == 0 for n in (1, 2, 3)) and terms["reid"] == 0
            continue
        for part, tree in gradient.items():
            unused = mode == "qc" and part.startswith("bridge")
            assert any(np.any(x) for x in jax.tree.leaves(tree)) != unused, part


def test_cascade_boxes_of_the_object_centric_path_are_matched_anew(tiny):
    """Predicted boxes and annotated ones: positive from an overlap of 0.5, ignored where there is no box."""
    model = tiny(**LARGE).module
    box = jnp.asarray([[[0.0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 40, 20]]])
    dx = jnp.asarray(
        [[[0.0, 0, 0, 0], [0.6, 0, 0, 0], [0, 0, 0, 0], [9.0, 9, 0, 0]]]
    )  # the second moves away
    valid = jnp.asarray([[True, True, True, False]])
    nobody = jnp.zeros((1, 4), jnp.int32)
    stage = Stage(Samples(box, nobody, nobody, box, valid), dx, jnp.zeros((1, 4)))
    people_box = jnp.asarray([[[50.0, 50, 60, 64], [0, 0, 0, 0], [0, 0, 10, 10]]])
    numbers = jnp.zeros((1, 3), jnp.int32)
    people = People(people_box, numbers, numbers, jnp.asarray([[True, False, True]]))
    predicted = predicted_boxes(stage, jnp.asarray([[100, 55]]))
    candidates, matched = candidates_with_people(predicted, valid, people, model.match_high, model.match_high)
    np.testing.assert_array_equal(matched, [[2, BACKGROUND, BACKGROUND, IGNORED, 0, IGNORED, 2]])
    # Clipped to a width of 55: the third box lost half of itself, 5 x 10 of the 10 x 14 pixels of its person.
    np.testing.assert_allclose(
        candidates[0, :3], [[0, 0, 10, 10], [6, 0, 16, 10], [50, 50, 55, 60]], atol=1e-5
    )
    np.testing.assert_array_equal(candidates[0, 4:], people_box[0])


def test_cascade_boxes_of_the_query_centric_path_stand_for_the_pairs_person():
    """All boxes stay, and the person's own box joins them; in a negative pair everything is background."""
    pairs = Pairs(
        scene=jnp.asarray([0, 1, 0]),
        query=jnp.asarray([5, 2, 0]),
        target_box=jnp.asarray([[0.0, 0, 10, 10], [0, 0, 0, 0], [0, 0, 0, 0]]),
        positive=jnp.asarray([True, False, False]),
        valid=jnp.asarray([True, True, False]),
    )
    box = jnp.broadcast_to(
        jnp.asarray([[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 20.2], [0, 0, 0, 0]]), (3, 4, 4)
    )
    deltas = jnp.zeros((3, 4, 4)).at[:, 0, 0].set(0.2)  # the first box moves by two pixels
    nothing = jnp.zeros((3, 4), jnp.int32)
    exists = jnp.broadcast_to(pairs.valid[:, None], (3, 4))
    stage = Stage(Samples(box, nothing, nothing, box, exists), deltas, jnp.zeros((3, 4)))
    samples = cascade_samples(pairs, stage, jnp.full((3, 2), 100), match_high=0.5)
    # Overlaps: 80 / 120, 100 / 200 (just enough), 100 / 202, none, and the person's own box.
    np.testing.assert_array_equal(samples.matched, [[0, 0, -1, -1, 0], [-1] * 5, [-1] * 5])
    np.testing.assert_array_equal(samples.valid, [[True] * 5, [True] * 4 + [False], [False] * 5])
    np.testing.assert_allclose(samples.box[0, [0, 4]], [[2, 0, 12, 10], [0, 0, 10, 10]], atol=1e-5)
    np.testing.assert_array_equal(samples.target, np.repeat([[5], [2], [0]], 5, axis=1))
    np.testing.assert_array_equal(
        samples.target_box, np.repeat(np.asarray(pairs.target_box)[:, None], 5, axis=1)
    )


@pytest.mark.slow
def test_query_centric_cascade_grows_by_the_persons_own_box(tiny):
    system = tiny(mode="qc", **LARGE)
    scenes, people = two_views((3,), missing_in_second=1)
    variables = system.init(jax.random.key(0), scenes, people)

    @jax.jit
    def losses(variables):
        rngs = {name: jax.random.key(1) for name in ("sampling", "stochastic_depth")}
        return system.module.apply(
            variables,
            system.normalise(scenes),
            people,
            method="losses",
            rngs=rngs,
            mutable=["intermediates", "batch_stats", "memory"],
        )

    terms, changed = losses(variables)
    stages = [changed["intermediates"][f"stage{number}"][0] for number in range(3)]
    assert [stage.deltas.shape for stage in stages] == [(6, 16, 4), (6, 17, 4), (6, 18, 4)]
    for number, stage in enumerate(stages[1:], 2):
        samples = jax.tree.map(np.asarray, stage.samples)
        positive, logits = samples.matched >= 0, np.asarray(stage.logits, np.float64)
        each = np.logaddexp(0, logits) - logits * positive
        expected = each[samples.valid].sum() / max(1, positive.sum())
        np.testing.assert_allclose(terms[f"classification{number}"], expected, rtol=1e-5)


@pytest.fixture
def searching(tiny):
    system = tiny(**LARGE)
    scenes, people = batch()
    variables = _searchable(system.init(jax.random.key(0), scenes, people))
    # Heads that tell boxes apart, and embeddings at which some boxes score.
    for number in (1, 2):
        kernel = variables["params"][f"location_embedder_{number}"]["linear"]["kernel"]
        noise = jax.random.normal(jax.random.key(4 + number), kernel.shape)
        variables["params"][f"location_embedder_{number}"]["linear"]["kernel"] = 0.6 * noise
    return system, variables, scenes._replace(size=jnp.asarray([[64, 64], [40, 50]]))


@pytest.mark.slow
def test_detections_and_search_results_do_not_depend_on_the_batch(searching):
    system, variables, scenes = searching
    detect, embed, find = jax.jit(system.detect), jax.jit(system.embed), jax.jit(system.find)
    boxes = jnp.asarray([[[4.0, 4, 40, 60], [10, 0, 30, 30]], [[0.0, 0, 20, 40], [20, 8, 50, 40]]])
    queries = jax.jit(system.embed_queries)(variables, scenes, boxes)
    assert queries.shape == (2, 2, 16) and embed(variables, scenes, boxes).shape == (2, 2, 32)
    queries = queries.reshape(4, -1)
    found, sought = detect(variables, scenes), find(variables, scenes, queries)
    assert found.embedding.shape == (2, 40, 32) and sought.embedding.shape == (2, 4, 20, 32)
    for result, size in ((found, (2, 40)), (sought, (2, 4, 20))):
        valid, score = np.asarray(result.valid), np.asarray(result.score)
        assert valid.shape == size and 2 < valid.sum() < valid.size
        assert np.all(np.diff(score, axis=-1) <= 0) and np.all(np.diff(valid.astype(int), axis=-1) <= 0)
        assert not np.any(np.asarray(result.box)[~valid]) and not np.any(score[~valid])
        assert np.asarray(result.box)[1].max() <= 50
    for scene in range(2):
        one = Scenes(scenes.image[scene : scene + 1], scenes.size[scene : scene + 1])
        alone = (detect(variables, one), find(variables, one, queries))
        expected = jax.tree.map(lambda x, scene=scene: x[scene : scene + 1], (found, sought))
        chex.assert_trees_all_close(alone, expected, rtol=1e-4, atol=1e-4)
    valid = np.asarray(found.valid)
    at_boxes = np.asarray(embed(variables, scenes, found.box))
    np.testing.assert_allclose(at_boxes[valid], np.asarray(found.embedding)[valid], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_last_step_of_a_search_scores_by_the_offset_from_the_query(searching):
    """Without box regression all steps look at the same boxes, so the last score can be computed by itself."""
    system, variables, scenes = searching
    for number in range(3):
        head = variables["params"][f"regression_head_{number}"]["deltas"]
        head.update(kernel=0.0 * head["kernel"], bias=0.0 * head["bias"])
    boxes = jnp.asarray([[[4.0, 4, 40, 60], [10, 0, 30, 30]], [[0.0, 0, 20, 40], [20, 8, 50, 40]]])

    @jax.jit
    def run(variables):
        query = system.embed_queries(variables, scenes, boxes)[0]
        found, everybody = system.find(variables, scenes, query), system.detect(variables, scenes)

        def embed(box):
            def locate(model):
                pyramid = model.features(system.normalise(scenes), train=False)
                valid = jnp.ones(box.shape[:2], bool)
                embedding = model.embed_locations(2, pyramid, box, valid, train=False)
                return embedding, model.offsets(2, embedding)

            return system.module.apply(variables, method=locate)

        return query, found, embed(found.box.reshape(2, -1, 4)), everybody, embed(everybody.box)

    query, found, (embedding, _), everybody, (_, predicted) = run(variables)
    offsets = query[None, :, None] - embedding.reshape(2, 2, 20, 16)
    for result, offset in ((found, offsets), (everybody, predicted)):
        expected = jax.nn.sigmoid(fixed_norm_logit(offset_norm(offset), 16))
        valid = np.asarray(result.valid)
        np.testing.assert_allclose(
            np.asarray(result.score)[valid], np.asarray(expected)[valid], rtol=1e-4, atol=1e-6
        )


def test_a_batch_with_another_number_of_anchors_than_stated_is_refused(tiny):
    """Both paths are to regress equally many, so that they can be compared."""
    scenes, people = batch()
    for options, there in (
        (
            {"mode": "oc", "samples_per_image": 16},
            r"2 x 16 = 32 anchors: scenes \(batch_size\) x samples_per_image",
        ),
        (
            {"mode": "qc", "samples_per_pair": 8},
            r"6 x 8 = 48 anchors: pairs \(pairs_per_batch\) x samples_per_pair",
        ),
    ):
        system = tiny(anchors_per_batch=2048, **options)
        with pytest.raises(ConfigError, match=f"anchors_per_batch is 2048, but a batch regresses {there}"):
            jax.eval_shape(system.losses, system.template, scenes, people, jax.random.key(0))
        system = tiny(anchors_per_batch=32 if options["mode"] == "oc" else 48, **options)
        jax.eval_shape(system.losses, system.template, scenes, people, jax.random.key(0))


def test_micro_batches_share_the_pairs_and_anchors_of_the_batch(tiny):
    scenes, people = batch()
    half = jax.tree.map(lambda x: x[:1], (scenes, people))
    paths = {
        "oc": tiny(mode="oc", samples_per_image=16, anchors_per_batch=32),
        "qc": tiny(mode="qc", samples_per_pair=8, anchors_per_batch=48),
    }
    for system in paths.values():
        part = system.in_parts(2)
        assert part.module.anchors_per_batch == system.module.anchors_per_batch // 2
        jax.eval_shape(part.losses, part.template, *half, jax.random.key(0))
    assert paths["qc"].in_parts(2).module.pairs_per_batch == 3
    assert paths["oc"].in_parts(2).module.pairs_per_batch == 6  # not used there
    with pytest.raises(
        ConfigError, match=r"pairs_per_batch is 6, which 4 micro-batches \(accumulate_steps\)"
    ):
        paths["qc"].in_parts(4)
