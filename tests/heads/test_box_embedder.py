"""Padding must not be seen: neither in results, nor in statistics, nor in gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kernels.roi_align import roi_align
from ps_jax.backbones import MobileNetV2
from ps_jax.heads import BoxEmbedder, ReidProjector
from ps_jax.heads.row_capacity import apply_to_existing_rows, capacities
from ps_jax.layers import BatchNorm, Linear, StochasticDepth


def test_capacities():
    assert capacities(1024) == (256, 512, 1024)
    assert capacities(100) == (25, 50, 100)
    assert capacities(16) == (16,)
    assert capacities(3) == (3,)


class _Rows(nn.Module):
    """A function of rows with shared input, weights and running statistics."""

    def setup(self):
        self.norm, self.linear = BatchNorm(), Linear(3)

    def __call__(self, shared, x, valid):
        def work(module, shared, x, valid):
            return {"y": module.linear(module.norm(x * shared, use_running_average=False, mask=valid))}

        return apply_to_existing_rows(work, self, shared, x, valid)["y"]


@pytest.mark.parametrize("count", [0, 2, 16, 17, 35, 50, 70])
def test_work_on_existing_rows_equals_work_on_all(count):
    total = 70
    assert capacities(total) == (17, 35, 70)
    rng = np.random.default_rng(count)
    valid = np.zeros(total, bool)
    valid[rng.choice(total, count, replace=False)] = True
    x, shared = jnp.asarray(rng.standard_normal((total, 4)), jnp.float32), jnp.asarray([1.0, 2.0, 3.0, 4.0])
    module = _Rows()
    variables = module.init(jax.random.key(0), shared, x, jnp.asarray(valid))

    def run(variables, shared, x):
        y, changed = module.apply(variables, shared, x, jnp.asarray(valid), mutable=["batch_stats"])
        return (y * jnp.arange(1.0, 4.0)).mean() + (y**2).mean(), (y, changed)

    def reference(variables, shared, x):
        norm, linear = BatchNorm(), Linear(3)
        scope = {name: tree["norm"] for name, tree in variables.items()}
        y, changed = norm.apply(scope, x * shared, False, jnp.asarray(valid), mutable=["batch_stats"])
        y = linear.apply({"params": variables["params"]["linear"]}, y)
        y = jnp.where(jnp.asarray(valid)[:, None], y, 0.0)
        changed = {"batch_stats": {"norm": changed["batch_stats"]}}
        return (y * jnp.arange(1.0, 4.0)).mean() + (y**2).mean(), (y, changed)

    ours = jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True))(variables, shared, x)
    expected = jax.value_and_grad(reference, argnums=(0, 1, 2), has_aux=True)(variables, shared, x)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


@pytest.mark.slow
def test_padded_boxes_do_not_count_in_a_stage_with_batch_normalisation():
    trunk = MobileNetV2()
    module = BoxEmbedder(trunk.last_stage(), dimension=8)
    features = jax.random.normal(jax.random.key(0), (2, 8, 8, 96))
    boxes = jnp.asarray(
        [[0, 0, 40, 60], [10, 5, 30, 50], [20, 0, 64, 64], [3, 3, 9, 30], [8, 8, 60, 20]], jnp.float32
    )
    scene = jnp.asarray([0, 1, 1, 0, 1])
    everyone = jnp.ones(5, bool)
    variables = module.init(jax.random.key(1), features, boxes, scene, everyone, False)
    place = jnp.asarray([2, 7, 8, 19, 30])
    padded = {
        "boxes": jnp.zeros((40, 4)).at[place].set(boxes).at[5].set(jnp.asarray([0.0, 0, 64, 64])),
        "scene": jnp.zeros(40, jnp.int32).at[place].set(scene),
        "valid": jnp.zeros(40, bool).at[place].set(True),
    }

    def run(params, boxes, scene, valid):
        rest = {"batch_stats": variables["batch_stats"]}
        embedding, changed = module.apply(
            {"params": params, **rest}, features, boxes, scene, valid, True, mutable=["batch_stats"]
        )
        chosen = embedding if boxes.shape[0] == 5 else embedding[place]
        return (chosen * jnp.arange(8.0)).sum() + (chosen**3).sum(), (chosen, changed)

    run = jax.jit(jax.value_and_grad(run, has_aux=True))
    (_, (embedding, changed)), gradient = run(variables["params"], boxes, scene, everyone)
    (_, (embedding_, changed_)), gradient_ = run(variables["params"], **padded)
    np.testing.assert_allclose(embedding_, embedding, rtol=1e-4, atol=1e-4)
    for a, b in zip(jax.tree.leaves(changed_), jax.tree.leaves(changed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient))
    for a, b in zip(jax.tree.leaves(gradient_), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * largest)
    # Statistics moved at all: the mask reached the stage's own normalisations, not only the projector's.
    moved = changed["batch_stats"]["last_stage"]["block0"]["expand"]["norm"]["mean"]
    assert float(jnp.abs(moved).max()) > 0


class _Dropped(nn.Module):
    """A function of each row by itself."""

    def setup(self):
        self.depth, self.linear = StochasticDepth(0.5), Linear(3)

    def __call__(self, shared, x, valid, train=True, independent=True):
        def work(module, shared, rows, valid):
            x, number = rows
            return {"y": module.linear(module.depth(jnp.sin(x * shared), train, number))}

        rows = (x, jnp.arange(x.shape[0]))
        return apply_to_existing_rows(work, self, shared, rows, valid, independent=independent)["y"]


@pytest.mark.parametrize("count", [0, 1, 32, 33, 70])
def test_chunks_of_existing_rows_equal_work_on_all(count):
    total = 70
    rng = np.random.default_rng(count)
    valid = np.zeros(total, bool)
    valid[rng.choice(total, count, replace=False)] = True
    valid = jnp.asarray(valid)
    x, shared = jnp.asarray(rng.standard_normal((total, 4)), jnp.float32), jnp.asarray([1.0, 2.0, 3.0, 4.0])
    module = _Dropped()
    keys = {"params": jax.random.key(0), "stochastic_depth": jax.random.key(1)}
    variables = module.init(keys, shared, x, valid)

    def run(variables, shared, independent):
        y = module.apply(variables, shared, x, valid, False, independent)
        return (y * jnp.arange(1.0, 4.0)).mean() + (y**2).mean(), y

    both = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True), static_argnums=2)
    ours, expected = both(variables, shared, True), both(variables, shared, False)
    assert (count > 0) == bool(jnp.any(expected[0][1] != 0))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_is_drawn_for_a_row_does_not_depend_on_the_other_rows():
    """Stochastic depth draws by a row's number, not by its place in a chunk."""
    x, shared = jax.random.normal(jax.random.key(4), (70, 4)), jnp.ones(4)
    some = jnp.arange(70) % 3 == 1
    module = _Dropped()
    keys = {"params": jax.random.key(0), "stochastic_depth": jax.random.key(1)}
    variables = module.init(keys, shared, x, some)
    rngs = {"stochastic_depth": jax.random.key(5)}
    y, y_ = (module.apply(variables, shared, x, valid, rngs=rngs) for valid in (jnp.ones(70, bool), some))
    np.testing.assert_array_equal(y_[some], y[some])
    kept = jnp.any(y != variables["params"]["linear"]["bias"], axis=1)
    assert 0.3 < jnp.mean(kept) < 0.7


def test_chunks_draw_the_same_forward_and_backward_and_not_all_alike():
    """The part of a linear map's gradient that a row has is what the forward pass saw of it."""
    x, valid = jnp.ones((96, 4)), jnp.ones(96, bool)
    module = _Dropped()
    keys = {"params": jax.random.key(0), "stochastic_depth": jax.random.key(1)}
    variables = module.init(keys, jnp.ones(4), x, valid)

    def total(variables, key):
        return jnp.sum(module.apply(variables, jnp.ones(4), x, valid, rngs={"stochastic_depth": key}))

    value, gradient = jax.jit(jax.value_and_grad(total))(variables, jax.random.key(2))
    linear, got = variables["params"]["linear"], gradient["params"]["linear"]
    np.testing.assert_allclose(
        value, jnp.sum(linear["kernel"] * got["kernel"]) + 96 * jnp.sum(linear["bias"]), rtol=1e-5
    )
    y = module.apply(variables, jnp.ones(4), x, valid, rngs={"stochastic_depth": jax.random.key(2)})
    kept = np.asarray(jnp.any(y != linear["bias"], axis=1)).reshape(3, 32)
    assert 0.3 < kept.mean() < 0.7 and not np.array_equal(kept[0], kept[1])


class _Unchanged(nn.Module):
    """A stage that changes nothing."""

    average_pooled: bool

    def __call__(self, x, train):
        return x


@pytest.mark.parametrize("average_pooled, pool", [(False, jnp.max), (True, jnp.mean)])
def test_boxes_are_pooled_as_the_stage_says(average_pooled, pool):
    module = BoxEmbedder(_Unchanged(average_pooled), dimension=4)
    features = jax.random.normal(jax.random.key(0), (1, 6, 6, 3))
    arguments = (jnp.asarray([[4.0, 8, 40, 44]]), jnp.zeros(1, jnp.int32), jnp.ones(1, bool), False)
    variables = module.init(jax.random.key(1), features, *arguments)
    patch = roi_align(
        features,
        *arguments[:2],
        output_size=(14, 14),
        spatial_scale=1 / 8,
        sampling_ratio=2,
        aligned=False,
        max_sampling=None,
    )
    pooled = pool(patch, axis=(1, 2))
    projector = {name: tree["projector"] for name, tree in variables.items()}
    expected = ReidProjector(4).apply(projector, pooled, pooled, arguments[2], False)
    np.testing.assert_allclose(module.apply(variables, features, *arguments), expected, rtol=1e-5)


def test_projector_uses_running_statistics_for_a_single_row():
    module = ReidProjector(4)
    shallow, deep = jax.random.normal(jax.random.key(0), (3, 6)), jax.random.normal(jax.random.key(1), (3, 5))
    valid = jnp.asarray([False, True, False])
    variables = module.init(jax.random.key(2), shallow, deep, valid, False)
    trained, changed = module.apply(variables, shallow, deep, valid, True, mutable=["batch_stats"])
    evaluated = module.apply(variables, shallow, deep, valid, False)
    np.testing.assert_array_equal(trained[1], evaluated[1])
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])
    with pytest.raises(ValueError, match="dimension is 5"):
        ReidProjector(5).init(jax.random.key(2), shallow, deep, valid, False)
