"""Reading files of named tensors, without PyTorch."""

from pathlib import Path

import numpy as np

from ps_jax.errors import PortingError

_CONVERT = (
    "Files of pickled Python objects are not read. Where PyTorch is installed, write the tensors out once "
    "and give that file: "
    "python -c \"import torch, numpy; s = torch.load('{name}', map_location='cpu', weights_only=True); "
    "s = s.get('model', s.get('state_dict', s)); "
    "numpy.savez('{stem}.npz', **{{k: v.numpy() for k, v in s.items() if hasattr(v, 'numpy')}})\""
)


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every tensor of a weights file.

    Args:
      path: a .npz file, or a .safetensors file (needs the package `safetensors`, not PyTorch).

    Returns:
      The arrays by the name they have in the file, in the file's order.

    Raises:
      PortingError: if the file is missing, of another kind (the message says how to convert a PyTorch
        file), or damaged.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise PortingError(
            f"Cannot read weights from {path}: this version reads .npz and .safetensors files. "
            + _CONVERT.format(name=path.name, stem=path.stem)
        )
    if not path.is_file():
        raise PortingError(f"There is no weights file {path}.")
    if path.suffix == ".npz":
        return _read_npz(path)
    return _read_safetensors(path)


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
