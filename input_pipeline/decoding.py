"""Encoded pictures to RGB arrays, with errors that name the file."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from input_pipeline.lazy_tensorflow import tensorflow
from input_pipeline.scenes import Split
from ps_jax.errors import DataError

_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG"


def decode_picture(data: bytes, path: str) -> np.ndarray:
    """Decodes a picture to RGB; grey, CMYK and palette pictures are converted, alpha is dropped.

    JPEG goes through the accurate integer transform, which gives the same pixels as PIL and OpenCV do.

    Args:
      data: JPEG or PNG bytes, or anything else that PIL reads.
      path: the file they come from, for the message.

    Returns:
      u8[height, width, 3].

    Raises:
      DataError: the picture is truncated, broken or of an unknown format.
    """
    tf = tensorflow()
    try:
        if data.startswith(_JPEG):
            return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
        if data.startswith(_PNG):
            return tf.io.decode_png(data, channels=3).numpy()
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (tf.errors.InvalidArgumentError, UnidentifiedImageError, OSError, ValueError) as error:
        raise DataError(
            f"{path}: this picture is truncated or broken and cannot be decoded; fetch the file again "
            "or remove the scene from the annotations"
        ) from error


def read_picture(split: Split, position: int) -> np.ndarray:
    """Reads and decodes scene number `position`.

    Args:
      split: where the scene is from.
      position: its number there.

    Returns:
      u8[height, width, 3].

    Raises:
      DataError: the file is missing or broken, or its size is not the recorded one (the boxes would not fit).
    """
    scene = split.scenes[position]
    picture = decode_picture(split.encoded(position), scene.path)
    if picture.shape[:2] != (scene.height, scene.width):
        found = f"{picture.shape[0]}x{picture.shape[1]}"
        raise DataError(
            f"{scene.path}: the picture is {found} (height x width), its record says "
            f"{scene.height}x{scene.width}; the annotations belong to another version of the picture"
        )
    return picture
