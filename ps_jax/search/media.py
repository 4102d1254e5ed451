"""Pictures and videos as they lie on a user's disk: found, decoded within limits, turned upright, and dated."""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ps_jax.errors import DataError, GalleryError
from ps_jax.search.records import Part

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # of Pillow; others are not even tried
FORMATS_IN_WORDS = "JPEG, PNG, WebP, BMP, TIFF"
MOST_PIXELS = 80_000_000  # of a picture, looked at before any pixel is decoded
LONGEST_SIDE = 32_768

_DATE = (0x8769, 36867, 36881)  # EXIF: the table, when the picture was taken, and its offset from UTC

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
      damage: why it cannot be read, else "".
    """

    file: MediaFile
    number: int
    moment: float
    taken: float
    image: RGB | None
    last: bool
    damage: str = ""


def find_files(places: Sequence[str | Path]) -> list[MediaFile]:
    """The pictures and videos of folders, with all folders in them, and files; by path, each once.

    Raises:
      DataError: a place does not exist, a file is no picture or video by its name, or there is nothing to look at.
    """
    found: dict[str, MediaFile] = {}
    for place in map(Path, places):
        if place.is_dir():
            paths = [path for path in sorted(place.rglob("*")) if path.suffix.lower() in PICTURES + VIDEOS]
        elif not place.exists():
            raise DataError(f"{place}: there is no such file or folder")
        elif place.suffix.lower() not in PICTURES + VIDEOS:
            raise DataError(f"{place}: neither a picture nor a video ({' '.join(PICTURES + VIDEOS)})")
        else:
            paths = [place]
        for path in paths:
            if path.is_file():
                status = path.stat()
                name = os.path.abspath(path)
                found[name] = MediaFile(name, status.st_size, status.st_mtime_ns)
    if not found:
        raise DataError(f"{', '.join(map(str, places))}: there are no pictures or videos in it")
    return [found[name] for name in sorted(found)]


def decode(data: bytes, name: str) -> tuple[RGB, float | None]:
    """Decodes a picture that may be hostile.

    Args:
      data: the file.
      name: of the file, for the message.

    Returns:
      u8[height, width, 3], turned upright as its EXIF says, and when it was taken (seconds since 1970), None where
      it does not say.

    Raises:
      DataError: the picture is broken, too large, or of a format that is not read.
    """
    Image.init()  # registers all formats; once
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MOST_PIXELS or max(width, height) > LONGEST_SIDE:
                raise DataError(
                    f"{name}: {width} x {height} pixels are too many (at most {MOST_PIXELS // 10**6} million); scale "
                    "it down"
                )
            taken = _when_taken(picture)
            upright = ImageOps.exif_transpose(picture)
            return np.asarray(upright.convert("RGB")), taken
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{name}: this picture has too many pixels; scale it down") from None
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them stumble over
        raise DataError(
            f"{name}: this is no picture that can be read ({FORMATS_IN_WORDS}), or it is broken"
        ) from error


def _when_taken(picture: Image.Image) -> float | None:
    table, original, offset = _DATE
    try:
        tags = picture.getexif().get_ifd(table)
        date = datetime.strptime(str(tags[original]).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        if offset in tags:
            zone = datetime.strptime(str(tags[offset]).strip("\0 "), "%z").tzinfo
            date = date.replace(tzinfo=zone)
        return date.timestamp()
    except (KeyError, ValueError, OverflowError, OSError, SyntaxError, TypeError):
        return None  # there is none, or none that means anything


def look_at_picture(file: MediaFile) -> Look:
    """Reads a picture; its time is the file's where it does not say its own."""
    modified = file.modified / 1e9
    try:
        image, taken = decode(Path(file.path).read_bytes(), file.path)
    except DataError as error:
        return Look(file, 0, 0.0, modified, None, True, str(error).removeprefix(f"{file.path}: "))
    except OSError as error:
        return Look(file, 0, 0.0, modified, None, True, f"cannot be read ({error.strerror})")
    return Look(file, 0, 0.0, modified if taken is None else taken, image, True)


def look_at_video(file: MediaFile, fps: float, first: int = 0) -> Iterator[Look]:
    """The frames of a video at a steady rate: for each k the first frame that is not before k / fps seconds.

    Args:
      file: the video.
      fps: frames a second of it.
      first: number of the first frame wanted; the ones before it are passed over without being kept.

    Yields:
      Looks; a single one with its damage where no frame can be read.
    """
    taken = file.modified / 1e9
    if not _is_container(file.path):
        yield Look(file, first, 0.0, taken, None, True, "this is no video that can be read, or it is broken")
        return
    import cv2

    capture = cv2.VideoCapture(file.path, cv2.CAP_FFMPEG)
    try:
        before: Look | None = None
        number = 0
        while capture.grab():
            moment = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            if moment < number / fps - 1e-3:
                continue
            if number >= first:
                readable, frame = capture.retrieve()
                if not readable:
                    break
                if before is not None:
                    yield before
                image = np.ascontiguousarray(frame[:, :, ::-1])
                before = Look(file, number, moment, taken, image, False)
            number = max(number + 1, int(np.ceil((moment + 1e-3) * fps)))  # a gap in the video is passed over
        if before is not None:
            yield Look(file, before.number, before.moment, taken, before.image, True)
        else:
            damage = (
                "" if number else "no frame of this video can be read; it is broken or of an unknown coding"
            )
            yield Look(file, first, 0.0, taken, None, True, damage)
    finally:
        capture.release()


def frames_expected(file: MediaFile, fps: float) -> int:
    """About how many frames `look_at_video` gives; 1 for a picture or where the video does not say."""
    if not file.is_video or not _is_container(file.path):
        return 1
    import cv2

    capture = cv2.VideoCapture(file.path, cv2.CAP_FFMPEG)
    try:
        rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        capture.release()
    return max(1, min(int(count), int(np.ceil(count / rate * fps)))) if rate > 0 and count > 0 else 1


def scene_image(part: Part, moment: float) -> RGB:
    """A scene of a gallery again: the picture, or the frame of a video at a moment.

    Args:
      part: as it was recorded.
      moment: seconds since the beginning of a video.

    Raises:
      GalleryError: the file is gone, or is another version than was indexed.
    """
    path = part.path
    try:
        status = os.stat(path)
        file = MediaFile(path, status.st_size, status.st_mtime_ns)
    except OSError:
        raise GalleryError(f"{path}: this file of the gallery is gone; index the folder again") from None
    image = None
    if (file.size, file.modified) == (part.size, part.modified):
        image = _frame_at(path, moment) if file.is_video else look_at_picture(file).image
    if image is None or image.shape[:2] != (part.height, part.width):
        raise GalleryError(f"{path}: this file has changed since it was indexed; index the folder again")
    return image


def _frame_at(path: str, moment: float) -> RGB | None:
    """The first frame not before a moment: by a jump to somewhat before it, where the video can be jumped in."""
    if not _is_container(path):
        return None
    import cv2

    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    try:
        for start in (max(0.0, moment - 2.0), 0.0):
            capture.set(cv2.CAP_PROP_POS_MSEC, 1e3 * start)
            while capture.grab():
                here = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
                if here > moment + 0.5:
                    break  # the jump went too far
                if here >= moment - 1e-3:
                    readable, frame = capture.retrieve()
                    return np.ascontiguousarray(frame[:, :, ::-1]) if readable else None
        return None
    finally:
        capture.release()


def _is_container(path: str) -> bool:
    """Whether a file begins like a video: a play list, a text that names other files, is never opened."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    signs = (b"\x1a\x45\xdf\xa3", b"RIFF", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"\x47")
    boxes = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
    return head.startswith(signs) or head[4:8] in boxes
