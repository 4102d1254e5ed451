"""Reads the tensors of a file that `torch.save` wrote (.pth, .pt, .ckpt) without PyTorch, and runs nothing of it.

Both forms are read: the zip archive of PyTorch 1.6 and later (`data.pkl` and one entry a storage), and the one before
(five pickles and then the storages). The pickle goes through `ps_jax.porting.pickles`. Of what it describes only
tensors, dictionaries, lists, tuples and plain values are made; objects of other classes, such as the hyper-parameters
that PyTorch Lightning keeps beside the weights, stay names. Tensors are views of their storages, whose bounds are
checked, and storages must be as large as their type and number of elements say.
"""

import contextlib
import functools
import math
import mmap
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np

from ps_jax.errors import PortingError
from ps_jax.porting.pickles import Dictionary, Global, Opaque, Pickle, Refused

DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "UntypedStorage": np.dtype(np.uint8),
}
# Of tensors whose storage is untyped; the other types have a storage of their own.
UNTYPED_DTYPES = {f"torch.uint{bits}": np.dtype(f"uint{bits}") for bits in (16, 32, 64)}

# Entries of a checkpoint that hold the weights, the first that there is; what lies beside them, optimiser, schedule,
# epoch, callbacks, is not used.
STATE_DICT_NAMES = ("state_dict", "model", "model_state_dict", "teacher")

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # first pickle of the old form
OLD_PROTOCOL = 1001
ZIP_START = b"PK\x03\x04"
DIMENSIONS = 64  # of an array of numpy
EXPANDED = 1 << 24  # elements that a tensor may have although its storage has fewer


class Storage(NamedTuple):
    """What a pickle says of a storage."""

    key: str
    dtype: np.dtype
    elements: int


class Tensor(NamedTuple):
    """What a pickle says of a tensor: a view of a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: np.dtype


Reader = Callable[[Storage], np.ndarray]


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the weights of a PyTorch file.

    Args:
      path: a file that `torch.save` wrote: a state dict, or a checkpoint that has one under one of
        `STATE_DICT_NAMES`.

    Returns:
      The arrays by their name in the file, in its order; read-only views, so tensors that share memory in PyTorch
      share it here.

    Raises:
      PortingError: the file is damaged, is of another kind, or has something else where a tensor is wanted; names it.
    """
    try:
        with _opened(Path(path)) as (content, read):
            entries, read = _find_state_dict(content), functools.cache(read)
            return {name: _materialise(name, entry, read) for name, entry in entries.items()}
    except Exception as error:  # a damaged file can make the readers below fail in any way
        reason = str(error)
        if not isinstance(error, Refused):
            reason = f"it is damaged ({type(error).__name__}: {reason[:200]})"
        # Names of the file's may be in it, as long and as strange as it likes
        reason = "".join(letter if letter.isprintable() else "?" for letter in reason[:600])
        raise PortingError(f"{path} is not a readable PyTorch file of tensors: {reason}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Reader]]:
    """The content of a file, and what reads its storages."""
    with path.open("rb") as file:
        start = file.read(len(ZIP_START))
        if not start:
            raise Refused("it is empty")
        if start == ZIP_START:
            with zipfile.ZipFile(file) as archive:
                yield _read_archive(archive)
        else:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield _read_old_form(data)


# The zip form


def _read_archive(archive: zipfile.ZipFile) -> tuple[Any, Reader]:
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise Refused("two entries of the archive have one name")
    found = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(found) != 1:
        raise Refused(f"the archive has {len(found)} entries data.pkl, wanted is one")
    top = found[0].removesuffix("data.pkl")
    if f"{top}constants.pkl" in names:
        raise Refused("it is a TorchScript program; save the model's state_dict() instead")
    order = _entry(archive, f"{top}byteorder").decode() if f"{top}byteorder" in names else "little"
    if order not in ("little", "big"):
        raise Refused(f"its byte order is {order[:20]!r}")
    content, _ = _pickle(_entry(archive, found[0])).load()

    def read(storage: Storage) -> np.ndarray:
        data = _entry(archive, f"{top}data/{storage.key}", storage.elements * storage.dtype.itemsize)
        return _as_array(data, storage.dtype, order)

    return content, read


def _entry(archive: zipfile.ZipFile, name: str, size: int | None = None) -> bytes:
    """An entry of an archive, whose size must be the given one; `zipfile` compares its checksum."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise Refused(f"the archive has no entry {name}") from None
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise Refused(f"entry {name} is compressed, which PyTorch never does")
    if size is not None and info.file_size != size:
        raise Refused(f"entry {name} has {info.file_size} bytes, but the tensors in it say {size}")
    return archive.read(info)


# The form before PyTorch 1.6


def _read_old_form(data: mmap.mmap) -> tuple[Any, Reader]:
    if data[257:262] == b"ustar":
        raise Refused("it was written by PyTorch 0.1; load and save it with a newer one")
    if data[:1] != b"\x80":
        raise Refused("it begins neither like a zip archive nor like a pickle")
    storages: dict[str, Storage] = {}
    position, head = 0, []
    for pickle in (_pickle(data), _pickle(data), _pickle(data), _pickle(data, storages), _pickle(data)):
        value, position = pickle.load(position)
        head.append(value)
        if head[:2] != [MAGIC_NUMBER, OLD_PROTOCOL][: len(head)]:
            raise Refused("it is a pickle, but not of torch.save; save tensors with torch.save")
    _, _, system, content, keys = head
    order: Literal["little", "big"] = "little" if system["little_endian"] is True else "big"
    if not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
        raise Refused("its list of storages is not that of its tensors")
    places: dict[str, int] = {}
    for key in keys:
        storage = storages[key]
        size = storage.elements * storage.dtype.itemsize
        count = int.from_bytes(data[position : position + 8], order, signed=True)
        places[key] = position + 8
        position += 8 + size
        if count != storage.elements or position > len(data):
            raise Refused(f"storage {key} is cut off, or not of {storage.elements} elements")
    if position != len(data):
        raise Refused(f"{len(data) - position} bytes follow the last storage")

    def read(storage: Storage) -> np.ndarray:
        begin = places[storage.key]
        end = begin + storage.elements * storage.dtype.itemsize
        return _as_array(data[begin:end], storage.dtype, order)

    return content, read


# Tensors


def _pickle(data: bytes | mmap.mmap, storages: dict[str, Storage] | None = None) -> Pickle:
    """A reader of one pickle of a file; `storages` takes the storages that it names, None: it names any."""
    storages = {} if storages is None else storages

    def storage(identifier: Any) -> Storage:
        kind, dtype, key, _, count, *view = identifier
        if kind != "storage" or not isinstance(dtype, Global) or type(key) is not str or not _is_size(count):
            raise Refused("a reference to something that is not a storage")
        if dtype.module.partition(".")[0] != "torch" or dtype.name not in DTYPES:
            raise Refused(f"a storage of type {dtype}")
        if any(part is not None for part in view):
            raise Refused(f"storage {key} is part of another one, as PyTorch wrote it before 0.4")
        found = Storage(key, DTYPES[dtype.name], count)
        if storages.setdefault(key, found) != found:
            raise Refused(f"storage {key} has two types or sizes")
        return found

    return Pickle(data, _CALLS, storage)


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise Refused("a tensor without storage")
    if not (_is_size(offset) and _are_sizes(size) and _are_sizes(stride) and len(size) == len(stride)):
        raise Refused("a tensor whose offset, size or stride makes no sense")
    return Tensor(storage, offset, tuple(size), tuple(stride), storage.dtype)


def _rebuild_untyped(
    storage: Any, offset: Any, size: Any, stride: Any, gradient: Any, hooks: Any, dtype: Any, *_: Any
) -> Tensor:
    tensor = _rebuild(storage, offset, size, stride)
    if _name(dtype) not in UNTYPED_DTYPES or storage.dtype != np.uint8:
        raise Refused(f"a tensor of type {_name(dtype)}")
    return tensor._replace(dtype=UNTYPED_DTYPES[_name(dtype)])


def _rebuild_parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise Refused("a parameter without tensor")
    return tensor


def _rebuild_subclass(maker: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """A tensor with attributes of its own, or of a class derived from it."""
    if _name(kind) not in ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"):
        return Opaque(_name(kind))
    if _name(maker) not in _TENSORS:
        return Opaque(_name(maker))
    return _TENSORS[_name(maker)](*arguments)


def _dictionary(items: Any = ()) -> Dictionary:
    result = Dictionary()
    for name, value in items:
        if not isinstance(name, str):
            raise Refused("an ordered dictionary whose keys are not text")
        result[name] = value
    return result


def _size(sizes: Any) -> tuple[int, ...]:
    if not _are_sizes(sizes):
        raise Refused("a size that makes no sense")
    return tuple(sizes)


def _encode(text: Any, encoding: Any) -> bytes:
    """How bytes are written in pickles that Python 2 can read."""
    if type(text) is not str or encoding != "latin1":
        raise Refused("text in an encoding that PyTorch does not write")
    return text.encode("latin1")


_TENSORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_untyped,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
}
_CALLS: dict[str, Callable[..., Any]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _rebuild_subclass,
    "torch.Size": _size,
    "collections.OrderedDict": _dictionary,
    "_codecs.encode": _encode,
}


def _name(value: Any) -> str:
    """A name of the file, or what is there instead; never its text, which can be made endlessly long."""
    return str(value) if isinstance(value, Global) else f"a {type(value).__name__}"


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _are_sizes(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) <= DIMENSIONS and all(map(_is_size, values))


def _as_array(data: bytes, dtype: np.dtype, order: str) -> np.ndarray:
    if dtype == np.bool_:
        return np.frombuffer(data, np.uint8) != 0  # numpy knows no third truth
    array = np.frombuffer(data, np.dtype(f"u{dtype.itemsize}"))
    if order != sys.byteorder:
        array = array.byteswap()
    return array.view(dtype)


def _materialise(name: str, entry: Any, read: Reader) -> np.ndarray:
    """The array of an entry of the state dict."""
    if not isinstance(entry, Tensor):
        raise Refused(f"{name} is {_in_words(entry)} where a tensor is wanted; it was not read")
    storage, offset, size, stride, dtype = entry
    count = storage.elements * storage.dtype.itemsize // dtype.itemsize
    elements = math.prod(size)
    if elements == 0:
        return np.empty(size, dtype)
    if elements > max(count, EXPANDED):
        raise Refused(f"{name} claims {elements} elements of a storage of {count}")
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if last >= count:
        raise Refused(f"{name} reaches to element {last} of a storage of {count}")
    values = read(storage)
    if dtype != storage.dtype:
        values = values.view(dtype)
    steps = tuple(step * dtype.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)


# The state dict


def _find_state_dict(content: Any) -> dict[str, Any]:
    """The dictionary of tensors in a checkpoint, its non-tensors by PyTorch's own convention left out."""
    if not isinstance(content, dict):
        raise Refused(
            f"it holds {_in_words(content)}, not a dictionary of tensors; save the model's state_dict() instead"
        )
    entries = content
    for name in STATE_DICT_NAMES:
        if isinstance(content.get(name), dict):
            entries = content[name]
            break
        if isinstance(content.get(name), Opaque):
            raise Refused(
                f"{name!r} is {_in_words(content[name])}, not a dictionary of tensors; save the model's state_dict()"
            )
    if not any(isinstance(entry, Tensor) for entry in entries.values()):
        listed = ", ".join(str(name)[:40] for name in list(entries)[:8]) or "nothing"
        raise Refused(f"there are no tensors in it, only: {listed}")
    if not all(isinstance(name, str) for name in entries):
        raise Refused("some tensors have no name")
    return {name: entry for name, entry in entries.items() if not name.endswith("_extra_state")}


def _in_words(value: Any) -> str:
    if isinstance(value, Opaque):
        return f"an object made by {value.maker[:200]}"
    if isinstance(value, Global):
        return f"the name {str(value)[:200]}"
    return f"a {type(value).__name__}"
