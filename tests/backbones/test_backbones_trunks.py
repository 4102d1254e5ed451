"""Trunks: parameter counts, strides, train mode, last stages, types. Their numbers are golden tests."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from ps_jax.backbones import TRUNKS, ConvNeXt, MobileNetV2, PVTv2, ResNet, Swin, build_trunk
from ps_jax.errors import ConfigError

# torchvision's and PVT's own counts, less the classifier and what Swin normalises before it.
PARAMETERS = {
    "resnet50": 25_557_032 - 2_049_000,
    "resnet50_caffe": 25_557_032 - 2_049_000,
    "convnext_tiny": 28_589_128 - 2 * 768 - 769_000,
    "convnext_base": 88_591_464 - 2 * 1024 - 1_025_000,
    "mobilenet_v2": 3_504_872 - 1_281_000 - (320 * 1280 + 2 * 1280),
    "pvt_v2_b0": 3_666_760 - 257_000,
    "pvt_v2_b2": 25_362_856 - 513_000,
    "swin_tiny": 28_288_354 - 2 * 768 - 769_000,
    "swin_small": 49_606_258 - 2 * 768 - 769_000,
    "swin_base": 87_768_224 - 2 * 1024 - 1_025_000,
    "swin_v2_tiny": 28_351_570 - 2 * 768 - 769_000,
    "swin_v2_small": 49_737_442 - 2 * 768 - 769_000,
    "swin_v2_base": 87_930_848 - 2 * 1024 - 1_025_000,
}
# SOLIDER's norms of four maps, and scale and shift of what three stages begin with, from two numbers each.
SOLIDER_EXTRA = {
    "tiny": 2 * (96 + 192 + 384 + 768) + 6 * (192 + 384 + 768),
    "small": 2 * (96 + 192 + 384 + 768) + 6 * (192 + 384 + 768),
    "base": 2 * (128 + 256 + 512 + 1024) + 6 * (256 + 512 + 1024),
}
PARAMETERS |= {f"solider_swin_{size}": PARAMETERS[f"swin_{size}"] + n for size, n in SOLIDER_EXTRA.items()}
# Counted over the tensors that published checkpoints hold for it.
LAST_STAGE_PARAMETERS = {
    "resnet50": 14_964_736,
    "resnet50_caffe": 14_964_736,
    "convnext_tiny": 15_470_592,
    "convnext_base": 27_443_200,
    "mobilenet_v2": 1_269_184,
    "pvt_v2_b0": 1_969_920,
    "pvt_v2_b2": 10_995_712,
    "swin_tiny": 15_366_576,
    "swin_small": 15_366_576,
    "swin_base": 27_304_512,
    "swin_v2_tiny": 15_384_624,
    "swin_v2_small": 15_384_624,
    "swin_v2_base": 27_327_552,
    "solider_swin_tiny": 15_366_576 + 8 * 768,
    "solider_swin_small": 15_366_576 + 8 * 768,
    "solider_swin_base": 27_304_512 + 8 * 1024,
}
SMALL = ("resnet", "convnext", "mobilenet_v2", "pvt_v2", "swin", "swin_v2", "solider_swin")


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes_of(module, *arguments):
    keys = {"params": jax.random.key(0), "stochastic_depth": jax.random.key(1)}
    return jax.eval_shape(lambda: module.init_with_output(keys, *arguments))


def small(name, **options):
    """The architecture at a size that runs in a moment."""
    if name == "convnext":
        return ConvNeXt(depths=(1, 1, 2, 1), widths=(4, 8, 12, 16), **options)
    if name == "pvt_v2":
        return PVTv2(depths=(1, 1, 2, 1), widths=(4, 8, 12, 16), heads=(1, 2, 3, 4), **options)
    if name.endswith(("swin", "swin_v2")):
        options = {"depths": (1, 1, 2, 1), "width": 8, "heads": 2, "window": 4} | options
        options |= {"swin": {}, "swin_v2": {"version": 2}, "solider_swin": {"semantic_weight": 0.6}}[name]
        return Swin(**options)
    return MobileNetV2(**options) if name == "mobilenet_v2" else ResNet(depths=(1, 1, 1, 1), **options)


def fill(shapes, seed=0):
    """Cheap random variables, positive where they are variances."""
    rng = np.random.default_rng(seed)
    flat = traverse_util.flatten_dict(shapes, sep="/")
    filled = {
        path: jnp.asarray(np.abs(value) + 0.5 if path.endswith("var") else value, leaf.dtype)
        for path, leaf in flat.items()
        for value in [rng.normal(1.0 if path.endswith("scale") else 0.0, 0.1, leaf.shape)]
    }
    return traverse_util.unflatten_dict(filled, sep="/")


@pytest.mark.parametrize("name", TRUNKS)
def test_counts_channels_and_strides_are_torchvisions(name):
    trunk = build_trunk(name)
    features, variables = shapes_of(trunk, jnp.zeros((2, 64, 96, 3)), False)
    assert count(variables["params"]) == PARAMETERS[name]
    assert {key: value.shape for key, value in features.items()} == {
        f"c{level}": (2, 64 >> level, 96 >> level, trunk.channels[f"c{level}"]) for level in (2, 3, 4, 5)
    }


@pytest.mark.parametrize("name", TRUNKS)
def test_last_stage_is_the_trunks_from_c4_to_c5(name):
    trunk = build_trunk(name)
    _, trunk_variables = shapes_of(trunk, jnp.zeros((1, 64, 64, 3)), False)
    result, variables = shapes_of(trunk.last_stage(), jnp.zeros((5, 14, 14, trunk.channels["c4"])), False)
    assert result.shape == (5, 7, 7, trunk.channels["c5"])
    chex.assert_trees_all_equal(variables["params"], trunk_variables["params"]["stage4"])
    assert count(variables["params"]) == LAST_STAGE_PARAMETERS[name]


def test_a_last_stage_inside_a_module_has_its_name_and_its_own_weights():
    class Embedder(nn.Module):
        def setup(self):
            self.trunk = small("mobilenet_v2")
            self.copy = self.trunk.last_stage()

        def __call__(self, image):
            return self.copy(self.trunk(image, False)["c4"], False)

    class Compact(nn.Module):
        @nn.compact
        def __call__(self, x):
            return small("mobilenet_v2").last_stage(name="box_embedder")(x, False)

    _, variables = shapes_of(Embedder(), jnp.zeros((1, 32, 32, 3)))
    assert set(variables["params"]) == {"trunk", "copy"}
    _, variables = shapes_of(Compact(), jnp.zeros((1, 4, 4, 96)))
    assert set(variables["params"]) == {"box_embedder"}


def test_last_convolution_adds_the_wide_map():
    trunk = build_trunk("mobilenet_v2", last_convolution=True)
    features, variables = shapes_of(trunk, jnp.zeros((1, 64, 64, 3)), False)
    assert features["c5_wide"].shape == (1, 2, 2, 1280) and trunk.channels["c5_wide"] == 1280
    assert count(variables["params"]) == 3_504_872 - 1_281_000


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2"])
def test_training_moves_every_running_statistic_and_evaluation_none(name):
    trunk = small(name)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 64, 3)), jnp.float32)
    _, shapes = shapes_of(trunk, image, False)
    variables = fill(shapes)
    apply = jax.jit(lambda v, train: trunk.apply(v, image, train, mutable=["batch_stats"]), static_argnums=1)
    trained, changed = apply(variables, True)
    evaluated, unchanged = apply(variables, False)
    before = traverse_util.flatten_dict(variables["batch_stats"], sep="/")
    after = traverse_util.flatten_dict(changed["batch_stats"], sep="/")
    assert all((after[path] != before[path]).any() for path in before)
    chex.assert_trees_all_equal(unchanged["batch_stats"], variables["batch_stats"])
    assert np.abs(trained["c5"] - evaluated["c5"]).max() > 1e-3


@pytest.mark.parametrize("name", ["convnext", "pvt_v2", "swin", "swin_v2"])
def test_stochastic_depth_works_in_training_alone_and_grows_with_depth(name):
    trunk = small(name, stochastic_depth=0.5)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 64, 3)), jnp.float32)
    _, shapes = shapes_of(trunk, image, False)
    variables = fill(shapes)
    keys = [{"stochastic_depth": jax.random.key(seed)} for seed in range(4)]
    apply = jax.jit(lambda v, rngs: trunk.apply(v, image, True, rngs=rngs))
    maps = [apply(variables, rngs) for rngs in keys]
    evaluated = jax.jit(lambda v: trunk.apply(v, image, False))(variables)
    # The first stage holds only the first block, whose rate is 0.
    np.testing.assert_allclose(maps[0]["c2"], evaluated["c2"], atol=1e-5)
    assert max(np.abs(m["c5"] - evaluated["c5"]).max() for m in maps) > 1e-3
    assert [trunk._stage(index, None).stochastic_depth for index in range(4)] == [
        (0.0,),
        (0.125,),
        (0.25, 0.375),
        (0.5,),
    ]


@pytest.mark.parametrize("size, rate", [("tiny", 0.1), ("base", 0.5)])
def test_stochastic_depth_of_convnext_is_torchvisions(size, rate):
    assert build_trunk(f"convnext_{size}").last_stage().stochastic_depth[-1] == rate


@pytest.mark.parametrize("size, rate", [("tiny", 0.2), ("small", 0.3), ("base", 0.5)])
def test_stochastic_depth_of_swin_is_torchvisions_or_soliders(size, rate):
    assert build_trunk(f"swin_{size}").last_stage().stochastic_depth[-1] == rate
    assert build_trunk(f"swin_v2_{size}").last_stage().stochastic_depth[-1] == rate
    assert build_trunk(f"solider_swin_{size}").last_stage().stochastic_depth[-1] == 0.1
    assert build_trunk(f"swin_{size}", stochastic_depth=0.0).last_stage().stochastic_depth == (0.0, 0.0)


@pytest.mark.parametrize("size", ["b0", "b2"])
def test_stochastic_depth_of_pvt_is_the_releases(size):
    assert build_trunk(f"pvt_v2_{size}").last_stage().stochastic_depth[-1] == 0.1


@pytest.mark.slow
def test_kernels_of_pvt_start_with_the_releases_deviations():
    """Convolutions sqrt(2 / fan out), depthwise ones sqrt(2 / 9): the release divides by the groups."""
    _, variables = PVTv2(depths=(1, 1, 1, 1)).init_with_output(
        jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False
    )
    stage = variables["params"]["stage3"]
    expected = {
        "patch_conv": (2 / (9 * 320)) ** 0.5,
        "block0/depthwise": (2 / 9) ** 0.5,
        "block0/attention/reduce": (2 / (4 * 320)) ** 0.5,
        "block0/expand": 0.02 * 0.8796,  # cut at two deviations
    }
    flat = traverse_util.flatten_dict(stage, sep="/")
    for path, deviation in expected.items():
        np.testing.assert_allclose(np.std(flat[f"{path}/kernel"]), deviation, rtol=0.05, err_msg=path)
        assert not np.any(flat[f"{path}/bias"])


@pytest.mark.parametrize("name", SMALL)
def test_an_image_has_the_same_features_alone_and_in_a_batch(name):
    trunk = small(name)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(3, 64, 96, 3)), jnp.float32)
    _, shapes = shapes_of(trunk, image, False)
    variables = fill(shapes)
    apply = jax.jit(lambda v, image: trunk.apply(v, image, False))
    alone, together = apply(variables, image[1:2]), apply(variables, image)
    for level, value in alone.items():
        np.testing.assert_allclose(value[0], together[level][1], atol=1e-5 * np.abs(value).max())


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_variables(name):
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 64, 64, 3)), jnp.float32)
    _, shapes = shapes_of(small(name), image, False)
    features, half_shapes = shapes_of(small(name, dtype=jnp.bfloat16), image, False)
    chex.assert_trees_all_equal(shapes, half_shapes)
    assert {value.dtype for value in features.values()} == {jnp.dtype(jnp.bfloat16)}
    variables = fill(shapes)
    full, half = (
        jax.jit(lambda v, trunk=trunk: trunk.apply(v, image, False)["c5"])(variables)
        for trunk in (small(name), small(name, dtype=jnp.bfloat16))
    )
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.05 * np.abs(full).max())


def test_an_unknown_trunk_is_named_with_the_choices():
    with pytest.raises(ConfigError, match=r"no trunk 'resnet5'. Choose one of: resnet50, resnet50_caffe, "):
        build_trunk("resnet5")
