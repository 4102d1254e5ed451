"""ONNX written and computed by hand: a graph in numpy, operation by operation, for tests of what reads such files."""

import struct

import numpy as np

from ps_jax.porting.onnx_files import Graph


def _varint(number: int) -> bytes:
    parts = []
    while True:
        parts.append(number & 127 | (128 if number > 127 else 0))
        number >>= 7
        if not number:
            return bytes(parts)


def _field(number: int, value) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    value = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def write_onnx(nodes, tensors) -> bytes:
    """A file of nodes (operation, inputs, outputs) and named float tensors."""
    graph = b""
    for operation, inputs, outputs in nodes:
        parts = [_field(1, name) for name in inputs] + [_field(2, name) for name in outputs]
        epsilon = _field(1, "epsilon") + _varint(2 << 3 | 5) + struct.pack("<f", 0.5)
        strides = _field(1, "strides") + _field(8, _varint(2) + _varint(300))
        graph += _field(1, b"".join(parts) + _field(4, operation) + _field(5, epsilon) + _field(5, strides))
    for name, tensor in tensors.items():
        shape = b"".join(_field(1, int(side)) for side in tensor.shape)
        content = shape + _field(2, 1) + _field(8, name) + _field(9, tensor.astype("<f4").tobytes())
        graph += _field(5, content)
    return _field(1, 7) + _field(2, "by hand") + _field(7, graph)


def evaluate(graph: Graph, image: np.ndarray) -> np.ndarray:
    """The output of a network for an image [batch, channel, height, width], in float64."""
    values = {name: tensor.astype(np.float64) for name, tensor in graph.tensors.items()}
    values["input"] = image.astype(np.float64)
    for node in graph.nodes:
        values[node.outputs[0]] = _compute(node, [values[name] for name in node.inputs])
    return values["output"]


def _compute(node, inputs):
    attributes = node.attributes
    match node.operation:
        case "Conv":
            return _convolve(*inputs, **{name: attributes[name] for name in ("group", "pads", "strides")})
        case "Relu":
            return np.maximum(inputs[0], 0)
        case "Sigmoid":
            return 1 / (1 + np.exp(-inputs[0]))
        case "Add":
            return inputs[0] + inputs[1]
        case "Mul":
            return inputs[0] * inputs[1]
        case "GlobalAveragePool":
            return inputs[0].mean(axis=(2, 3), keepdims=True)
        case "MaxPool":
            return _windows(inputs[0], attributes, -np.inf).max(axis=(-2, -1))
        case "AveragePool":
            return _windows(inputs[0], attributes, 0.0).mean(axis=(-2, -1))
        case "Gemm":
            return inputs[0] @ inputs[1].T + inputs[2]
        case "BatchNormalization":
            x, scale, bias, mean, variance = inputs
            return (x - mean) / np.sqrt(variance + attributes["epsilon"]) * scale + bias
        case "Reshape":  # the only use of all operations with shapes
            return inputs[0].reshape(len(inputs[0]), -1)
        case "Shape" | "Constant" | "Gather" | "Unsqueeze" | "Concat":
            return np.zeros(0)
    raise NotImplementedError(node.operation)


def _windows(x, attributes, outside):
    top, left, bottom, right = attributes["pads"]
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=outside)
    windows = np.lib.stride_tricks.sliding_window_view(x, tuple(attributes["kernel_shape"]), axis=(2, 3))
    down, across = attributes["strides"]
    return windows[:, :, ::down, ::across]


def _convolve(x, kernel, bias=None, *, group, pads, strides):
    shape = {"kernel_shape": kernel.shape[2:], "pads": pads, "strides": strides}
    windows = _windows(x, shape, 0.0)
    batch, channels, height, width, *side = windows.shape
    windows = windows.reshape(batch, group, channels // group, height, width, *side)
    kernel = kernel.reshape(group, -1, *kernel.shape[1:])
    result = np.einsum("bgchwij,gocij->bgohw", windows, kernel, optimize=True).reshape(
        batch, -1, height, width
    )
    return result if bias is None else result + bias[:, None, None]
