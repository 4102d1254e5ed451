"""MATLAB files as plain Python values, with errors that name the file.

Arrays of structs become lists of tuples in the order of their fields. The released loaders of CUHK-SYSU
take most fields by position, so their names may differ between copies of the data set; so it is done here.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import io

from ps_jax.errors import DataError


def load_variable(path: Path, names: Sequence[str], *, squeeze: bool = True) -> np.ndarray:
    """The first of the variables `names` that the file has.

    Args:
      path: a MATLAB file of version 4, 5 or 7 (not 7.3, which is HDF5).
      names: names of variables, the preferred one first.
      squeeze: drop axes of length one, as `scipy.io.loadmat` does with `squeeze_me`.

    Raises:
      DataError: there is no such file, it cannot be read, or it has none of the variables.
    """
    try:
        with open(path, "rb") as file:
            content = io.loadmat(file, squeeze_me=squeeze, variable_names=list(names))
            for name in names:
                if name in content:
                    return content[name]
            present = ", ".join(name for name, _, _ in io.whosmat(file)) or "none"
    except FileNotFoundError:
        raise DataError(f"{path}: this MATLAB file is missing; copy it there from the data set") from None
    except NotImplementedError:
        raise DataError(f"{path}: a MATLAB 7.3 file; save it again with save(..., '-v7')") from None
    except (io.matlab.MatReadError, OSError, ValueError, TypeError, KeyError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot read this MATLAB file ({type(error).__name__}: {error}); "
            "copy it again from the data set"
        ) from error
    wanted = " or ".join(repr(name) for name in names)
    raise DataError(
        f"{path}: has no variable {wanted} (it has: {present}); is it a file of another data set?"
    )


def records(value: object, path: Path, what: str, fields: Sequence[str]) -> list[tuple]:
    """An array of structs, or a cell array of them, as a list of tuples of their first fields.

    Args:
      value: what `load_variable` or a field of another record gave.
      path: the file, for messages.
      what: name of the value, for messages.
      fields: names of the fields as published; a struct must have at least as many. They are taken by
        position.

    Returns:
      One tuple of `len(fields)` values a struct, in file order.

    Raises:
      DataError: `value` is no array of structs, or its structs have too few fields.
    """
    array = np.atleast_1d(np.asarray(value))
    if array.size == 0:
        return []
    if array.dtype.names is None:
        if array.dtype != object:
            raise DataError(f"{path}: {what} is no struct with the fields {', '.join(fields)}")
        return [record for cell in array.ravel() for record in records(cell, path, what, fields)]
    if len(array.dtype.names) < len(fields):
        raise DataError(
            f"{path}: {what} has the fields {', '.join(array.dtype.names)}, wanted {', '.join(fields)}"
        )
    return [record[: len(fields)] for record in array.ravel().tolist()]


def named_records(value: object, path: Path, what: str, fields: Sequence[str]) -> list[tuple]:
    """As `records`, but the fields are taken by their names, which all copies of the data set share."""
    array = np.atleast_1d(np.asarray(value))
    missing = [name for name in fields if name not in (array.dtype.names or ())]
    if missing:
        raise DataError(f"{path}: {what} has no field {' and no field '.join(map(repr, missing))}")
    return list(zip(*(array[name].ravel().tolist() for name in fields), strict=True))


def texts(value: object, path: Path, what: str) -> list[str]:
    """A cell array of strings as a list; raises DataError where a cell is none."""
    cells = np.atleast_1d(np.asarray(value)).ravel().tolist()
    return [text(cell, path, what) for cell in cells]


def text(value: object, path: Path, what: str) -> str:
    """A string; raises DataError where `value` is none or an empty one."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{path}: {what} is {value!r}, wanted a file name")
    return value.strip()


def extent(value: object, path: Path, what: str) -> tuple[int, int, int, int]:
    """A box (x, y, w, h) cut to whole numbers towards zero, as a cast to int32 cuts them.

    Raises:
      DataError: there are not four numbers, or one of them is not finite.
    """
    numbers = np.asarray(value).ravel()
    if numbers.size != 4 or numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all():
        raise DataError(f"{path}: {what} is {numbers.tolist()}, wanted 4 finite numbers")
    x, y, w, h = (int(number) for number in numbers.tolist())  # not as bytes, whose sums overflow
    return x, y, w, h
