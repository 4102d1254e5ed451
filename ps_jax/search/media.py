"""Pictures as they lie on a user's disk: decoded within limits, turned upright, and dated; scenes seen again."""

import io
import os
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ps_jax.errors import DataError, GalleryError
from ps_jax.search.files import RGB, Look, MediaFile, reason_of
from ps_jax.search.records import Part
from ps_jax.search.video import frame_at

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # of Pillow; others are not even tried
FORMATS_IN_WORDS = "JPEG, PNG, WebP, BMP, TIFF"
MOST_BYTES = (
    512 << 20
)  # of a picture's file, looked at before it is read: what its pixels take at 16 bits a colour
MOST_PIXELS = 80_000_000  # of a picture, looked at before any pixel is decoded
LONGEST_SIDE = 32_768

_BITS = 258  # TIFF: bits of a sample
_DATE = (0x8769, 36867, 36881)  # EXIF: the table, when the picture was taken, and its offset from UTC


def read_picture(path: str | Path) -> bytes:
    """The file of a picture.

    Raises:
      DataError: it is larger than any picture that is read.
      OSError: it cannot be read now.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES:
            raise DataError(
                f"{path}: {size >> 20} MiB are too many for a picture (at most {MOST_BYTES >> 20}); scale it down"
            )
        return file.read()


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
            return _colours(picture, name), taken
    except (DataError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{name}: this picture has too many pixels; scale it down") from None
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them stumble over
        raise DataError(
            f"{name}: this is no picture that can be read ({FORMATS_IN_WORDS}), or it is broken"
        ) from error


def _colours(picture: Image.Image, name: str) -> RGB:
    """The pixels upright; of 16 bits the upper eight, where Pillow itself would make white of all but the darkest."""
    if picture.mode in ("I", "F"):
        raise DataError(
            f"{name}: its pixels have 32 bits or a sign, and it does not say which number is white; save it "
            "with 8 or 16 bits"
        )
    upright = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        bits = getattr(picture, "tag_v2", {}).get(_BITS, (16,))[0]  # TIFF has 12, too
        grey = (np.asarray(upright) >> (bits - 8)).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(upright.convert("RGB"))


def _when_taken(picture: Image.Image) -> float | None:
    table, original, offset = _DATE
    try:
        tags = picture.getexif().get_ifd(table)
        date = datetime.strptime(str(tags[original]).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        if offset in tags:
            zone = datetime.strptime(str(tags[offset]).strip("\0 "), "%z").tzinfo
            date = date.replace(tzinfo=zone)
        taken = date.timestamp()
        datetime.fromtimestamp(taken)  # beyond what can be shown, it means nothing
        return taken
    except (KeyError, ValueError, OverflowError, OSError, SyntaxError, TypeError):
        return None  # there is none, or none that means anything


def look_at_picture(file: MediaFile) -> Look:
    """Reads a picture; its time is the file's where it does not say its own."""
    modified = file.modified / 1e9
    try:
        image, taken = decode(read_picture(file.path), file.path)
    except DataError as error:
        return Look(file, 0, 0.0, modified, None, True, str(error).removeprefix(f"{file.path}: "))
    except (OSError, MemoryError) as error:
        return Look(file, 0, 0.0, modified, None, True, reason_of(error), passing=True)
    return Look(file, 0, 0.0, modified if taken is None else taken, image, True)


def scene_image(part: Part, moment: float) -> RGB:
    """A scene of a gallery again: the picture, or the frame of a video at a moment.

    Args:
      part: as it was recorded.
      moment: seconds since the beginning of a video.

    Raises:
      GalleryError: the file is gone, is another version than was indexed, or cannot be read now.
    """
    path = part.path
    image = None
    try:
        status = os.stat(path)
        file = MediaFile(path, status.st_size, status.st_mtime_ns)
        if (file.size, file.modified) == (part.size, part.modified):
            image = frame_at(path, moment) if file.is_video else decode(read_picture(path), path)[0]
    except FileNotFoundError:
        raise GalleryError(f"{path}: this file of the gallery is gone; index the folder again") from None
    except (OSError, MemoryError) as error:
        raise GalleryError(f"{path}: {reason_of(error)}") from error
    except DataError:
        pass  # it was whole when it was indexed
    if image is None or image.shape[:2] != (part.height, part.width):
        raise GalleryError(f"{path}: this file has changed since it was indexed; index the folder again")
    return image
