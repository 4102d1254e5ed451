"""Reading files of named tensors, without PyTorch."""

from pathlib import Path

import numpy as np

from ps_jax.errors import PortingError
from ps_jax.porting.onnx_files import read_onnx
from ps_jax.porting.published import is_published, published_weights
from ps_jax.porting.torch_files import read_state_dict

TORCH_SUFFIXES = (".pth", ".pt", ".ckpt")
SUFFIXES = (".npz", ".safetensors", ".onnx", *TORCH_SUFFIXES)

# What wrappers put before every name: PyTorch Lightning, torch.nn.DataParallel, torch.compile.
WRAPPERS = ("model.", "module.", "_orig_mod.")


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every tensor of a weights file.

    Of a PyTorch checkpoint these are the tensors of its model; optimiser, schedule and whatever else it keeps are
    left out (`ps_jax.porting.torch_files`).

    Args:
      path: a .npz file, a .safetensors file (needs the package `safetensors`), an .onnx file (its initialisers, see
        `ps_jax.porting.onnx_files`), or a .pth, .pt or .ckpt file that `torch.save` wrote. None of them needs PyTorch,
        and nothing in them is executed. Or the name of weights in `ps_jax.porting.published.PUBLISHED`.

    Returns:
      The arrays by the name they have in the file, in the file's order; without a prefix of `WRAPPERS` that all of
      them have.

    Raises:
      PortingError: if the file is missing, of another kind, or damaged.
      ConfigError: if there are no published weights of that name.
    """
    path = published_weights(str(path)) if is_published(path) else Path(path)
    if path.suffix not in SUFFIXES:
        raise PortingError(f"Cannot read weights from {path}: known are {', '.join(SUFFIXES)} files.")
    if not path.is_file():
        raise PortingError(f"There is no weights file {path}.")
    if path.suffix == ".npz":
        return _unwrapped(_read_npz(path))
    if path.suffix == ".onnx":
        return _unwrapped(read_onnx(path))
    if path.suffix == ".safetensors":
        return _unwrapped(_read_safetensors(path))
    return _unwrapped(read_state_dict(path))


def _unwrapped(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    while tensors:
        found = [prefix for prefix in WRAPPERS if all(name.startswith(prefix) for name in tensors)]
        if not found:
            break
        tensors = {name.removeprefix(found[0]): tensor for name, tensor in tensors.items()}
    return tensors


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # numpy raises whatever its zip reader meets
        raise PortingError(f"{path} is not a readable .npz file of arrays: {error}") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise PortingError(f"Reading {path} needs a package: pip install safetensors") from error
    try:
        return load_file(path)
    except Exception as error:  # the reader's own error type is not public in all versions
        raise PortingError(f"{path} is not a readable .safetensors file: {error}") from error
