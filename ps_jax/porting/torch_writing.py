"""Writes tensors as a file that `torch.load` reads, without PyTorch.

The file is a zip archive as PyTorch 1.6 and later write it: a pickle of an ordered dictionary, whose tensors refer to
one storage each, and the storages, uncompressed, on multiples of 64 bytes.
"""

import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ps_jax.errors import PortingError
from ps_jax.porting.torch_files import DTYPES

ALIGNMENT = 64
_STORAGES = {dtype: name for name, dtype in DTYPES.items() if name != "UntypedStorage"}
_HEADER = 30  # bytes of an entry's header before its name


def write_torch_file(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a PyTorch state dict; the file appears only when it is whole.

    Args:
      path: the file; what is there is replaced.
      tensors: arrays by their name, in the order to be kept.

    Raises:
      PortingError: the file cannot be written, or PyTorch has no such type.
    """
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
            top = path.stem
            _add(archive, f"{top}/data.pkl", _state_dict(tensors))
            _add(archive, f"{top}/byteorder", b"little")
            for key, tensor in enumerate(tensors.values()):
                little = np.asarray(tensor, order="C")
                _add(archive, f"{top}/data/{key}", _little_endian(little))
            _add(archive, f"{top}/version", b"3\n")
        unfinished.replace(path)
    except OSError as error:
        raise PortingError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Adds an entry whose data begin on a multiple of 64 bytes, as PyTorch maps them into memory."""
    entry = zipfile.ZipInfo(name)  # of 1980: the same tensors make the same file
    begin = archive.start_dir + _HEADER + len(name.encode()) + 4
    padding = -begin % ALIGNMENT
    entry.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)
    archive.writestr(entry, data)


def _little_endian(array: np.ndarray) -> bytes:
    size = array.dtype.itemsize
    return array.reshape(-1).view(f"u{size}").astype(f"<u{size}", copy=False).tobytes()


# The pickle, in protocol 2 as PyTorch writes it


def _state_dict(tensors: Mapping[str, np.ndarray]) -> bytes:
    entries = [_text(name) + _tensor(str(key), name, x) for key, (name, x) in enumerate(tensors.items())]
    filled = b"(" + b"".join(entries) + b"u" if entries else b""
    return b"\x80\x02" + _ORDERED_DICT + filled + b"."


def _tensor(key: str, name: str, array: np.ndarray) -> bytes:
    """A call of torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)."""
    if array.dtype not in _STORAGES:
        raise PortingError(f"{name} is of type {array.dtype}, which PyTorch has no storage for.")
    strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
    storage = _tuple(
        _text("storage"),
        _global("torch", _STORAGES[array.dtype]),
        _text(key),
        _text("cpu"),
        _integer(array.size),
    )
    sizes = (_tuple(*map(_integer, values)) for values in (array.shape, strides))
    arguments = _tuple(storage + b"Q", _integer(0), *sizes, b"\x89", _ORDERED_DICT)
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    if 0 <= value < 1 << 8:
        return b"K" + struct.pack("<B", value)
    if 0 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t" if items else b")"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


_ORDERED_DICT = _global("collections", "OrderedDict") + b")R"
