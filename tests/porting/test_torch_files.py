"""PyTorch's own files: right values of real ones, and right values or a clear error of damaged and hostile ones.

The files in `torch_files/` were written by PyTorch 2.13, in its zip form and in the one before, by
`write_torch_files.py`; the tests need no PyTorch.
"""

import io
import itertools
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from damaged_torch_files import edited, mutated, second_opinion

from ps_jax.errors import PortingError
from ps_jax.porting import read_tensors
from ps_jax.porting.torch_files import read_state_dict

FILES = Path(__file__).parent / "torch_files"
FORMS = ("", "_legacy")


def count(*size, dtype=np.float32):
    return np.arange(int(np.prod(size))).astype(dtype).reshape(size)


def kinds():
    """What `every_kind` in `write_torch_files.py` wrote."""
    shared = count(4, 6)
    return {
        "float64": count(2, 3, dtype=np.float64) / 7,
        "float32": count(2, 3) / np.float32(7),
        "float16": count(2, 3, dtype=np.float16) / np.float16(8),
        "bfloat16": (count(2, 3) / 8).astype(ml_dtypes.bfloat16),
        "int64": count(3, dtype=np.int64) - 2**40,
        "int32": count(3, dtype=np.int32) - 5,
        "int16": count(3, dtype=np.int16) - 5,
        "int8": count(3, dtype=np.int8) - 5,
        "uint8": count(3, dtype=np.uint8) + 250,
        "bool": np.asarray([True, False, True]),
        "scalar": np.asarray(3.5, np.float32),
        "counter": np.asarray(17),
        "empty": np.zeros((0, 4), np.float32),
        "parameter": count(2, 2),
        "noted": count(3),
        "shared": shared,
        "transposed": shared.T,
        "every_second": shared[1::2, 1::2],
        "one_row": shared[2],
        "expanded": np.broadcast_to(count(3)[:, None], (3, 4)),
    }


def network():
    """What `network` in `write_torch_files.py` wrote."""
    return {
        "0.weight": count(3, 2, 3, 3) / 4,
        "0.bias": count(3) / 4,
        "1.weight": count(3) / 4,
        "1.bias": count(3) / 4,
        "1.running_mean": np.zeros(3, np.float32),
        "1.running_var": np.ones(3, np.float32),
        "1.num_batches_tracked": np.asarray(0),
        "2.weight": count(2, 3) / 4,
        "2.bias": count(2) / 4,
    }


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        assert np.ascontiguousarray(found[name]).tobytes() == np.ascontiguousarray(value).tobytes(), name


@pytest.mark.parametrize("form", FORMS)
def test_every_type_view_and_container_is_read_as_it_was_written(form):
    assert_same(read_state_dict(FILES / f"kinds{form}.pth"), kinds())
    assert_same(read_state_dict(FILES / f"network{form}.pth"), network())


def test_newer_pickles_and_types_are_read():
    assert_same(read_state_dict(FILES / "protocol4.pth"), network())
    assert_same(read_state_dict(FILES / "uint16.pth"), {"small": np.full(2, 3, np.uint16)})


@pytest.mark.parametrize("form", FORMS)
def test_tensors_that_shared_memory_share_it(form):
    found = read_state_dict(FILES / f"kinds{form}.pth")
    for name in ("transposed", "every_second", "one_row"):
        assert np.shares_memory(found[name], found["shared"])
    assert not np.shares_memory(found["float32"], found["shared"])
    assert found["expanded"].strides == (4, 0)  # no memory for what is repeated


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_a_lightning_checkpoint_are_read_past_its_foreign_objects(form, tmp_path):
    """Its prefix goes, and so do optimiser, callbacks and hyper-parameters of classes that are not here."""
    tensors = read_tensors(FILES / f"lightning{form}.pth")
    assert_same(tensors, {"head.weight": count(2, 3), "head.bias": count(2) - 1})
    renamed = tmp_path / "epoch=3.ckpt"
    renamed.write_bytes((FILES / f"lightning{form}.pth").read_bytes())
    assert_same(read_tensors(renamed), tensors)


# Files made here, byte by byte


def archive(pickled, storages=(), **more):
    """A zip file with this pickle; `more` replaces or adds entries."""
    entries = {f"x/data/{key}": data for key, data in dict(storages).items()}
    entries = {"x/data.pkl": pickled, "x/byteorder": b"little", "x/version": b"3\n"} | entries | more
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in entries.items():
            if data is not None:
                file.writestr(name, data)
    return buffer.getvalue()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def numbers(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(key="0", elements=4, offset=0, size=(4,), stride=(1,), kind="torch\nFloatStorage"):
    storage = b"(" + text("storage") + b"c" + kind.encode() + b"\n" + text(key) + text("cpu")
    storage += number(elements) + b"tQ"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return rebuild + storage + number(offset) + numbers(*size) + numbers(*stride) + b"\x89N" + b"tR"


def state_dict(**values):
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in values.items()) + b"u."


NEST = b"N" + b"2\x86" * 60
FLOATS = {"0": count(4).tobytes()}


@pytest.fixture
def written(tmp_path):
    """Writes bytes to a file and returns its path."""
    names = itertools.count()

    def write(data):
        path = tmp_path / f"{next(names)}.pth"
        path.write_bytes(data)
        return path

    return write


def refusal(path):
    with pytest.raises(PortingError) as caught:
        read_state_dict(path)
    prefix, _, reason = str(caught.value).partition(": ")
    assert len(reason) <= 600 and reason.isprintable()
    assert prefix == f"{path} is not a readable PyTorch file of tensors"
    return reason


def test_a_file_made_by_hand_is_read(written):
    content = state_dict(a=tensor(), b=tensor(offset=3, size=(2, 2), stride=(0, 0)))
    found = read_state_dict(written(archive(content, FLOATS)))
    assert_same(found, {"a": count(4), "b": np.full((2, 2), 3, np.float32)})


@pytest.mark.parametrize(
    "broken, reason",
    [
        (tensor(size=(5,)), "x reaches to element 4 of a storage of 4"),
        (tensor(offset=1), "x reaches to element 4 of a storage of 4"),
        (tensor(size=(2, 2), stride=(3, 1)), "x reaches to element 4 of a storage of 4"),
        (tensor(size=(1 << 20, 1 << 20), stride=(0, 0)), "x claims 1099511627776 elements of a storage of 4"),
        (tensor(size=(1 << 30,), stride=(0,)), "x claims 1073741824 elements of a storage of 4"),
        (tensor(stride=(-1,)), "a tensor whose offset, size or stride makes no sense"),
        (tensor(offset=-1), "a tensor whose offset, size or stride makes no sense"),
        (tensor(size=(4,), stride=(1, 1)), "a tensor whose offset, size or stride makes no sense"),
        (tensor(elements=5), "entry x/data/0 has 16 bytes, but the tensors in it say 20"),
        (tensor(elements=-1), "a reference to something that is not a storage"),
        (tensor(kind="torch\nDoubleStorage"), "entry x/data/0 has 16 bytes, but the tensors in it say 32"),
        (tensor(kind="torch\nQInt8Storage"), "a storage of type torch.QInt8Storage"),
        (tensor(kind="os\nFloatStorage"), "a storage of type os.FloatStorage"),
        (tensor(key="7"), "the archive has no entry x/data/7"),
        (tensor(key="../version"), "entry x/data/../version"),
        (text("words"), "x is a str where a tensor is wanted; it was not read"),
        (b"cfoo\nBar\n)R", "x is an object made by foo.Bar where a tensor is wanted; it was not read"),
        (b"cfoo\nBar\n)\x81}b", "x is an object made by foo.Bar where a tensor is wanted; it was not read"),
        (b"cfoo\nbar\n", "x is the name foo.bar where a tensor is wanted; it was not read"),
        (b"ctorch._utils\n_rebuild_sparse_tensor\n)R", "x is an object made by torch._utils._rebuild_sparse"),
        (b"\x82\x01", "pickle instruction 0x82, which PyTorch does not write"),
        (b"}]K\x01s", "a key that is a list"),
        (b"ctorch\nSize\n}b", "state for a Global"),
        (b"}\x8a\x00R", "arguments that are not a tuple"),
        (b"K\x01)R", "a call of a int"),
        (b"X\xff\xff\xff\xff", "a pickle that is cut off"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff", "a pickle that is cut off"),
        (b"h\x00", "it is damaged (KeyError"),
        (tensor(size=(1,) * 65, stride=(1,) * 65), "a tensor whose offset, size or stride makes no sense"),
        # 2**60 times nothing in a nest of tuples, where a name is wanted
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(NN" + NEST + b"NtR", "x is an object made by a NoneType"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(N" + NEST + b")NtR", "x is an object made by a tuple"),
        (text("\x1b[2J") + b"\x85", "x is a tuple where a tensor is wanted"),
        (tensor(key="\x1b[2J" + "y" * 5000), "the archive has no entry x/data/?[2Jyyyyy"),
        (b"}" + NEST + b"K\x01s", "a key that is a tuple"),
    ],
)
def test_what_is_wrong_with_a_tensor_is_said(written, broken, reason):
    # A right tensor stands before it, so that the dictionary is one of tensors.
    storages = FLOATS | {"1": count(4).tobytes()}
    content = state_dict(right=tensor(key="1"), x=broken)
    entries = {"x/data/../version": b"no"} if b"../version" in broken else {}
    assert reason in refusal(written(archive(content, storages, **entries)))


def test_what_is_wrong_with_an_archive_is_said(written):
    content = state_dict(x=tensor())
    right = archive(content, FLOATS)
    assert_same(read_state_dict(written(right)), {"x": count(4)})
    assert_same(
        read_state_dict(
            written(archive(content, {"0": count(4).byteswap().tobytes()}, **{"x/byteorder": b"big"}))
        ),
        {"x": count(4)},
    )
    assert_same(read_state_dict(written(archive(content, FLOATS, **{"x/byteorder": None}))), {"x": count(4)})
    for entries, reason in (
        ({"x/byteorder": b"middle"}, "its byte order is 'middle'"),
        ({"y/data.pkl": content}, "the archive has 2 entries data.pkl, wanted is one"),
        ({"x/data.pkl": None}, "the archive has 0 entries data.pkl, wanted is one"),
        ({"x/constants.pkl": b""}, "it is a TorchScript program; save the model's state_dict() instead"),
        ({"x/data/0": None}, "the archive has no entry x/data/0"),
    ):
        assert reason in refusal(written(archive(content, FLOATS, **entries)))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", content)
        file.writestr("x/data/0", bytes(16))
    assert "entry x/data.pkl is compressed, which PyTorch never does" in refusal(written(packed.getvalue()))
    assert "it is damaged (BadZipFile" in refusal(written(right.replace(FLOATS["0"], bytes(16))))


def test_what_is_wrong_with_a_file_is_said(written):
    for data, reason in (
        (b"", "it is empty"),
        (b"weights", "it begins neither like a zip archive nor like a pickle"),
        (pickle.dumps({"a": 1}), "it is a pickle, but not of torch.save"),
        (bytes(257) + b"ustar", "it was written by PyTorch 0.1"),
        (archive(b"\x80\x02]."), "it holds a list, not a dictionary of tensors"),
        (archive(b"\x80\x02cmodels\nSeqNet\n)\x81}b."), "it holds an object made by models.SeqNet"),
        (
            archive(state_dict(model=b"cmodels\nSeqNet\n)\x81}b")),
            "'model' is an object made by models.SeqNet",
        ),
        (
            archive(state_dict(epoch=b"K\x03", note=text("x"))),
            "there are no tensors in it, only: epoch, note",
        ),
        (archive(b"\x80\x09N."), "pickle protocol 9"),
    ):
        assert reason in refusal(written(data))
    legacy = (FILES / "kinds_legacy.pth").read_bytes()
    assert "storage " in refusal(written(legacy[:-1])) and "1 bytes follow" in refusal(written(legacy + b"x"))


# Hostile files


class Attack:
    """Pickles as a call of a function with arguments."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


class StateAttack:
    """Pickles with a state; unpickling it makes the class, and runs its `__setstate__`."""

    marker = ""

    def __setstate__(self, state):
        Path(state["marker"]).write_text("run")

    def __getstate__(self):
        return {"marker": self.marker}


def legacy_file(pickled):
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    return b"".join(pickle.dumps(part, 2) for part in head) + pickled + pickle.dumps([], 2)


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_that_a_file_says_is_run(written, tmp_path, protocol):
    marker = tmp_path / "marker"
    state = StateAttack()
    state.marker = str(marker)
    attacks = [
        Attack(os.system, f"touch {marker}"),
        Attack(eval, f"open({str(marker)!r}, 'w')"),
        Attack(exec, f"open({str(marker)!r}, 'w')"),
        Attack(Path.touch, marker),
        Attack(getattr, Attack(__import__, "os"), "system"),
        state,
    ]
    attacks.append(Attack(map, os.system, [f"touch {marker}"]))
    for attack in attacks:
        alone = pickle.dumps(attack, protocol)
        inside = pickle.dumps(OrderedDict(weight=attack), protocol)
        deeper = pickle.dumps({"state_dict": OrderedDict(weight=[attack]), "extra": attack}, protocol)
        for pickled in (alone, inside, deeper):
            for data in (archive(pickled), legacy_file(pickled), pickled):
                reason = refusal(written(data))
                assert "damaged" not in reason
        reason = refusal(written(archive(alone)))
        assert any(
            name in reason for name in ("system", "eval", "exec", "getattr", "map", "touch", "StateAttack")
        )
        beside = state_dict(extra=pickle.dumps(attack, 2)[2:-1], x=tensor())
        assert "extra is an object made by" in refusal(written(archive(beside, FLOATS)))
        # Beside the weights it is a name and no more.
        extra = b"\x80\x02}(" + text("state_dict") + state_dict(x=tensor())[2:-1]
        extra += text("hyper_parameters") + pickle.dumps(attack, 2)[2:-1] + b"u."
        assert_same(read_state_dict(written(archive(extra, FLOATS))), {"x": count(4)})
    assert not marker.exists()
    pickle.loads(pickle.dumps(state))  # the attack is a real one
    assert marker.exists()


# Damaged files


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_thousand_damaged_files_give_right_values_or_a_clear_error(tmp_path, monkeypatch):
    def never(*arguments):
        raise AssertionError(f"something was run: {arguments}")

    draw = random.Random(0)
    path = tmp_path / "damaged.pth"
    read = refused = unchanged = 0
    originals = {
        path.stem: (path.read_bytes(), read_state_dict(path)) for path in sorted(FILES.glob("*.pth"))
    }
    names = [name for name in originals if name != "uint16"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "system", never)
        for number in range(1000):
            data, right = originals[names[number % len(names)]]
            zipped = data[:2] == b"PK"
            edits = zipped and number % 3 > 0
            damaged = edited(draw, data) if edits else mutated(draw, data)
            path.write_bytes(damaged)
            try:
                found = read_state_dict(path)
            except PortingError as error:
                assert str(error).startswith(f"{path} is not a readable PyTorch file of tensors: ")
                assert len(str(error)) < 1000
                refused += 1
                continue
            read += 1
            if zipped and not edits:  # checksums tell of every damage to what is read
                assert_same(found, right)
            else:
                assert_same(found, second_opinion(damaged))
            unchanged += all(
                name in found and np.array_equal(found[name], value) for name, value in right.items()
            )
    assert read + refused == 1000
    assert read > 150 and refused > 700 and unchanged > 100, (read, refused, unchanged)
