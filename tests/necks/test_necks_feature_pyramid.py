"""The feature pyramid against its definition, at sizes that do not halve evenly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.errors import ConfigError
from ps_jax.layers import convolve
from ps_jax.necks import FeaturePyramid

WIDTH = 6


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    sizes = {"c3": (9, 13, 3), "c4": (5, 7, 4), "c5": (3, 4, 5)}
    features = {name: jnp.asarray(rng.normal(size=(2, *size)), jnp.float32) for name, size in sizes.items()}
    shapes = jax.eval_shape(lambda: FeaturePyramid(WIDTH).init(jax.random.key(0), features))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes["params"]
    )
    return features, params


def conv(params, x, stride=1):
    padding = params["kernel"].shape[0] // 2
    result = convolve(x, params["kernel"], stride=(stride,) * 2, padding=(padding,) * 2, implementation="xla")
    return result + params["bias"]


def enlarge(x, size):
    rows = np.floor(np.arange(size[0]) * x.shape[1] / size[0]).astype(int)
    columns = np.floor(np.arange(size[1]) * x.shape[2] / size[1]).astype(int)
    return x[:, rows][:, :, columns]


def test_levels_are_those_of_the_definition(case):
    features, params = case
    levels = FeaturePyramid(WIDTH).apply({"params": params}, features)
    m5 = conv(params["lateral5"], features["c5"])
    m4 = conv(params["lateral4"], features["c4"]) + enlarge(m5, (5, 7))
    m3 = conv(params["lateral3"], features["c3"]) + enlarge(m4, (9, 13))
    p6 = conv(params["p6"], features["c5"], stride=2)
    want = {
        "p3": conv(params["output3"], m3),
        "p4": conv(params["output4"], m4),
        "p5": conv(params["output5"], m5),
        "p6": p6,
        "p7": conv(params["p7"], jnp.maximum(p6, 0.0), stride=2),
    }
    assert list(levels) == list(want)
    for name, level in levels.items():
        np.testing.assert_allclose(level, want[name], atol=1e-5 * np.abs(want[name]).max(), err_msg=name)
    assert levels["p6"].shape == (2, 2, 2, WIDTH) and levels["p7"].shape == (2, 1, 1, WIDTH)


def test_even_sizes_repeat_every_position(case):
    _, params = case
    features = {f"c{level}": jnp.zeros((1, 64 >> level, 64 >> level, level)) for level in (3, 4, 5)}
    features["c5"] = jnp.asarray(np.random.default_rng(1).normal(size=features["c5"].shape), jnp.float32)
    m5 = conv(params["lateral5"], features["c5"])
    m4 = params["lateral4"]["bias"] + np.repeat(np.repeat(m5, 2, 1), 2, 2)
    levels = FeaturePyramid(WIDTH).apply({"params": params}, features)
    want = conv(params["output4"], m4)
    np.testing.assert_allclose(levels["p4"], want, atol=1e-5 * np.abs(want).max())


def test_parameters_start_as_torchvisions(case):
    features, _ = case
    params = FeaturePyramid(64).init(jax.random.key(0), features)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == (
        64 * (3 + 4 + 5) + 3 * 64 + 3 * (9 * 64 * 64 + 64) + (9 * 5 * 64 + 64) + (9 * 64 * 64 + 64)
    )
    for name, layer in params.items():
        np.testing.assert_array_equal(layer["bias"], 0.0, err_msg=name)
        fan_in = np.prod(layer["kernel"].shape[:-1])
        largest = np.abs(layer["kernel"]).max()
        assert 0.9 * (3 / fan_in) ** 0.5 < largest <= (3 / fan_in) ** 0.5 * (1 + 1e-6), name


def test_without_extra_levels_there_are_three(case):
    features, _ = case
    levels = jax.eval_shape(
        lambda: FeaturePyramid(WIDTH, extra_levels=None).init_with_output(jax.random.key(0), features)
    )[0]
    assert list(levels) == ["p3", "p4", "p5"]


def test_levels_that_are_not_wanted_have_no_output(case):
    features, params = case
    whole = FeaturePyramid(WIDTH).apply({"params": params}, features)
    wanted = {name: tree for name, tree in params.items() if name not in ("output5", "p6", "p7")}
    part = FeaturePyramid(WIDTH, extra_levels=None, levels=(3, 4)).apply({"params": wanted}, features)
    assert list(part) == ["p3", "p4"]
    for name, level in part.items():
        np.testing.assert_array_equal(level, whole[name])


def test_unknown_extra_levels_are_refused(case):
    features, params = case
    with pytest.raises(ConfigError, match=r"extra_levels is 'p6'. Use 'p6p7', 'p6p7_of_p5', 'pool' or None."):
        FeaturePyramid(WIDTH, extra_levels="p6").apply({"params": params}, features)
