"""Trunk tables: whole checkpoints, last-stage copies under other names, and published weights."""

import os
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_recipe import IMAGE_MEAN, IMAGE_STD, load_golden
from PIL import Image

from ps_jax.backbones import build_trunk
from ps_jax.errors import ConfigError, PortingError
from ps_jax.porting import (
    Rule,
    convnext_stage_rules,
    load_trunk_weights,
    match_rules,
    mobilenet_v2_stage_rules,
    port_tensors,
    port_trunk,
    pvt_v2_stage_rules,
    resnet_stage_rules,
    restore_tensors,
    solider_swin_stage_rules,
    swin_stage_rules,
    trunk_rules,
)
from ps_jax.porting.swin import unfolded_kernel, unfolded_vector
from ps_jax.porting.torch_writing import write_torch_file

# The checkpoint's name of the last stage inside each trunk, and of its copy in a box embedder.
COPY = "head.align_emb_head.emb_head.head."
GOLDEN = {"swin_tiny": "bb_swin_t", "swin_v2_tiny": "bb_swin_v2_t"}  # files under torchvision's names


def shapes_of(trunk, **options):
    module = build_trunk(trunk, **options)
    return jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))


def stage_shapes(trunk):
    module = build_trunk(trunk)
    x = jnp.zeros((1, 4, 4, module.channels["c4"]))
    return jax.eval_shape(lambda: module.last_stage().init(jax.random.key(0), x, False))


def checkpoint(golden_dir, trunk):
    """Every tensor of a published file, the classifier's and the counters and indices too."""
    golden = load_golden(golden_dir, GOLDEN.get(trunk, f"bb_{trunk}"))
    counters = {name: np.zeros(shape, np.int64) for name, shape in golden.meta["untouched"]}
    return golden.params() | counters


@pytest.mark.parametrize(
    "trunk",
    [
        *("resnet50", "convnext_tiny", "mobilenet_v2", "swin_tiny", "swin_v2_tiny", "solider_swin_tiny"),
        "pvt_v2_b2",
    ],
)
def test_a_copy_of_the_last_stage_ports_like_the_trunks(golden_dir, trunk):
    tensors = checkpoint(golden_dir, trunk)
    whole = port_trunk(tensors, trunk, shapes_of(trunk))
    if trunk == "resnet50":
        renamed = {"layer4.": COPY}
        rules = resnet_stage_rules(COPY, "")
    elif trunk == "convnext_tiny":
        renamed = {"features.6.": f"{COPY}0.", "features.7.": f"{COPY}1."}
        rules = convnext_stage_rules(f"{COPY}0.", f"{COPY}1.", "")
    elif trunk.startswith("swin"):
        renamed = {"features.6.": f"{COPY}0.", "features.7.": f"{COPY}1."}
        rules = swin_stage_rules(f"{COPY}0.", f"{COPY}1.", "")
    elif trunk == "pvt_v2_b2":
        parts = ("patch_embed4.", "block4.", "norm4.")
        renamed = {part: COPY + part for part in parts}
        rules = pvt_v2_stage_rules(COPY, "")
    elif trunk == "solider_swin_tiny":  # the copy is of the whole network
        renamed = {"": COPY}
        rules = [*solider_swin_stage_rules(COPY, ""), Rule(f"{COPY}*", None)]
    else:
        renamed = {f"features.{14 + index}.": f"{COPY}{index}." for index in range(4)}
        rules = mobilenet_v2_stage_rules(COPY, "", first=0)
    copied = {
        new + name.removeprefix(old): tensor
        for name, tensor in tensors.items()
        for old, new in renamed.items()
        if name.startswith(old)
    }
    stage = port_tensors(copied, rules, stage_shapes(trunk))
    for collection, variables in stage.items():
        chex.assert_trees_all_equal(variables, whole[collection]["stage4"])
    assert ("batch_stats" in stage) == (trunk in ("resnet50", "mobilenet_v2"))


def test_pvts_names_lead_both_ways(golden_dir):
    """Every tensor but the classifier's comes back from the variables bit for bit."""
    tensors = checkpoint(golden_dir, "pvt_v2_b2")
    ported = port_trunk(tensors, "pvt_v2_b2", shapes_of("pvt_v2_b2"))
    back = restore_tensors(ported, trunk_rules("pvt_v2_b2", tuple(tensors)))
    assert set(tensors) - set(back) == {"head.weight", "head.bias"} and set(back) < set(tensors)
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)


def test_the_two_ways_of_writing_mobilenet_v2_are_one(golden_dir):
    nested = checkpoint(golden_dir, "mobilenet_v2")
    flat = {}
    for name, tensor in nested.items():
        parts = name.split(".")
        if "conv" in parts:
            single = parts[1] == "1"  # the first block has no expansion
            at = parts.index("conv") + 1
            activated = 1 if single else 2
            if int(parts[at]) < activated:  # conv.a.b: convolution and norm of an activated part
                parts[at : at + 2] = [str(3 * int(parts[at]) + int(parts[at + 1]))]
            else:
                parts[at] = str(3 * activated + int(parts[at]) - activated)
        flat[".".join(parts)] = tensor
    assert set(flat) != set(nested) and "features.2.conv.7.running_mean" in flat
    template = shapes_of("mobilenet_v2", last_convolution=True)
    chex.assert_trees_all_equal(
        port_trunk(flat, "mobilenet_v2", template), port_trunk(nested, "mobilenet_v2", template)
    )


def test_merged_cells_of_solider_change_their_order():
    """Its four cells lie side by side for each channel, ours are maps one after the other."""
    rng = np.random.default_rng(0)
    cells, kernel = (
        rng.normal(size=(2, 2, 5)),
        rng.normal(size=(3, 20)),
    )  # (row, column, channel), (out, merged)
    theirs = cells.transpose(2, 0, 1).reshape(-1)
    ours = np.concatenate([cells[row, column] for column in (0, 1) for row in (0, 1)])
    np.testing.assert_allclose(ours @ unfolded_kernel(kernel), kernel @ theirs)
    np.testing.assert_array_equal(unfolded_vector(theirs), ours)


def test_soliders_trunk_is_found_alone_and_beside_its_training_heads(golden_dir, tmp_path):
    trunk = "solider_swin_tiny"
    alone = checkpoint(golden_dir, trunk)
    beside = {f"backbone.{name}": tensor for name, tensor in alone.items()}
    np.savez(tmp_path / "weights.npz", **beside, **{"head.last_layer.weight_v": np.zeros((4, 4), np.float32)})
    template = shapes_of(trunk)
    loaded = load_trunk_weights(tmp_path / "weights.npz", trunk, template)
    chex.assert_trees_all_equal(loaded, port_trunk(alone, trunk, template))


@pytest.mark.parametrize(
    "trunk", ["resnet50", "convnext_tiny", "mobilenet_v2", "pvt_v2_b2", "swin_tiny", "swin_v2_tiny"]
)
def test_published_files_load_with_their_classifier_left_out(golden_dir, tmp_path, trunk):
    """torchvision's and PVT's files as they are: PyTorch's format, counters, indices and classifier in them."""
    tensors = checkpoint(golden_dir, trunk)
    if trunk == "mobilenet_v2":  # stored without its linear layer
        tensors["classifier.1.weight"] = np.zeros((1000, 1280), np.float32)
    template = shapes_of(trunk)
    unused = set(tensors) - set(match_rules(tensors, trunk_rules(trunk, tuple(tensors))))
    assert unused, "the file should have a classifier"
    write_torch_file(tmp_path / "weights.pth", tensors)
    loaded = load_trunk_weights(tmp_path / "weights.pth", trunk, template)
    chex.assert_trees_all_equal(loaded, port_trunk(tensors, trunk, template))


def test_a_file_of_another_trunk_is_refused_with_every_name(golden_dir, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **checkpoint(golden_dir, "mobilenet_v2"))
    template = shapes_of("convnext_tiny")
    with pytest.raises(PortingError) as caught:
        load_trunk_weights(path, "convnext_tiny", template)
    lines = str(caught.value).splitlines()
    assert sum("no rule takes this name" in line for line in lines) > 250
    assert any(line.strip().startswith("params/stage4/block2/layer_scale") for line in lines)
    assert any("features.0.0.weight 32x3x3x3 becomes 3x3x3x32" in line for line in lines)


def test_a_trunk_without_a_table_is_refused():
    with pytest.raises(ConfigError, match="no porting table for a trunk 'vgg16'"):
        trunk_rules("vgg16", ())


@pytest.mark.real_data
def test_published_mobilenet_v2_weights_give_sensible_features():
    """ImageNet weights load from the file as it was published, and a photograph excites every map."""
    data = os.environ.get("PS_JAX_REAL_DATA")
    if not data:
        pytest.skip("PS_JAX_REAL_DATA is not set")
    path = Path(data).parent / "weights" / "mobilenet_v2_imagenet" / "mobilenet_v2_imagenet.npz"
    pictures = sorted((Path(data) / "prw_c6s1" / "frames").rglob("*.jpg"))
    if not path.is_file() or not pictures:
        pytest.skip(f"{path} or the frames of prw_c6s1 are missing")
    trunk = build_trunk("mobilenet_v2", last_convolution=True)
    variables = load_trunk_weights(path, "mobilenet_v2", shapes_of("mobilenet_v2", last_convolution=True))
    apply = jax.jit(lambda image: trunk.apply(variables, image, False))
    means = []
    for picture in (pictures[0], pictures[-1]):
        pixels = np.asarray(Image.open(picture).convert("RGB").resize((320, 192)), np.float32) / 255
        features = apply(jnp.asarray((pixels - IMAGE_MEAN) / IMAGE_STD)[None])
        for name, values in features.items():
            assert np.isfinite(values).all(), name
            # Statistics that belong to the weights keep every map near unit scale.
            assert 0.1 < np.std(values) < 2.0, (name, float(np.std(values)))
        wide = np.asarray(features["c5_wide"])
        assert wide.min() >= 0.0 and wide.max() <= 6.0
        assert 0.3 < np.mean(wide == 0.0) < 0.98  # sparse after ReLU6
        assert np.mean(wide.max(axis=(0, 1, 2)) > 0.0) > 0.9  # hardly a dead channel
        means.append(wide.mean(axis=(0, 1, 2)))
    # Two frames of one camera are alike, but not the same; with misplaced channels they were (0.99999).
    cosine = np.vdot(means[0], means[1]) / np.linalg.norm(means[0]) / np.linalg.norm(means[1])
    assert 0.7 < cosine < 0.95
