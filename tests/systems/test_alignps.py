from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from tiny_spnet import batch

from ps_jax.backbones import CAFFE_MEAN, ResNet, build_trunk
from ps_jax.errors import ConfigError
from ps_jax.interface import Scenes
from ps_jax.losses import InstanceMemory
from ps_jax.systems import _alignps_training, alignps, build_system
from ps_jax.systems.alignps import own_positions

TERMS = {"classification", "regression", "centerness", "reid", "triplet"}


def _stepper(system, scenes, people):
    """Variables, and a function of them and of the people: terms, gradient and what changed of one step."""
    variables = system.init(jax.random.key(0), scenes, people)

    @jax.jit
    def step(variables, people):
        def total(params):
            terms, changed = system.losses({**variables, "params": params}, scenes, people, jax.random.key(1))
            return sum(terms.values()), (terms, changed)

        gradient, (terms, changed) = jax.grad(total, has_aux=True)(variables["params"])
        return terms, gradient, changed

    return variables, step


def test_a_step_trains_every_part_and_fills_the_memory(tiny_alignps):
    scenes, people = batch((2, 3), seed=2)
    variables, step = _stepper(tiny_alignps(), scenes, people)
    terms, gradient, changed = step(variables, people)
    assert set(terms) == TERMS
    # Empty rows count as zeros: every column of table and queue has the same probability.
    columns = 6 + 40
    positive = np.asarray(people.identity)[np.asarray(people.valid)]
    assert (positive >= 0).any() and (positive < 0).any()
    assert terms["reid"] <= np.log(columns) * (1 - 1 / columns) ** 2 * (1 + 1e-5)
    # Rows of the empty table are at distance 1 of every embedding, and at distance 0 of each other.
    assert 0 < terms["triplet"] < 2 and np.isclose(terms["centerness"], np.log(2), rtol=0.05)
    for part, tree in gradient.items():
        for path, leaf in traverse_util.flatten_dict(tree, sep="/").items():
            assert np.isfinite(leaf).all(), (part, path)
        assert any(np.any(leaf) for leaf in jax.tree.leaves(tree)), part
    offset = gradient["neck"]["lateral3"]["offset"]["kernel"]
    assert np.any(offset) and not np.any(variables["params"]["neck"]["lateral3"]["offset"]["kernel"])
    table = np.asarray(changed["memory"]["lookup_table"])
    known = np.unique(people.identity[people.valid & (people.identity >= 0)])
    np.testing.assert_array_equal(np.any(table != 0, axis=1), np.isin(np.arange(6), known))
    assert np.all(np.linalg.norm(table[known], axis=1) < 1)  # not normalised again, and it was empty
    assert changed["memory"]["queue_header"] == np.any(changed["memory"]["queue"] != 0, axis=1).sum() > 0


@pytest.mark.slow
def test_a_batch_without_known_people_or_anybody_has_finite_losses(tiny_alignps):
    scenes, people = batch((2, 0))
    unknown = people._replace(identity=jnp.full_like(people.identity, -1))
    variables, step = _stepper(tiny_alignps(), scenes, people)
    terms, gradient, changed = step(variables, unknown)
    assert terms["reid"] == terms["triplet"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert changed["memory"]["queue_header"] > 0  # unknown people go into the queue
    nobody = unknown._replace(valid=jnp.zeros_like(people.valid))
    terms, gradient, changed = step(variables, nobody)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((terms, gradient)))
    assert all(terms[name] == 0 for name in TERMS - {"classification"})
    assert terms["classification"] > 0 and changed["memory"]["queue_header"] == 0


def test_people_beyond_the_table_have_no_row_in_the_triplet_loss():
    """As PRW's released labels number two of them. Neither is the last row another person's positive."""
    model = SimpleNamespace(triplet="table", released_memory=False, axis_name=None, triplet_margin=0.3)
    angles = np.deg2rad([0.0, 10.0, 20.0, 40.0])
    embedding = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    identity, known = np.array([0, 0, 2, 2]), np.ones(4, bool)
    table = np.array([[0.0, 1.0], [-1.0, 0.0]])
    memory = InstanceMemory(*map(jnp.asarray, (table, np.zeros((1, 2)), np.array(0))))
    found = _alignps_training._triplet(
        model, jnp.asarray(embedding), jnp.asarray(identity), jnp.asarray(known), memory
    )
    rows = np.concatenate([embedding, table[[0, 0]]])
    who = np.concatenate([identity, [0, 0]])
    distance = np.linalg.norm(rows[:, None] - rows, axis=-1)
    same = who[:, None] == who
    hardest = np.where(same, distance, 0).max(1) - np.where(same, 9, distance).min(1)
    np.testing.assert_allclose(found, np.maximum(0.3 + hardest, 0).mean(), rtol=1e-5)


def test_a_scene_owns_what_its_own_padding_would_give_it():
    size = np.array([[40, 64], [96, 96]])
    for level, expected in ((3, (8, 8)), (4, (4, 4)), (5, (2, 2)), (6, (1, 1)), (7, (1, 1))):
        stride = 2**level
        shape = (max(1, -(-96 // stride)), max(1, -(-96 // stride)))
        mask = np.asarray(own_positions(jnp.asarray(size), shape, level))
        assert (mask[0].any(1).sum(), mask[0].any(0).sum()) == expected
        assert mask[1].all()


def test_what_lies_beyond_a_scene_does_not_move_its_mean():
    rng = np.random.default_rng(0)
    own = rng.normal(size=(1, 4, 8, 3)).astype(np.float32)
    wide = np.pad(own, ((0, 0), (0, 4), (0, 8), (0, 0)), constant_values=7.0)
    size = jnp.array([[32, 64]])
    mask = own_positions(size, (8, 16), 3)
    alone = alignps._centred(jnp.asarray(own), own_positions(size, (4, 8), 3))
    np.testing.assert_allclose(alignps._centred(jnp.asarray(wide), mask)[:, :4, :8], alone, atol=1e-6)
    np.testing.assert_allclose(jnp.mean(alone, axis=(1, 2)), 0, atol=1e-6)


@pytest.fixture
def untrained(tiny_alignps):
    """Variables whose scores and distances differ from location to location."""
    scenes, people = batch((2, 3, 1))

    def build(**options):
        system = tiny_alignps(**options)
        variables = system.init(jax.random.key(0), scenes, people)
        leaves, structure = jax.tree.flatten(variables["params"])
        keys = jax.random.split(jax.random.key(1), len(leaves))
        noise = [
            leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)
        ]
        return system, {**variables, "params": jax.tree.unflatten(structure, noise)}

    return build, scenes


@pytest.mark.slow
def test_a_scene_is_found_alike_in_any_batch(untrained):
    build, scenes = untrained
    system, variables = build()
    detect = jax.jit(system.detect)
    together = detect(variables, scenes)
    assert together.valid.sum() > 3 and together.box.max() <= 64
    for row in range(3):
        alone = detect(variables, jax.tree.map(lambda x, row=row: x[row : row + 1], scenes))
        np.testing.assert_array_equal(alone.valid[0], together.valid[row])
        for name in ("box", "score", "embedding"):
            np.testing.assert_allclose(
                getattr(alone, name)[0], getattr(together, name)[row], rtol=1e-4, atol=1e-4
            )


@pytest.mark.slow
def test_a_box_is_embedded_at_the_location_nearest_to_its_centre(untrained):
    build, scenes = untrained
    system, variables = build()
    boxes = jnp.tile(jnp.array([[8.0, 16.0, 24.0, 48.0], [60.0, 60.0, 64.0, 64.0]]), (3, 1, 1))

    def maps(module, scenes):
        return module.features(scenes, train=False)[0][3]

    features = system.module.apply(variables, system.normalise(scenes), method=maps)
    found = jax.jit(system.embed)(variables, scenes, boxes)
    np.testing.assert_allclose(found[:, 0], features[:, 4, 2], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[:, 1], features[:, 7, 7], rtol=1e-4, atol=1e-4)


VARIANTS = [
    {"structure": "regression"},
    {"structure": "classification"},
    {"structure": "parallel"},
    {"levels": (5,)},
    {"levels": (3, 4), "size_limits": (16.0,)},
    {"extra_levels": True, "triplet": "none"},
    {"lateral_deformable": False, "output_deformable": False, "concatenate": False, "triplet": "batch"},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", VARIANTS)
def test_variants_of_the_tables_are_trained_and_find(untrained, options):
    build, scenes = untrained
    _, people = batch((2, 3, 1))
    system, variables = build(**options)
    terms, gradient, _ = _stepper(system, scenes, people)[1](variables, people)
    assert set(terms) == TERMS - ({"triplet"} if options.get("triplet") == "none" else set())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((terms, gradient)))
    for part, tree in gradient["neck"].items():
        used = any(np.any(leaf) for leaf in jax.tree.leaves(tree))
        # P6 and P7 of this small scene are one cell, and a group of one channel: normalised, that is always zero.
        assert used != (part in ("p6", "p7")), part
    lowest = min(options.get("levels", (3,)))
    laterals = {f"lateral{level}" for level in range(lowest, 6)}
    assert {part for part in gradient["neck"] if part.startswith("lateral")} == laterals
    found = jax.jit(system.detect)(variables, scenes)
    assert found.valid.sum() > 3 and np.isfinite(found.embedding).all()


def test_contradicting_options_are_refused(tiny_alignps):
    cases = {
        "structure is 'T1'. Use one of: reid_first, regression": {"structure": "T1"},
        "triplet is 'hard'. Use one of: none, batch, table": {"triplet": "hard"},
        "Use some of 3, 4 and 5, ascending": {"levels": (4, 3), "size_limits": (128.0,)},
        "2 levels need 1, ascending": {"levels": (3, 4)},
    }
    for message, options in cases.items():
        with pytest.raises(ConfigError, match=message):
            tiny_alignps(**options).template  # noqa: B018
    with pytest.raises(ConfigError, match=r"deformable_stages are \(5,\)\. Use some of 1 to 4"):
        tiny_alignps(deformable_stages=(5,)).template  # noqa: B018
    with pytest.raises(ConfigError, match=r"'mobilenet_v2' has no deformable stages"):
        build_trunk("mobilenet_v2", deformable_stages=(2, 3, 4))


def test_the_trunk_is_caffes_and_its_first_stages_and_normalisation_stay(monkeypatch):
    def small(name, **options):
        return ResNet(depths=(1, 1, 1, 1), stride_in_first=name == "resnet50_caffe", **options)

    monkeypatch.setattr(alignps, "build_trunk", small)
    system = build_system("alignps", {"num_identities": 3, "deformable_stages": (2, 3, 4), "queue_size": 4})
    assert system.pixel_mean == CAFFE_MEAN
    image = np.full((1, 32, 32, 3), (124, 116, 104), np.uint8)
    pixels = system.normalise(Scenes(image, np.full((1, 2), 32))).image
    np.testing.assert_allclose(pixels[0, 0, 0], [0.325, -0.28, 0.47], atol=1e-4)
    params = system.template["params"]
    trained = traverse_util.flatten_dict(system.trainable(params)["backbone"], sep="/")
    assert {path.split("/")[0] for path, value in trained.items() if value} == {"stage2", "stage3", "stage4"}
    assert not any(value for path, value in trained.items() if "norm" in path)
    assert trained["stage2/block0/conv2/offset/kernel"]
    # Weights of a trunk have no offsets; those of the system stay.
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), dict(system.template))
    trunk = jax.tree.map(lambda leaf: leaf + 1, system.trunk(variables))
    assert not any("offset" in path for path in traverse_util.flatten_dict(trunk["params"]))
    changed = system.with_trunk(variables, trunk)
    jax.tree.map(np.testing.assert_array_equal, system.trunk(changed), trunk)
    offset = changed["params"]["backbone"]["stage2"]["block0"]["conv2"]["offset"]["kernel"]
    assert offset.shape == (3, 3, 128, 27) and not np.any(offset)
    assert jax.tree.structure(changed) == jax.tree.structure(variables)
