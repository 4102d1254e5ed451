"""Swin Transformers piece by piece, against their published formulas written out cell by cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ps_jax.backbones import Swin, build_trunk
from ps_jax.backbones.swin import SwinBlock, SwinStage
from ps_jax.backbones.window_attention import WindowAttention

HEADS, WINDOW, CHANNELS = 2, 4, 6


def random_like(shapes, seed=0):
    """Random parameters; scales of a normalisation lie about 1."""
    rng = np.random.default_rng(seed)
    flat = traverse_util.flatten_dict(shapes, sep="/")
    return traverse_util.unflatten_dict(
        {
            path: jnp.asarray(rng.normal(float(path.endswith("scale")), 0.5, leaf.shape), jnp.float32)
            for path, leaf in flat.items()
        },
        sep="/",
    )


def random_parameters(module, *arguments):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments))
    return random_like(shapes["params"])


def features(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def layer_norm(x, params):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + 1e-5) * params["scale"] + params["bias"]


def gelu(x):
    return np.asarray(jax.scipy.stats.norm.cdf(x)) * x


def bias_of_offset(vertical, horizontal, params, version):
    """The bias of all heads for a key so many cells above and to the left of the query."""
    if version == 1:
        row = (vertical + WINDOW - 1) * (2 * WINDOW - 1) + horizontal + WINDOW - 1
        return params["relative_position_bias"][row]
    offset = np.array([vertical, horizontal], np.float64)
    offset = np.sign(offset) * np.log(1 + 8 * np.abs(offset) / (WINDOW - 1)) / np.log(8)
    expand, project = params["position_expand"], params["position_project"]
    hidden = np.maximum(offset @ expand["kernel"] + expand["bias"], 0)
    return 16 / (1 + np.exp(-hidden @ project["kernel"]))


def attention_by_cells(x, params, version, shift, shift_single_window):
    """Every cell of one map attends to the cells of its window, windows beginning at `shift` - `WINDOW`."""
    params, x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, x))
    height, width, channels = x.shape
    padded = np.zeros((-(-height // WINDOW) * WINDOW, -(-width // WINDOW) * WINDOW, channels))
    padded[:height, :width] = x
    bias = params["qkv_bias"].reshape(3, HEADS, -1)
    qkv = (padded @ params["qkv"]["kernel"]).reshape(*padded.shape[:2], *bias.shape)
    if version == 2:
        bias = bias * np.array([1, 0, 1])[:, None, None]
    query, key, value = np.moveaxis(qkv + bias, 2, 0)
    if version == 2:
        query, key = (v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12) for v in (query, key))
        factor = np.exp(np.minimum(params["logit_scale"], np.log(100)))
    else:
        factor = np.full(HEADS, (channels // HEADS) ** -0.5)

    begin = [0 if length <= WINDOW and not shift_single_window else shift for length in padded.shape[:2]]
    cells = [(i, j) for i in range(padded.shape[0]) for j in range(padded.shape[1])]
    window = {(i, j): ((i - begin[0]) // WINDOW, (j - begin[1]) // WINDOW) for i, j in cells}
    result = np.zeros((height, width, channels))
    for i, j in cells:
        if i >= height or j >= width:
            continue
        seen = [cell for cell in cells if window[cell] == window[i, j]]
        logits = np.array(
            [
                (query[i, j] * key[cell]).sum(-1) * factor
                + bias_of_offset(i - cell[0], j - cell[1], params, version)
                for cell in seen
            ]
        )
        weights = np.exp(logits - logits.max(0))
        weights /= weights.sum(0)
        mixed = sum(weight[:, None] * value[cell] for weight, cell in zip(weights, seen, strict=True))
        result[i, j] = mixed.reshape(-1) @ params["project"]["kernel"] + params["project"]["bias"]
    return result


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize(
    "size, shift_single_window", [((8, 8), False), ((9, 6), False), ((3, 7), False), ((3, 7), True)]
)
def test_attention_is_that_of_the_cells_of_each_window(version, shift, size, shift_single_window):
    module = WindowAttention(HEADS, WINDOW, shift, version, shift_single_window)
    x = features((2, *size, CHANNELS))
    params = random_parameters(module, x)
    if version == 2:
        # 5 is above the highest one. With that, cells out of sight would be seen a little: their logits are 100 lower.
        params["logit_scale"] = jnp.asarray([1.0, 2.0 if shift else 5.0])
    result = jax.jit(module.apply)({"params": params}, x)
    expected = [attention_by_cells(each, params, version, shift, shift_single_window) for each in x]
    np.testing.assert_allclose(result, expected, atol=2e-5)


@pytest.mark.parametrize("version", [1, 2])
def test_a_block_normalises_before_its_branches_in_version_1_and_after_them_in_version_2(version):
    block = SwinBlock(HEADS, WINDOW, shifted=True, version=version)
    x = features((1, 5, 6, CHANNELS))
    params = random_parameters(block, x, False)

    def attend(x):
        attention = WindowAttention(HEADS, WINDOW, WINDOW // 2, version)
        return np.asarray(attention.apply({"params": params["attention"]}, jnp.asarray(x)))

    def perceive(x):
        expand, project = params["expand"], params["project"]
        return gelu(x @ expand["kernel"] + expand["bias"]) @ project["kernel"] + project["bias"]

    expected = np.asarray(x)
    for branch, norm in ((attend, params["norm1"]), (perceive, params["norm2"])):
        if version == 1:
            expected = expected + branch(layer_norm(expected, norm))
        else:
            expected = expected + layer_norm(branch(expected), norm)
    result = block.apply({"params": params}, x, False)
    np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("semantic_weight", [None, 0.6])
def test_a_stage_begins_with_four_cells_made_one(version, semantic_weight):
    stage = SwinStage((), 10, HEADS, version=version, semantic_weight=semantic_weight)
    x = features((2, 5, 4, CHANNELS))
    params = random_parameters(stage, x, False)
    padded = np.zeros((2, 6, 4, CHANNELS), np.float32)
    padded[:, :5] = x
    merged = np.concatenate([padded[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], axis=-1)
    norm, kernel = params["downsample_norm"], params["downsample_reduction"]["kernel"]
    expected = layer_norm(merged, norm) @ kernel if version == 1 else layer_norm(merged @ kernel, norm)
    if semantic_weight is not None:
        scale, shift = (
            np.array([0.6, 0.4]) @ params[f"semantic_{name}"]["kernel"] + params[f"semantic_{name}"]["bias"]
            for name in ("scale", "shift")
        )
        expected = expected * np.log1p(np.exp(scale)) + shift
    np.testing.assert_allclose(stage.apply({"params": params}, x, False), expected, atol=1e-4)


def test_solider_normalises_the_maps_it_returns_and_not_those_that_go_on():
    solider = Swin(depths=(1, 0, 0, 1), width=8, heads=2, window=4, semantic_weight=0.6)
    image = features((1, 64, 96, 3))
    params = random_parameters(solider, image, False)
    maps, seen = solider.apply({"params": params}, image, False, capture_intermediates=True)
    norms = [params[f"stage{stage}_norm"] for stage in (1, 2, 3)] + [params["stage4"]["norm"]]
    x = seen["intermediates"]["stage3"]["__call__"][0]
    np.testing.assert_allclose(layer_norm(np.asarray(x), norms[2]), maps["c4"], atol=1e-4)
    last = solider.last_stage().apply({"params": params["stage4"]}, x, False)
    np.testing.assert_allclose(last, maps["c5"], atol=1e-4)
    for level, norm in zip(("c2", "c3", "c4", "c5"), norms, strict=True):
        normal = (np.asarray(maps[level]) - norm["bias"]) / norm["scale"]
        np.testing.assert_allclose(normal.mean(-1), 0.0, atol=1e-4)
    assert solider.last_stage().average_pooled and not build_trunk("swin_tiny").last_stage().average_pooled


@pytest.mark.parametrize(
    "options, last",
    [
        ({}, (1, 2)),
        pytest.param({"version": 2}, (1, 2), marks=pytest.mark.slow),
        ({"semantic_weight": 0.6}, (2, 2)),
    ],
)
def test_any_size_of_image_is_taken_and_all_gradients_are_finite(options, last):
    """34 x 53 pixels: 8 x 13 patches, with padding 9 x 14; then 4 x 7 or 5 x 7 cells, and so on."""
    trunk = Swin(depths=(2, 1, 1, 1), width=8, heads=2, window=4, stochastic_depth=0.0, **options)
    image = features((2, 34, 53, 3))
    params = random_parameters(trunk, image, False)
    # Biases as they start: with those of zero, queries and keys of padded cells are zero in version 2.
    params = jax.tree.map_with_path(lambda path, x: x * ("bias" not in path[-1].key), params)

    def objective(params):
        maps = trunk.apply({"params": params}, image, True)
        return sum(jnp.sum(jnp.sin(value)) for value in maps.values()), maps["c5"]

    gradient, c5 = jax.jit(jax.grad(objective, has_aux=True))(params)
    assert c5.shape == (2, *last, 64)
    for path, value in traverse_util.flatten_dict(gradient, sep="/").items():
        assert np.isfinite(value).all() and np.any(value), path


@pytest.mark.slow
def test_solider_pads_images_to_whole_patches_and_torchvision_cuts_them():
    image = features((1, 34, 37, 3))
    for semantic_weight, whole in (
        (0.6, jnp.pad(image, ((0, 0), (0, 2), (0, 3), (0, 0)))),
        (None, image[:, :32, :36]),
    ):
        trunk = Swin(depths=(1, 1, 0, 0), width=8, heads=2, window=4, semantic_weight=semantic_weight)
        params = random_parameters(trunk, image, False)
        maps, expected = (trunk.apply({"params": params}, each, False) for each in (image, whole))
        for level, value in maps.items():
            np.testing.assert_array_equal(value, expected[level])
