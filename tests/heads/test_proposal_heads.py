"""Heads of learned proposals: what they start with, and small cases by hand; the golden file has the numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ps_jax.heads import (
    FlexibleReidHead,
    InteractionModule,
    PlainModule,
    ProposalStage,
    bin_offsets,
    pool_cells,
)

BOX = jnp.array([[[16.0, 24.0, 72.0, 80.0], [8.0, 8.0, 36.0, 64.0]]])
RNG = np.random.default_rng(0)


def coordinates(height=16, width=20, stride=8):
    """A map whose two channels are where its cells are, in pixels (down, right)."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return jnp.asarray((np.stack([rows, columns], axis=-1)[None] + 0.5) * stride, jnp.float32)


def test_cells_are_pooled_around_the_middle_of_their_bins():
    cells = pool_cells(coordinates(), BOX, 8, 7)
    assert cells.shape == (1, 2, 49, 2)
    rows, columns = np.divmod(np.arange(49), 7)
    expected = np.stack([24 + 8 * (rows + 0.5), 16 + 8 * (columns + 0.5)], axis=-1)
    np.testing.assert_allclose(cells[0, 0], expected, rtol=1e-6)


def test_bins_move_by_parts_of_the_box():
    """A tenth of the width times 2 to the right for the first plane, a tenth of the height up for the second."""
    predicted = jnp.concatenate([jnp.full((1, 2, 49), 2.0), jnp.full((1, 2, 49), -1.0)], axis=-1)
    predicted = predicted.at[0, 0, 5].set(0.0)  # row 0, column 5 of the horizontal plane
    offsets = bin_offsets(predicted, BOX, 7, 0.1)
    np.testing.assert_allclose(offsets[0, 0, 1, 5], [-5.6, 11.2], rtol=1e-6)
    np.testing.assert_allclose(offsets[0, 0, 0, 5], [-5.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(offsets[0, 1, 6, 6], [-5.6, 5.6], rtol=1e-6)
    moved = pool_cells(coordinates(), BOX, 8, 7, offsets) - pool_cells(coordinates(), BOX, 8, 7)
    np.testing.assert_allclose(moved.reshape(1, 2, 7, 7, 2), offsets, atol=1e-4)


def test_offsets_of_zero_are_plain_roi_align_to_the_bit():
    level = jnp.asarray(RNG.normal(size=(2, 16, 20, 3)), jnp.float32)
    box = jnp.concatenate([BOX, BOX + 3.7])
    plain = jax.jit(lambda level: pool_cells(level, box, 8, 7))(level)
    dynamic = jax.jit(lambda level, offsets: pool_cells(level, box, 8, 7, offsets))(
        level, jnp.zeros((2, 2, 7, 7, 2))
    )
    np.testing.assert_array_equal(plain, dynamic)


def test_a_head_starts_with_plain_roi_align_and_learns_to_move_its_bins():
    level = jnp.asarray(RNG.normal(size=(1, 16, 20, 8)), jnp.float32)
    features = jnp.asarray(RNG.normal(size=(1, 2, 8)), jnp.float32)
    options = {"heads": 2, "dynamic_width": 4}
    head = FlexibleReidHead(**options)
    params = head.init(jax.random.key(0), level, features, BOX)["params"]
    assert params["offsets"]["kernel"].shape == (8, 98) and not np.any(params["offsets"]["kernel"])
    rest = {name: tree for name, tree in params.items() if name != "offsets"}
    plain = FlexibleReidHead(**options, roi_align="plain")
    ours, theirs = (
        head.apply({"params": params}, level, features, BOX),
        plain.apply({"params": rest}, level, features, BOX),
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert ours.embedding.shape == ours.hidden.shape == (1, 2, 2, 8)
    assert np.all(ours.hidden >= 0)

    def objective(params, level, box):
        return jnp.sum(head.apply({"params": params}, level, features, box).embedding ** 3)

    of_params, of_level, of_box = jax.grad(objective, argnums=(0, 1, 2))(params, level, BOX)
    assert np.any(of_params["offsets"]["kernel"]) and np.any(of_level) and not np.any(of_box)


def test_deformable_roi_align_starts_plain_and_looks_into_the_box():
    """Its offsets come from the cells: with two cells swapped on the map the bins move otherwise."""
    level = jnp.asarray(RNG.normal(size=(1, 16, 20, 8)), jnp.float32)
    features = jnp.zeros((1, 2, 8))
    options = {"branches": ("plain",), "side": 3}
    head = FlexibleReidHead(**options, roi_align="deformable")
    params = head.init(jax.random.key(0), level, features, BOX)["params"]
    assert {name: params[name]["kernel"].shape for name in params if name.startswith("offset")} == {
        "offset_hidden0": (72, 1024),
        "offset_hidden1": (1024, 1024),
        "offsets": (1024, 18),
    }
    plain = FlexibleReidHead(**options, roi_align="plain")
    rest = {"branch0": params["branch0"]}

    def ratio(level, params):
        moved = head.apply({"params": params}, level, features, BOX).embedding
        return float(jnp.abs(moved - plain.apply({"params": rest}, level, features, BOX).embedding).max())

    assert ratio(level, params) == 0
    params = {**params, "offsets": {**params["offsets"], "kernel": jnp.full((1024, 18), 0.1)}}
    assert ratio(level, params) > 1e-2
    assert ratio(jnp.zeros_like(level), params) == 0

    def objective(level):
        return jnp.sum(head.apply({"params": params}, level, features, BOX).embedding ** 3)

    assert np.any(jax.grad(objective)(level))


def test_plain_module_by_hand():
    params = {
        "hidden": {"kernel": jnp.array([[1.0, 0], [0, 1], [1, 0], [0, -1]]), "bias": jnp.array([0.0, -1])},
        "embedding": {"kernel": jnp.array([[2.0, 0], [1, 3]]), "bias": jnp.array([0.5, 0])},
    }
    pooled = jnp.array([[[[1.0, 5.0], [2.0, 1.0]], [[0.0, 1.0], [1.0, 4.0]]]])  # two cells of two channels
    embedding, hidden = PlainModule().apply({"params": params}, jnp.zeros((1, 2, 2)), pooled)
    np.testing.assert_allclose(hidden[0], [[3, 3], [1, 0]])
    np.testing.assert_allclose(embedding[0], [[9.5, 9], [2.5, 0]])


@pytest.mark.parametrize("intra", [True, False])
def test_alone_a_proposal_sees_itself(intra):
    """Attention of one proposal is its own value: the embedding is LN(h + project(value(h)))."""
    features = jnp.asarray(RNG.normal(size=(1, 1, 8)), jnp.float32)
    pooled = jnp.asarray(RNG.normal(size=(1, 1, 4, 8)), jnp.float32)
    module = InteractionModule(heads=2, dynamic_width=4, intra=intra)
    params = module.init(jax.random.key(1), features, pooled)["params"]
    embedding, hidden = module.apply({"params": params}, features, pooled)
    assert ("interaction" in params) == intra and np.any(hidden)
    attention = params["attention"]
    value = hidden @ attention["qkv"]["kernel"][:, 16:]
    x = np.asarray(hidden + value @ attention["project"]["kernel"])
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(embedding, expected, atol=1e-5)
    alone = InteractionModule(heads=2, dynamic_width=4, intra=intra, inter=False)
    part = {name: tree for name, tree in params.items() if name not in ("attention", "norm")}
    same, before = alone.apply({"params": part}, features, pooled)
    np.testing.assert_array_equal(same, hidden)
    np.testing.assert_array_equal(before, hidden)


def test_a_stage_starts_as_the_release():
    stage = ProposalStage()
    shapes = (jnp.zeros((1, 2, 256)), jnp.tile(BOX, (1, 1, 1)), jnp.zeros((1, 2, 49, 256)))
    params = stage.init(jax.random.key(0), *shapes)["params"]
    np.testing.assert_allclose(params["logit"]["bias"], -np.log(99), rtol=1e-6)
    flat = traverse_util.flatten_dict(params, sep="/")
    for path, kernel in flat.items():
        if path.endswith("kernel"):
            bound = np.sqrt(6 / sum(kernel.shape))
            assert 0.97 * bound < np.abs(kernel).max() <= bound * (1 + 1e-6), path
    assert not np.any(flat["attention/qkv/bias"]) and not np.any(flat["attention/project/bias"])
    assert 0.03 < np.abs(flat["interaction/make_kernels/bias"]).max() <= 256**-0.5
    assert sum(x.size for x in flat.values()) == 13_215_109


def test_the_order_of_proposals_does_not_matter():
    stage = ProposalStage(heads=2, dynamic_width=4, perceptron_width=16)
    features = jnp.asarray(RNG.normal(size=(1, 2, 8)), jnp.float32)
    pooled = jnp.asarray(RNG.normal(size=(1, 2, 9, 8)), jnp.float32)
    params = stage.init(jax.random.key(0), features, BOX, pooled)
    one = stage.apply(params, features, BOX, pooled)
    other = stage.apply(params, features[:, ::-1], BOX[:, ::-1], pooled[:, ::-1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[:, ::-1], atol=1e-4), one, other)
