"""Classifiers behind the trunks: from whole checkpoints to logits worked out with numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_recipe import load_golden

from ps_jax.backbones import build_trunk
from ps_jax.errors import ConfigError, PortingError
from ps_jax.porting import load_classifier_weights, port_classifier

SHAPES = {
    "resnet50": (2, 3, 2048),
    "convnext_tiny": (2, 3, 768),
    "mobilenet_v2": (2, 3, 320),
    "pvt_v2_b2": (2, 3, 512),
    "swin_tiny": (2, 3, 768),
}
FILES = {trunk: f"bb_{trunk}" for trunk in SHAPES} | {"swin_tiny": "bb_swin_t"}
LINEAR = {
    "resnet50": "fc",
    "convnext_tiny": "classifier.2",
    "mobilenet_v2": "classifier.1",
    "pvt_v2_b2": "head",
    "swin_tiny": "head",
}


def classifier_of(trunk):
    """(module, map c5 of two images, template)"""
    module = build_trunk(trunk).classifier()
    features = jax.random.normal(jax.random.key(0), (2, *SHAPES[trunk]))
    template = jax.eval_shape(lambda: module.init(jax.random.key(0), features, False))
    return module, features, template


def checkpoint(golden_dir, trunk):
    """A whole torchvision file; that of MobileNetV2 was stored without the linear layer."""
    tensors = load_golden(golden_dir, FILES[trunk]).params()
    if trunk == "mobilenet_v2":
        rng = np.random.default_rng(0)
        tensors["classifier.1.weight"] = rng.normal(size=(1000, 1280)).astype(np.float32) / 36.0
        tensors["classifier.1.bias"] = rng.normal(size=1000).astype(np.float32)
    return tensors


def expected_logits(trunk, tensors, features):
    x = np.asarray(features, np.float64)
    if trunk == "mobilenet_v2":
        norm = {name: tensors[f"features.18.1.{name}"] for name in ("weight", "bias")}
        mean, var = (tensors[f"features.18.1.running_{name}"] for name in ("mean", "var"))
        x = x @ tensors["features.18.0.weight"][:, :, 0, 0].T
        x = np.clip((x - mean) / np.sqrt(var + 1e-5) * norm["weight"] + norm["bias"], 0, 6)
    if trunk == "swin_tiny":
        x = layer_norm(x, tensors["norm.weight"], tensors["norm.bias"], 1e-5)
    x = x.mean(axis=(1, 2))
    if trunk == "convnext_tiny":
        x = layer_norm(x, tensors["classifier.0.weight"], tensors["classifier.0.bias"], 1e-6)
    return x @ tensors[f"{LINEAR[trunk]}.weight"].T + tensors[f"{LINEAR[trunk]}.bias"]


def layer_norm(x, weight, bias, epsilon):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(x.var(axis=-1, keepdims=True) + epsilon) * weight + bias


@pytest.mark.parametrize("trunk", list(SHAPES))
def test_a_ported_classifier_gives_the_logits_of_the_checkpoint(golden_dir, trunk, tmp_path):
    module, features, template = classifier_of(trunk)
    tensors = checkpoint(golden_dir, trunk)
    np.savez(tmp_path / "weights.npz", **tensors)
    variables = load_classifier_weights(tmp_path / "weights.npz", trunk, template)
    logits = module.apply(variables, features, False)
    expected = expected_logits(trunk, tensors, features)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_mobilenet_v2s_convolution_is_the_one_of_the_trunk(golden_dir):
    golden = load_golden(golden_dir, "bb_mobilenet_v2")
    module, _, template = classifier_of("mobilenet_v2")
    variables = port_classifier(checkpoint(golden_dir, "mobilenet_v2"), "mobilenet_v2", template)

    def convolution(classifier, features):
        return classifier.convolution(features, False)

    features = jnp.asarray(golden.array("c5", "NCHW"))
    golden.check("c5_last", module.apply(variables, features, method=convolution), relative=1e-4)


@pytest.mark.parametrize("trunk", list(SHAPES))
def test_weights_without_a_classifier_are_told_of(golden_dir, trunk):
    _, _, template = classifier_of(trunk)
    tensors = checkpoint(golden_dir, trunk)
    without = {name: x for name, x in tensors.items() if not name.startswith(LINEAR[trunk])}
    with pytest.raises(ConfigError, match=r"hold no classifier .* leave lwf out"):
        port_classifier(without, trunk, template)


def test_other_classes_and_other_trunks_are_told_of(golden_dir):
    _, _, template = classifier_of("resnet50")
    tensors = checkpoint(golden_dir, "resnet50")
    with pytest.raises(PortingError, match=r"fc.weight 10x2048 becomes 2048x10"):
        port_classifier(tensors | {"fc.weight": np.zeros((10, 2048), np.float32)}, "resnet50", template)
    with pytest.raises(ConfigError, match="no porting table for the classifier of a trunk 'vgg'"):
        port_classifier(tensors, "vgg", template)
    with pytest.raises(ConfigError, match="SOLIDER's Swin trunks have no ImageNet classifier"):
        build_trunk("solider_swin_tiny").classifier()
