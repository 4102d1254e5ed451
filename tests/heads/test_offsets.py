import jax
import jax.numpy as jnp
import numpy as np

from ps_jax.heads import AnchorEmbedder, BoxRegressor, Bridge, product, query_distances


def test_bridge_starts_as_minus_the_anchor_embedding():
    embedding = jax.random.normal(jax.random.key(0), (2, 5, 8))
    offsets, _ = Bridge().init_with_output(jax.random.key(1), embedding)
    np.testing.assert_array_equal(offsets, -embedding)


def test_direct_bridge_starts_as_minus_the_anchor_embedding_too():
    embedding = jax.random.normal(jax.random.key(0), (2, 5, 8))
    offsets, variables = Bridge(direct=True).init_with_output(jax.random.key(1), embedding)
    np.testing.assert_array_equal(offsets, -embedding)
    variables["params"]["linear"]["bias"] = jnp.arange(8.0)
    np.testing.assert_array_equal(
        Bridge(direct=True).apply(variables, embedding), jnp.arange(8.0) - embedding
    )


def test_product_keeps_the_entries_that_the_query_opens():
    query, anchors = (
        jnp.asarray([[-5.0, 0.0, 0.1, 5.0]]),
        jnp.asarray([[2.0, 2.0, 2.0, 2.0], [1.0, -1.0, 3.0, -4.0]]),
    )
    half = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(
        product(query, anchors), [[0, 1, 2 * half, 2], [0, -0.5, 3 * half, -4]], rtol=1e-5, atol=1e-6
    )
    lengths = query_distances(query, jnp.asarray([0]), anchors[None], product)
    np.testing.assert_allclose(lengths, np.linalg.norm(product(query, anchors), axis=-1)[None], rtol=1e-6)
    offsets, _ = Bridge(product).init_with_output(jax.random.key(0), anchors)
    np.testing.assert_allclose(offsets, anchors / 2)  # the predicted query starts at zero


def test_box_regressor_is_four_hidden_layers_and_one_of_four_numbers():
    variables = BoxRegressor().init(jax.random.key(0), jnp.zeros((1, 8)))
    shapes = {name: layer["kernel"].shape for name, layer in variables["params"].items()}
    assert shapes == {**{f"hidden_{i}": (8, 8) for i in range(4)}, "deltas": (8, 4)}
    x = jax.random.normal(jax.random.key(1), (3, 8))
    expected = np.asarray(x)
    for i in range(4):
        layer = variables["params"][f"hidden_{i}"]
        expected = np.maximum(expected @ layer["kernel"] + layer["bias"], 0)
    expected = expected @ variables["params"]["deltas"]["kernel"] + variables["params"]["deltas"]["bias"]
    np.testing.assert_allclose(BoxRegressor().apply(variables, x), expected, rtol=1e-5, atol=1e-6)


def test_query_distances_and_their_gradient_are_those_of_all_differences_at_once():
    keys = jax.random.split(jax.random.key(0), 3)
    query = jax.random.normal(keys[0], (4, 8))
    anchors = jax.random.normal(keys[1], (2, 30, 8))
    anchors = anchors.at[1, 3].set(query[2])  # one offset of length zero
    scene = jnp.asarray([0, 1, 1, 0])
    weight = jax.random.normal(keys[2], (4, 30))

    def direct(query, anchors):
        squared = ((query[:, None] - anchors[scene]) ** 2).sum(-1)
        return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)

    np.testing.assert_allclose(query_distances(query, scene, anchors), direct(query, anchors), rtol=1e-6)
    ours = jax.grad(lambda q, a: (weight * query_distances(q, scene, a)).sum(), argnums=(0, 1))(
        query, anchors
    )
    expected = jax.grad(lambda q, a: (weight * direct(q, a)).sum(), argnums=(0, 1))(query, anchors)
    for a, b in zip(ours, expected, strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_anchor_embedder_orders_by_level_row_column_anchor():
    module = AnchorEmbedder(dimension=4, anchors_per_cell=3)
    pyramid = {"p3": jnp.zeros((1, 2, 3, 5)), "p4": jnp.zeros((1, 1, 2, 5))}
    embedding, variables = module.init_with_output(jax.random.key(0), pyramid)
    assert embedding.shape == (1, (6 + 2) * 3, 4) and embedding.dtype == jnp.float32
    np.testing.assert_allclose(embedding, -np.log(99.0), rtol=1e-6)  # only the bias, prior 0.01

    # Channel number 4 a + j of cell (0, 1) of level p4 must land in anchor ((6 + 1) * 3 + a), entry j.
    bias = jnp.arange(12.0)
    variables = {"params": {"convolution": {**variables["params"]["convolution"], "bias": bias}}}
    embedding = module.apply(variables, pyramid)
    np.testing.assert_array_equal(embedding[0, 21:24], bias.reshape(3, 4))
    kernel = variables["params"]["convolution"]["kernel"]
    level = jnp.zeros((1, 2, 3, 5)).at[0, 1, 2, 0].set(1.0)
    embedding = module.apply(variables, {**pyramid, "p3": level})
    np.testing.assert_allclose(embedding[0, 15:18].reshape(-1), bias + kernel[1, 1, 0], rtol=1e-6)


def test_initial_scores_are_close_to_zero():
    # 128 entries of about -4.6: a length of 52, far above the mean length of 11.3.
    embedding, _ = AnchorEmbedder(128, 9).init_with_output(
        jax.random.key(0), {"p3": jax.random.normal(jax.random.key(1), (1, 4, 4, 16))}
    )
    lengths = np.linalg.norm(embedding, axis=-1)
    assert 50 < lengths.mean() < 54
