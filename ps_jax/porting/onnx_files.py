"""Reads the initialisers of ONNX files: enough of the protocol-buffer format for them, without its library.

Exporters fold batch normalisation into convolutions and name what results by numbers. Such a tensor gets the name of
the module that its node was made of, which PyTorch's exporter writes into the names of outputs.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ps_jax.errors import PortingError

ANONYMOUS = "onnx::"  # how the exporter begins names that it makes up
TYPES: dict[int, np.dtype] = {
    1: np.dtype("<f4"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
}
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # kinds of fields


class Node(NamedTuple):
    """One operation.

    Attributes:
      operation: its kind, "Conv".
      inputs, outputs: names of tensors.
      attributes: numbers, lists of numbers, or bytes, by name.
    """

    operation: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


class Graph(NamedTuple):
    """Operations in order, and the tensors that the file holds by the names that these know them by."""

    nodes: list[Node]
    tensors: dict[str, np.ndarray]


def read_onnx(path: str | Path) -> dict[str, np.ndarray]:
    """The initialisers of a file by the names of PyTorch's modules.

    A tensor without a name of its own is called after its node: "MODULE.weight", "MODULE.bias".

    Args:
      path: the .onnx file.

    Raises:
      PortingError: the file is damaged, or of a kind that is not known.
    """
    graph = read_onnx_graph(path)
    names = {name: name for name in graph.tensors}
    for node in graph.nodes:
        for name, part in zip(node.inputs[1:3], ("weight", "bias"), strict=False):
            if name.startswith(ANONYMOUS) and name in names:
                names[name] = f"{_module(node.outputs[0])}.{part}"
    return {names[name]: tensor for name, tensor in graph.tensors.items()}


def read_onnx_graph(path: str | Path) -> Graph:
    """Operations and initialisers of a file; see `read_onnx` for errors."""
    try:
        content = Path(path).read_bytes()
        (graph,) = (value for field, value in _fields(content) if field == 7)
        nodes = [_node(value) for field, value in _fields(graph) if field == 1]
        tensors = dict(_tensor(value) for field, value in _fields(graph) if field == 5)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise PortingError(f"{path} is not a readable .onnx file of tensors: {error!r}") from error
    if not tensors:
        raise PortingError(f"{path} holds no tensors; they may lie in a file of their own, which is not read")
    return Graph(nodes, tensors)


def _module(output: str) -> str:
    """ "/conv2/conv2.0/conv1/conv/Conv_output_0" -> "conv2.0.conv1.conv"."""
    parts = output.strip("/").split("/")[:-1]
    # A member of a container is named with it: "conv2", "conv2.0".
    kept = [
        part for part, after in zip(parts, [*parts[1:], ""], strict=True) if not after.startswith(f"{part}.")
    ]
    return ".".join(kept)


def _varint(content: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = content[place]
        place += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, place


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message: an int, or bytes."""
    place = 0
    value: int | bytes
    while place < len(content):
        key, place = _varint(content, place)
        kind = key & 7
        if kind == _VARINT:
            value, place = _varint(content, place)
        else:
            if kind == _LENGTH:
                length, place = _varint(content, place)
            else:
                length = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}[kind]
            value, place = content[place : place + length], place + length
            if len(value) != length:
                raise ValueError("it ends too early")
        yield key >> 3, value


def _integers(value: int | bytes) -> list[int]:
    """One number, or many that are packed into bytes."""
    if isinstance(value, int):
        return [value]
    numbers, place = [], 0
    while place < len(value):
        number, place = _varint(value, place)
        numbers.append(number)
    return numbers


def _node(content: bytes) -> Node:
    node = Node("", [], [], {})
    for field, value in _fields(content):
        if field in (1, 2):
            (node.inputs if field == 1 else node.outputs).append(value.decode())
        elif field == 4:
            node = node._replace(operation=value.decode())
        elif field == 5:
            name = ""
            attribute: Any = []
            for part, entry in _fields(value):
                if part == 1:
                    name = entry.decode()
                elif part == 2:
                    attribute = struct.unpack("<f", entry)[0]
                elif part in (3, 4):
                    attribute = entry
                elif part == 5:
                    attribute = _tensor(entry)[1]
                elif part == 8:
                    attribute = [*attribute, *_integers(entry)]
            node.attributes[name] = attribute
    return node


def _tensor(content: bytes) -> tuple[str, np.ndarray]:
    name, shape, kind, raw, floats = "", [], 0, b"", b""
    for field, value in _fields(content):
        if field == 1:
            shape += _integers(value)
        elif field == 2:
            kind = value
        elif field == 4:
            floats += value
        elif field == 8:
            name = value.decode()
        elif field == 9:
            raw = value
    return name, np.frombuffer(raw or floats, TYPES[kind]).reshape(shape)
