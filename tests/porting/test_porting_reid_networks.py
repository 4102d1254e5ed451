"""Re-identification networks from files: ONNX by hand, OSNet against its own graph computed in numpy."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from onnx_evaluation import evaluate, write_onnx

from ps_jax.errors import PortingError
from ps_jax.heads import ReidNetwork
from ps_jax.porting import load_reid_network, port_reid_network, read_tensors
from ps_jax.porting.onnx_files import read_onnx_graph
from ps_jax.porting.reid_networks import unfolded
from ps_jax.porting.rules import restore_tensors
from ps_jax.porting.trunks import resnet_rules


def _template(network, crop=(64, 32)):
    return jax.eval_shape(lambda: network.init(jax.random.key(0), crop, method="initialise"))


def test_tensors_without_a_name_are_called_after_their_module(tmp_path):
    kernel, bias, own = (
        np.arange(n, dtype=np.float32).reshape(s) for n, s in ((6, (2, 3)), (2, (2,)), (1, (1,)))
    )
    nodes = [
        (
            "Conv",
            ["input", "onnx::Conv_1", "onnx::Conv_2"],
            ["/conv2/conv2.0/conv2b/conv2b.1/conv2/Conv_output_0"],
        ),
        ("Conv", ["x", "own.weight"], ["/own/Conv_output_0"]),
    ]
    path = tmp_path / "network.onnx"
    path.write_bytes(write_onnx(nodes, {"onnx::Conv_1": kernel, "onnx::Conv_2": bias, "own.weight": own}))
    tensors = read_tensors(path)
    assert list(tensors) == ["conv2.0.conv2b.1.conv2.weight", "conv2.0.conv2b.1.conv2.bias", "own.weight"]
    np.testing.assert_array_equal(tensors["conv2.0.conv2b.1.conv2.weight"], kernel)
    node = read_onnx_graph(path).nodes[0]
    assert node.operation == "Conv" and node.attributes == {"epsilon": 0.5, "strides": [2, 300]}


@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b[:3], lambda b: b"no model", lambda b: b""])
def test_a_damaged_file_is_told(tmp_path, damage):
    path = tmp_path / "network.onnx"
    path.write_bytes(damage(write_onnx([], {"weight": np.ones((3, 2))})))
    with pytest.raises(PortingError, match=r"network\.onnx"):
        read_tensors(path)


@pytest.mark.parametrize(
    "graph",
    [
        b"\x0a\x02\x08\x01",  # a node whose input, a text, is a number
        b"\x2a\x02\x40\x01",  # likewise the name of a tensor
        b"\x0a\x04\x2a\x02\x08\x01",  # and that of an attribute
        b"\x28\x01",  # a tensor, a message, is a number
    ],
)
def test_a_field_of_another_kind_is_told(tmp_path, graph):
    path = tmp_path / "network.onnx"
    path.write_bytes(b"\x3a" + bytes([len(graph)]) + graph)
    with pytest.raises(PortingError, match=r"network\.onnx is not a readable"):
        read_tensors(path)


def test_normalisation_that_was_folded_in_comes_back():
    tensors = {
        "conv1.conv.weight": np.ones((4, 3, 7, 7)),
        "conv1.conv.bias": np.arange(4.0),
        "fc.0.bias": np.ones(2),
    }
    whole = unfolded(tensors)
    assert whole["fc.0.bias"] is tensors["fc.0.bias"] and "conv1.conv.bias" not in whole
    x = np.linspace(-2, 2, 4)
    normal = (x - whole["conv1.bn.running_mean"]) / np.sqrt(whole["conv1.bn.running_var"] + 1e-5)
    np.testing.assert_allclose(
        normal * whole["conv1.bn.weight"] + whole["conv1.bn.bias"], x + np.arange(4.0), rtol=1e-12
    )


@pytest.mark.real_data
@pytest.mark.slow
def test_osnet_computes_what_its_graph_does():
    data = os.environ.get("PS_JAX_REAL_DATA")
    if not data:
        pytest.skip("PS_JAX_REAL_DATA is not set")
    path = Path(data).parent / "weights" / "osnet_x0_25_msmt17" / "osnet_x0_25_msmt17.onnx"
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    network = ReidNetwork("osnet_x0_25")
    variables = load_reid_network(path, "osnet_x0_25", _template(network))
    fresh = network.init(jax.random.key(0), (64, 32), method="initialise")
    variables = {name: {**fresh[name], **tree} for name, tree in variables.items()}
    image = np.random.default_rng(0).normal(size=(2, 3, 64, 32)).astype(np.float32)
    expected = evaluate(read_onnx_graph(path), image)
    pooled, neck = jax.jit(lambda v, x: network.apply(v, x, train=False))(
        variables, jnp.asarray(image.transpose(0, 2, 3, 1))
    )
    assert pooled.shape == (2, 512) and np.any(expected > 0)
    np.testing.assert_allclose(pooled, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(neck, pooled / np.sqrt(1 + 1e-5), rtol=1e-6)  # a neck that was never trained


def test_reid_baseline_brings_neck_and_classifier():
    network = ReidNetwork("resnet50", classes=5)
    template = _template(network)
    shapes = {name: {"backbone": tree["backbone"]} for name, tree in template.items()}
    filled = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    tensors = restore_tensors(filled, resnet_rules("base.", "backbone/"))
    neck = {
        name: np.full(2048, number, np.float32)
        for number, name in enumerate(("weight", "bias", "running_mean", "running_var"))
    }
    tensors |= {f"bottleneck.{name}": value for name, value in neck.items()}
    tensors["classifier.weight"] = np.arange(5 * 2048, dtype=np.float32).reshape(5, 2048)
    ported = port_reid_network(tensors, "resnet50", template)
    np.testing.assert_array_equal(ported["params"]["classifier"]["kernel"], tensors["classifier.weight"].T)
    assert ported["batch_stats"]["bottleneck"]["var"][0] == 3
    others = port_reid_network(tensors, "resnet50", _template(ReidNetwork("resnet50", classes=7)))
    assert set(others["params"]) == {"backbone", "bottleneck"}  # of other people


def test_a_reid_resnet_keeps_the_size_of_its_last_maps():
    network = ReidNetwork("resnet50")
    variables = _template(network)
    maps = jax.eval_shape(
        lambda v, x: network.apply(v, x, method=lambda module, x: module.backbone(x, False)),
        variables,
        jax.ShapeDtypeStruct((1, 256, 128, 3), jnp.float32),
    )
    assert maps["c5"].shape == (1, 16, 8, 2048) == (1, *maps["c4"].shape[1:3], 2048)
