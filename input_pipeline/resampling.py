"""Bilinear resampling with half-pixel centres, as OpenCV's INTER_LINEAR and `tf.image.resize` define it.

Augmentation scales a scene, pads it to a large canvas, cuts a window and resizes that to the crop. `render`
computes the same pixels without ever building the scaled scene or the canvas: a crop needs at most two rows
and two columns of the canvas for each of its own.
"""

from typing import Any, NamedTuple

import numpy as np

from input_pipeline.lazy_tensorflow import tensorflow

Tensor = Any  # a TensorFlow tensor; the module is imported only when it is used


class View(NamedTuple):
    """Which part of the scaled scene a crop shows.

    Attributes:
      scaled: i32[2], (height, width) the whole scene is first resized to.
      origin: i32[2], (y, x) of the window's upper left corner in the scaled scene; negative in the padding.
      window: i32[2], (height, width) of the window in pixels of the scaled scene.
      flip: bool, whether the crop is mirrored left to right.
    """

    scaled: Tensor
    origin: Tensor
    window: Tensor
    flip: Tensor


def window_size(height: Any, width: Any, resize: tuple[int, int]) -> np.ndarray:
    """Size after the window resize: short side `resize[0]`, unless the long side would exceed `resize[1]`.

    Args:
      height, width: sizes of scenes in pixels, numbers or arrays of one shape.
      resize: (short side, longest long side) in pixels.

    Returns:
      i32[..., 2] new (height, width), rounded to the nearest integer.
    """
    size = np.stack([np.asarray(height, np.float64), np.asarray(width, np.float64)], -1)
    factor = np.minimum(resize[0] / size.min(-1), resize[1] / size.max(-1))
    return np.maximum(np.floor(size * factor[..., None] + 0.5), 1).astype(np.int32)


def resize_picture(image: Tensor, size: Tensor) -> Tensor:
    """Resizes a whole picture, without antialiasing, and rounds to u8.

    Args:
      image: u8[height, width, 3].
      size: i32[2], new (height, width).

    Returns:
      u8[new height, new width, 3].
    """
    tf = tensorflow()
    return _to_u8(tf.image.resize(image, size, method="bilinear", antialias=False))


def resize_array(image: np.ndarray, size: np.ndarray) -> np.ndarray:
    """`resize_picture` without TensorFlow, bit for bit.

    Args:
      image: u8[height, width, 3].
      size: i32[2], new (height, width).

    Returns:
      u8[new height, new width, 3].
    """
    (top, bottom, down), (left, right, across) = (
        _array_taps(length, int(new)) for length, new in zip(image.shape, size, strict=False)
    )
    # Every row that is needed is mixed along its width once.
    rows, index = np.unique(np.concatenate([top, bottom]), return_inverse=True)
    needed = image[rows].astype(np.float32)
    mixed = needed[:, left]
    mixed += (needed[:, right] - mixed) * across[None, :, None]
    upper, lower = mixed[index[: len(top)]], mixed[index[len(top) :]]
    upper += (lower - upper) * down[:, None, None]
    return np.clip(np.floor(upper + np.float32(0.5)), 0, 255).astype(np.uint8)


def _array_taps(length: int, new_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_taps`, of all positions."""
    scale = np.float32(length) / np.float32(new_length)
    position = (np.arange(new_length, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    low = np.floor(position)
    first, second = (np.clip(edge.astype(np.int32), 0, length - 1) for edge in (low, np.ceil(position)))
    return first, second, position - low


def render(image: Tensor, view: View, crop: tuple[int, int], fill: Tensor) -> Tensor:
    """Draws a view of a scene: scale, pad with `fill`, cut the window, resize it to the crop, flip.

    Every pixel is the one the five steps give when done one after the other, with rounding to u8 after the
    first and after the second resize.

    Args:
      image: u8[height, width, 3].
      view: what to show.
      crop: (height, width) of the result.
      fill: u8[3], the colour outside the scene.

    Returns:
      u8[crop height, crop width, 3].
    """
    tf = tensorflow()
    row_low, row_high, row_weight = _taps(tf.range(crop[0]), view.window[0], crop[0])
    column_low, column_high, column_weight = _taps(tf.range(crop[1]), view.window[1], crop[1])
    rows, row_index = tf.unique(tf.concat([row_low, row_high], 0))
    columns, column_index = tf.unique(tf.concat([column_low, column_high], 0))
    canvas = _canvas(image, view, rows, columns, fill)

    def flipped(taps):
        return tf.where(view.flip, tf.reverse(taps, [0]), taps)

    left, right = flipped(column_index[: crop[1]]), flipped(column_index[crop[1] :])
    canvas = _mix(canvas, left, right, flipped(column_weight), axis=1)
    picture = _to_u8(_mix(canvas, row_index[: crop[0]], row_index[crop[0] :], row_weight, axis=0))
    return tf.ensure_shape(picture, (*crop, 3))


def _canvas(image: Tensor, view: View, rows: Tensor, columns: Tensor, fill: Tensor) -> Tensor:
    """f32[rows, columns, 3], these pixels of the scaled and padded scene, rounded to whole numbers."""
    tf = tensorflow()
    rows, columns = rows + view.origin[0], columns + view.origin[1]
    row_low, row_high, row_weight = _taps(rows, tf.shape(image)[0], view.scaled[0])
    column_low, column_high, column_weight = _taps(columns, tf.shape(image)[1], view.scaled[1])
    needed, row_index = tf.unique(tf.concat([row_low, row_high], 0))
    pixels = tf.gather(image, needed, axis=0)
    pixels = _mix(pixels, column_low, column_high, column_weight, axis=1)
    count = tf.shape(rows)[0]
    pixels = tf.floor(_mix(pixels, row_index[:count], row_index[count:], row_weight, axis=0) + 0.5)
    inside = ((rows >= 0) & (rows < view.scaled[0]))[:, None] & ((columns >= 0) & (columns < view.scaled[1]))[
        None, :
    ]
    return tf.where(inside[..., None], pixels, tf.cast(fill, tf.float32))


def _taps(index: Tensor, length: Tensor, new_length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two source positions of each new position and the weight of the second; clamped at the ends."""
    tf = tensorflow()
    scale = tf.cast(length, tf.float32) / tf.cast(new_length, tf.float32)
    position = (tf.cast(index, tf.float32) + 0.5) * scale - 0.5
    low = tf.floor(position)
    last = tf.cast(length, tf.int32) - 1
    first_tap = tf.clip_by_value(tf.cast(low, tf.int32), 0, last)
    second_tap = tf.clip_by_value(tf.cast(tf.math.ceil(position), tf.int32), 0, last)
    return first_tap, second_tap, position - low


def _mix(pixels: Tensor, low: Tensor, high: Tensor, weight: Tensor, axis: int) -> Tensor:
    """Linear interpolation between two gathers along an axis; f32."""
    tf = tensorflow()
    first = tf.cast(tf.gather(pixels, low, axis=axis), tf.float32)
    second = tf.cast(tf.gather(pixels, high, axis=axis), tf.float32)
    return first + (second - first) * tf.reshape(weight, [-1, 1, 1] if axis == 0 else [1, -1, 1])


def _to_u8(pixels: Tensor) -> Tensor:
    tf = tensorflow()
    return tf.cast(tf.clip_by_value(tf.floor(tf.cast(pixels, tf.float32) + 0.5), 0, 255), tf.uint8)
