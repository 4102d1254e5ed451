"""Reading weights files, and the errors for files that cannot be read."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from ps_jax.errors import PortingError
from ps_jax.porting import read_tensors

TENSORS = {
    "layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layer.half": np.ones(3, np.float16),
    "counter": np.asarray(7, np.int64),
}


def write_npz(path):
    np.savez(path, **TENSORS)


def write_safetensors(path):
    save_file(TENSORS, path)


@pytest.mark.parametrize("suffix, write", [(".npz", write_npz), (".safetensors", write_safetensors)])
def test_both_kinds_of_file_give_back_every_tensor(tmp_path, suffix, write):
    path = tmp_path / f"weights{suffix}"
    write(path)
    read = read_tensors(path)
    assert set(read) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read[name], tensor)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_damaged_file_is_named(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(PortingError, match=f"weights{suffix} is not a readable {suffix} file"):
        read_tensors(path)


def test_pickled_objects_in_an_npz_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, a=np.asarray([{}], object))
    with pytest.raises(PortingError, match="not a readable"):
        read_tensors(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PortingError, match=r"There is no weights file .*none\.npz"):
        read_tensors(tmp_path / "none.npz")


def test_other_kinds_of_file_are_named(tmp_path):
    path = tmp_path / "resnet50.h5"
    path.write_bytes(b"")
    with pytest.raises(
        PortingError, match=r"resnet50\.h5: known are \.npz, \.safetensors, \.onnx, \.pth, \.pt, \.ckpt files"
    ):
        read_tensors(path)


def test_prefixes_of_wrappers_go_where_all_names_have_them(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **{f"model.module._orig_mod.model.{name}": tensor for name, tensor in TENSORS.items()})
    assert set(read_tensors(path)) == set(TENSORS)
    np.savez(path, **{"model.a": np.ones(2), "other.b": np.ones(3)})
    assert set(read_tensors(path)) == {"model.a", "other.b"}
