import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_spnet import batch

from ps_jax.interface import Scenes


@pytest.fixture
def trained(tiny):
    """A system whose variables give some detections: anchor embeddings short enough to score."""
    system = tiny()
    scenes, people = batch()
    variables = system.init(jax.random.key(0), scenes, people)
    embedder = variables["params"]["anchor_embedder"]["convolution"]
    embedder["bias"] = 0.8 * jax.random.normal(jax.random.key(1), embedder["bias"].shape)
    embedder["kernel"] = 0.1 * jax.random.normal(jax.random.key(2), embedder["kernel"].shape)
    return system, variables, scenes


def test_detections_are_sorted_inside_the_scene_and_empty_where_not_valid(trained):
    system, variables, scenes = trained
    scenes = scenes._replace(size=jnp.asarray([[64, 64], [40, 50]]))
    found = jax.jit(system.detect)(variables, scenes)
    valid = np.asarray(found.valid)
    assert found.box.shape == (2, 40, 4) and found.embedding.shape == (2, 40, 16)
    assert 2 < valid.sum() < valid.size
    assert np.all(np.diff(np.asarray(found.score), axis=1) <= 0) and np.all(
        np.asarray(found.score)[valid] > 0.5
    )
    assert np.all(np.diff(valid.astype(int), axis=1) <= 0)
    for scene, (height, width) in enumerate(np.asarray(scenes.size)):
        box = np.asarray(found.box)[scene]
        assert box.min() >= 0 and box[:, 2].max() <= width and box[:, 3].max() <= height
    for array in (found.box, found.score, found.embedding):
        assert not np.any(np.asarray(array)[~valid])


def test_a_scene_does_not_depend_on_its_batch(trained):
    system, variables, scenes = trained
    scenes = scenes._replace(size=jnp.asarray([[64, 64], [40, 50]]))
    detect, embed, find = jax.jit(system.detect), jax.jit(system.embed), jax.jit(system.find)
    boxes = jnp.asarray([[[4.0, 4, 40, 60], [10, 0, 30, 30]], [[0.0, 0, 20, 40], [20, 8, 50, 40]]])
    queries = embed(variables, scenes, boxes).reshape(4, -1)
    together = (detect(variables, scenes), find(variables, scenes, queries), embed(variables, scenes, boxes))
    looked = jax.jit(system.look)(variables, scenes)
    chex.assert_trees_all_close(find(variables, scenes, queries, looked), together[1], rtol=1e-5, atol=1e-5)
    for scene in range(2):
        one = Scenes(scenes.image[scene : scene + 1], scenes.size[scene : scene + 1])
        alone = (
            detect(variables, one),
            find(variables, one, queries),
            embed(variables, one, boxes[scene : scene + 1]),
        )
        expected = jax.tree.map(lambda x, scene=scene: x[scene : scene + 1], together)
        chex.assert_trees_all_close(alone, expected, rtol=1e-4, atol=1e-4)


def test_embedding_of_a_detection_is_that_of_its_box(trained):
    system, variables, scenes = trained
    found = jax.jit(system.detect)(variables, scenes)
    embedding = jax.jit(system.embed)(variables, scenes, found.box)
    valid = np.asarray(found.valid)
    np.testing.assert_allclose(
        np.asarray(embedding)[valid], np.asarray(found.embedding)[valid], rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_search_scores_anchors_by_their_distance_from_the_query(trained):
    """A query put onto an anchor's embedding finds that anchor first, with the highest possible score."""
    system, variables, scenes = trained
    _, seen = system.module.apply(
        variables, system.normalise(scenes), method="detect", mutable=["intermediates"]
    )
    anchors = np.asarray(seen["intermediates"]["anchors"][0])
    embedding = seen["intermediates"]["anchor_embedding"][0]
    number = 5 * 8 * 9 + 3  # somewhere in the middle of the first level
    found, seen = system.module.apply(
        variables,
        system.normalise(scenes),
        embedding[1, number][None],
        method="find",
        mutable=["intermediates"],
    )
    np.testing.assert_array_equal(seen["intermediates"]["top_anchors"][0][1, 0], anchors[number])
    assert found.box.shape == (2, 1, 20, 4)
    mean, deviation = 3.938026, 0.701408  # of the chi distribution with 16 degrees of freedom
    np.testing.assert_allclose(found.score[1, 0, 0], 1 / (1 + np.exp(-mean / deviation)), rtol=1e-4)


def test_sizes_are_compiled_once(trained):
    system, variables, scenes = trained
    chex.clear_trace_counter()
    detect = jax.jit(chex.assert_max_traces(system.detect, n=1))
    for size in ((64, 64), (33, 64), (60, 41)):
        detect(variables, scenes._replace(size=jnp.asarray([size, size])))
