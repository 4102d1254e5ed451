"""The pictures and videos of a user's disk, and what is seen of them."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ps_jax.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")

RGB = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file to look at: absolute path, size in bytes, modification in nanoseconds since 1970."""

    path: str
    size: int
    modified: int

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by its name."""
        return self.path.lower().endswith(VIDEOS)


@dataclass(frozen=True, eq=False, slots=True)
class Look:
    """A picture or a frame of a video.

    Attributes:
      file: where it is from.
      number: number of the frame among those looked at; 0 in a picture.
      moment: seconds since the beginning of the video; 0 in a picture.
      taken: seconds since 1970 of the picture, or of the video's beginning.
      image: u8[height, width, 3]; None where it cannot be read.
      last: whether nothing of the file comes behind it.
      damage: why it cannot be read, or a video not to its end; else "".
      passing: whether the reason lies not in the file and may be gone next time.
    """

    file: MediaFile
    number: int
    moment: float
    taken: float
    image: RGB | None
    last: bool
    damage: str = ""
    passing: bool = False


def find_files(places: Sequence[str | Path]) -> tuple[list[MediaFile], dict[str, str]]:
    """The pictures and videos of folders, with all folders in them, and files; by path, each once.

    Returns:
      The files, and path -> why, of files and folders that cannot be looked at now.

    Raises:
      DataError: a place does not exist, a file is no picture or video by its name, or there is nothing to look at.
    """
    found: dict[str, MediaFile] = {}
    unread: dict[str, str] = {}

    def pass_over(error: OSError) -> None:
        unread[os.path.abspath(error.filename)] = reason_of(error)

    for place in map(Path, places):
        try:
            is_folder = stat.S_ISDIR(place.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(f"{place}: there is no such file or folder") from None
        except OSError as error:
            raise DataError(f"{place}: {reason_of(error)}") from error
        if not is_folder and place.suffix.lower() not in PICTURES + VIDEOS:
            raise DataError(f"{place}: neither a picture nor a video ({' '.join(PICTURES + VIDEOS)})")
        listed = os.walk(place, onerror=pass_over) if is_folder else [(str(place.parent), [], [place.name])]
        for folder, _, names in listed:
            for name in names:
                if os.path.splitext(name)[1].lower() not in PICTURES + VIDEOS:
                    continue
                path = os.path.abspath(os.path.join(folder, name))
                try:
                    status = os.stat(path)
                except FileNotFoundError:  # a link to nothing, or gone in this moment
                    continue
                except OSError as error:
                    pass_over(error)
                    continue
                if stat.S_ISREG(status.st_mode):
                    found[path] = MediaFile(path, status.st_size, status.st_mtime_ns)
    if not found:
        besides = "".join(f"; {path}: {reason}" for path, reason in list(unread.items())[:1])
        raise DataError(f"{', '.join(map(str, places))}: there are no pictures or videos in it{besides}")
    return [found[name] for name in sorted(found)], unread


def reason_of(error: OSError | MemoryError) -> str:
    """Why a file cannot be read now, though nothing may be wrong with it."""
    return f"cannot be read ({getattr(error, 'strerror', None) or 'out of memory'})"
