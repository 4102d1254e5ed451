"""PyTorch files with small damages, and a second, independent reader of them."""

import io
import pickle
import zipfile

import numpy as np

from ps_jax.porting.torch_files import DTYPES


class Inert(dict):
    """Whatever an independent reader does not know: takes everything, does nothing."""

    def __init__(self, *arguments, **named):
        super().__init__()

    def append(self, value):
        pass

    extend = add = append

    def __setitem__(self, key, value):
        pass

    def __setstate__(self, state):
        pass

    def __call__(self, *arguments):
        return self


class Entries(dict):
    def __setstate__(self, state):
        pass


class OtherReader(
    pickle._Unpickler
):  # in Python: the one in C takes gigabytes for a large number in its memo
    """A second opinion: Python's own stack machine, with names that stand for plain descriptions of tensors."""

    def __init__(self, data):
        super().__init__(data)
        self.storages = {}

    def find_class(self, module, name):
        known = {
            "torch._utils._rebuild_tensor_v2": lambda *a: ("tensor", a[0], a[1], a[2], a[3]),
            "torch._utils._rebuild_parameter": lambda *a: a[0],
            "torch._tensor._rebuild_from_type_v2": lambda f, kind, arguments, state: f(*arguments),
            "collections.OrderedDict": Entries,
            "torch.Size": tuple,
        }
        if name in DTYPES:
            return DTYPES[name]
        return known.get(f"{module}.{name}", type("Unknown", (Inert,), {}))

    def persistent_load(self, identifier):
        self.storages[identifier[2]] = (identifier[1], identifier[4])
        return identifier[2]


def second_opinion(data):
    """The weights of a file whose pickle is sound, read another way."""
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            (pickled,) = (name for name in file.namelist() if name.endswith("data.pkl"))
            top = pickled.removesuffix("data.pkl")
            reader = OtherReader(io.BytesIO(file.read(pickled)))
            content = reader.load()
            big = f"{top}byteorder" in file.namelist() and file.read(f"{top}byteorder") == b"big"
            raw = {
                key: file.read(f"{top}data/{key}")
                for key in reader.storages
                if f"{top}data/{key}" in file.namelist()
            }
    else:
        stream = io.BytesIO(data)
        pickle._Unpickler(stream).load(), pickle._Unpickler(stream).load()
        big = not pickle._Unpickler(stream).load()["little_endian"]
        reader = OtherReader(stream)
        content = reader.load()
        raw = {}
        for key in pickle._Unpickler(stream).load():
            dtype, elements = reader.storages[key]
            stream.read(8)
            raw[key] = stream.read(elements * dtype.itemsize)
    for name in ("state_dict", "model"):
        if isinstance(content.get(name), dict):
            content = content[name]
            break
    found = {}
    for name, (_, key, offset, size, stride) in content.items():
        dtype, _ = reader.storages[key]
        if 0 in size:
            found[name] = np.empty(size, dtype)
            continue
        value = np.frombuffer(raw[key], np.uint8).reshape(-1, dtype.itemsize)
        value = np.ascontiguousarray(value[:, ::-1] if big else value).reshape(-1)
        value = value != 0 if dtype.kind == "b" else value.view(dtype)
        value = np.asarray([value[offset + np.dot(at, stride).astype(int)] for at in np.ndindex(*size)])
        found[name] = value.reshape(size)
    return found


OPCODES = (
    b"(.012FGIJKLMNPQRSTUVX\\]abcdeghijlopqrstu}\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x92\x93\x94\x95"
)


def mutated(draw, data):
    """The bytes with one to three small damages."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 1, 2))):
        place = draw.randrange(len(data))
        kind = draw.randrange(7)
        if kind == 0:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[place] = draw.randrange(256)
        elif kind == 2:
            data[place] = draw.choice(OPCODES)
        elif kind == 3:
            del data[place : place + draw.randrange(1, 9)]
        elif kind == 4:
            data[place:place] = draw.randbytes(draw.randrange(1, 9))
        elif kind == 5:
            other = draw.randrange(len(data))
            data[place : place + 8], data[other : other + 8] = (
                data[other : other + 8],
                data[place : place + 8],
            )
        else:
            del data[place:]
        if not data:
            break
    return bytes(data)


def edited(draw, data):
    """The zip file with one entry changed, its checksums right again."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        entries = [[name, file.read(name), zipfile.ZIP_STORED] for name in file.namelist()]
    place = draw.randrange(len(entries))
    (at,) = (i for i, (name, _, _) in enumerate(entries) if name.endswith("data.pkl"))
    kind = draw.randrange(12)
    if kind < 7:
        entries[at][1] = mutated(draw, entries[at][1])
    elif kind == 7:
        entries[place][0] = draw.choice(entries)[0] + draw.choice(("", "0", "/"))
    elif kind == 8:
        del entries[place]
    elif kind == 9:
        entries[place][1] = mutated(draw, entries[place][1] or b"0")
    elif kind == 10:
        entries[place][2] = zipfile.ZIP_DEFLATED
    else:
        order = next(entry for entry in entries if entry[0].endswith("byteorder"))
        order[1] = b"big"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content, compression in entries:
            file.writestr(name, content, compression)
    return buffer.getvalue()
