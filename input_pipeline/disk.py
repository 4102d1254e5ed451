"""What all readers of data sets on disk share: where files should lie, picture sizes, checks of boxes.

Everything here raises `DataError` with the file, what is wrong with it, and what to do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from input_pipeline.scenes import Box
from ps_jax.errors import DataError

PARTITIONS = ("train", "test")
PICTURE_FORMATS = ("JPEG", "MPO", "PNG")  # MPO: a JPEG with further pictures behind the first
ORIENTATION = 0x0112  # EXIF tag

_WITHOUT_DATA = "No data set is needed to try the library: python train.py --config configs/spnet_qc.py"


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk, as told to a user whose folder does not look like that.

    Attributes:
      title: the data set's usual name.
      tree: its files, one a line.
      source: one sentence on where it comes from.
    """

    title: str
    tree: str
    source: str

    def error(self, problem: str) -> DataError:
        """The error `problem`, followed by the expected files, their source, and how to do without."""
        tree = "\n".join(f"  {line}" for line in self.tree.strip().splitlines())
        return DataError(f"{problem}\n{self.title} is expected as\n{tree}\n{self.source}\n{_WITHOUT_DATA}")

    def directory(self, path: str | Path) -> Path:
        """`path` as a Path; raises DataError where there is no such directory."""
        if not str(path):
            raise self.error("no directory is named; give one with --config.data.dir=PATH")
        path = Path(path).expanduser()
        if not path.is_dir():
            raise self.error(f"{path}: there is no such directory")
        return path

    def file(self, path: Path) -> Path:
        """`path` itself; raises DataError where there is no such file."""
        if not path.is_file():
            raise self.error(f"{path}: there is no such file")
        return path


def check_partition(partition: str) -> None:
    """Raises ValueError unless `partition` is "train" or "test"."""
    if partition not in PARTITIONS:
        raise ValueError(f"partition is {partition!r}, wanted one of {PARTITIONS}")


def picture_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of a JPEG or PNG file in pixels, from its header alone.

    Raises:
      DataError: there is no such file, its header is damaged, or it is of another format.
    """
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            kind = picture.format
            turned = picture.getexif().get(ORIENTATION, 1) not in (0, 1)
    except FileNotFoundError:
        raise DataError(f"{path}: this picture is missing; copy it there from the data set") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{path}: cannot read the header of this picture ({type(error).__name__}); "
            "the file is truncated or no picture, copy it again from the data set"
        ) from error
    if kind not in PICTURE_FORMATS:
        raise DataError(f"{path}: this picture is a {kind} file; convert it to JPEG or PNG")
    if turned:
        raise DataError(
            f"{path}: this picture is stored turned or mirrored (EXIF orientation), which boxes may or may not "
            "follow; save it upright, for example with PIL.ImageOps.exif_transpose"
        )
    return height, width


def checked_box(
    box: Sequence[float], size: tuple[int, int], where: str, *, remedy: str = "mend or remove it"
) -> Box:
    """A box as it is kept in a record, or the reason why it cannot be one.

    A box may reach over the border of its picture, as some of the published annotations do: their
    protocols measure overlap with the box as annotated.

    Args:
      box: (x1, y1, x2, y2) in pixels.
      size: (height, width) of the picture.
      where: the file, the scene and the number of the box, for the message.
      remedy: what to do, for the message.

    Returns:
      The same four numbers as floats.

    Raises:
      DataError: a coordinate is not finite, the box is empty, or no part of it lies in the picture.
    """
    x1, y1, x2, y2 = (float(value) for value in box)
    height, width = size
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        problem = "has a coordinate that is not a finite number"
    elif x2 <= x1 or y2 <= y1:
        problem = "is empty"
    elif x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        problem = f"lies outside the picture of {width} x {height} pixels"
    else:
        return x1, y1, x2, y2
    raise DataError(f"{where}, (x1, y1, x2, y2) = ({x1:g}, {y1:g}, {x2:g}, {y2:g}), {problem}; {remedy}")
