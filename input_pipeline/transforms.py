"""Augmentation of training scenes: which part of a scene a sample shows, and where its boxes come to lie.

The chains are those of SPNet (https://arxiv.org/abs/2412.05433, released code):

* `window`: window resize, to one of several scales where there are `scales`, flip. For training on whole scenes.
* `rrc2`: window resize, pad to three times the crop, focused or safe crop, flip. For fine-tuning.
* `rrc_scale`: random scale, pad to four times the crop, the same crops, flip. For pre-training.

Every random choice is a function of one seed pair, so a sample can be made again at any time on any machine.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from input_pipeline.lazy_tensorflow import tensorflow
from input_pipeline.resampling import Tensor, View, render, resize_picture
from ps_jax.errors import ConfigError

AUGMENTATIONS = ("rrc2", "rrc_scale", "window")
PADDINGS = ("mean", "minimum")
IMAGE_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in 0 .. 1
IMAGE_DEVIATION = (0.229, 0.224, 0.225)
VISIBLE = 0.4  # a box stays if at least this share of its area does
EROSION = 0.1  # the safe crop may cut off this share of a box on each side
CANVAS = {"rrc2": 3, "rrc_scale": 4}  # the scene is padded to at least this many crops


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training scene; the fields of a phase's configuration.

    Attributes:
      name: one of `AUGMENTATIONS`.
      crop: (height, width) of the result; not used by "window".
      scales: (short side, longest long side) of window resizes, one of which is drawn for each batch; () is the run's
        own resize. Not for rrc_scale.
      scale_range: least and greatest factor of rrc_scale's random scale. The released code means (0.5, 2)
        and the paper says so, but the library it calls adds 1 to both.
      pad: colour around the scene; "mean" is ImageNet's mean colour, "minimum" the darkest normalised value
        of the picture itself, which is what the released code's rounding comes to.
      photometric: brightness, contrast and saturation each change by a factor uniform in
        1 - photometric .. 1 + photometric; 0 leaves the colours alone.
    """

    name: str
    crop: tuple[int, int]
    scale_range: tuple[float, float] = (1.5, 3.0)
    pad: str = "mean"
    photometric: float = 0.0
    scales: tuple[tuple[int, int], ...] = ()

    @classmethod
    def from_phase(cls, phase: Any) -> "Augmentation":
        """Reads `augmentation`, `crop` and the optional fields of a phase; raises ConfigError."""
        crop = phase.get("crop", 0) or 0
        crop = (crop, crop) if isinstance(crop, int) else tuple(crop)
        augmentation = cls(
            phase.augmentation,
            crop,
            tuple(phase.get("scale_range", cls.scale_range)),
            phase.get("pad", cls.pad),
            float(phase.get("photometric", cls.photometric)),
            tuple(tuple(scale) for scale in phase.get("scales", cls.scales)),
        )
        augmentation._check()
        return augmentation

    def _check(self) -> None:
        if self.name not in AUGMENTATIONS:
            raise ConfigError(f"augmentation is {self.name!r}; known are {', '.join(AUGMENTATIONS)}")
        if self.pad not in PADDINGS:
            raise ConfigError(f"pad is {self.pad!r}; known are {', '.join(PADDINGS)}")
        if self.name != "window" and (len(self.crop) != 2 or min(self.crop) < 1):
            raise ConfigError(f"crop is {self.crop}; {self.name} wants a side or (height, width) in pixels")
        if len(self.scale_range) != 2 or not 0 < self.scale_range[0] <= self.scale_range[1]:
            raise ConfigError(f"scale_range is {self.scale_range}; wanted are two factors above 0, ascending")
        if self.scales and self.name == "rrc_scale":
            raise ConfigError(
                f"scales are {self.scales}, but rrc_scale draws from scale_range; leave them out"
            )
        for scale in self.scales:
            if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
                raise ConfigError(
                    f"scales has {scale}; wanted are pairs (short side, longest long side) in pixels"
                )
        if not 0 <= self.photometric < 1:
            raise ConfigError(f"photometric is {self.photometric}; wanted is a number in 0 .. 1, 1 left out")

    def __call__(
        self, image: Tensor, box: Tensor, identified: Tensor, size: Tensor, seed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Augments one scene.

        Args:
          image: u8[height, width, 3] RGB.
          box: f32[people, 4] in pixels of `image`.
          identified: bool[people], whether the person is a known identity.
          size: i32[2], (height, width) the window resize gives this scene.
          seed: i64[2].

        Returns:
          u8[new height, new width, 3]; f32[people, 4] boxes clipped to it; bool[people], which of them are
          still visible.
        """
        tf = tensorflow()
        with tf.name_scope(self.name):
            # One draw for all: choice k always takes number k, whatever the other choices were.
            draw = _draw(seed)
            picture_size = tf.shape(image)[:2]
            box = clip_boxes(tf.cast(box, tf.float32), picture_size)
            if self.name == "window":
                view = View(size, tf.zeros([2], tf.int32), size, draw[8] < 0.5)
                box, visible = move_boxes(box, picture_size, view, size)
                whole = resize_picture(image, size)
                image = tf.cond(view.flip, lambda: tf.reverse(whole, [1]), lambda: whole)
            else:
                if self.name == "rrc_scale":
                    low, high = self.scale_range
                    size = tf.cast(
                        tf.cast(picture_size, tf.float32) * (low + (high - low) * draw[0]), tf.int32
                    )
                    size = tf.maximum(size, 1)
                view = self._crop_view(box, identified, picture_size, size, draw)
                image = render(image, view, self.crop, self._fill(image))
                box, visible = move_boxes(box, picture_size, view, tf.constant(self.crop))
            if self.photometric:
                image = jitter(image, 1 + self.photometric * (2 * draw[9:12] - 1))
            return image, box, visible

    def is_flipped(self, seed: Tensor) -> Tensor:
        """Whether `__call__` mirrors the scene with this seed."""
        return _draw(seed)[8] < 0.5

    def _crop_view(
        self, box: Tensor, identified: Tensor, picture_size: Tensor, size: Tensor, draw: Tensor
    ) -> View:
        """The focused or the safe crop, with equal probability, of the scene resized to `size` and padded."""
        tf = tensorflow()
        least = CANVAS[self.name] * np.array(self.crop, np.int32)
        canvas = tf.maximum(size, least)
        before = (canvas - size) // 2
        ratio = tf.cast(size, tf.float32) / tf.cast(picture_size, tf.float32)
        shift = tf.cast(before, tf.float32)
        box = box * tf.tile(ratio[::-1], [2]) + tf.tile(shift[::-1], [2])
        there = tf.reduce_all(box[:, 2:] > box[:, :2], axis=1)
        box, identified = tf.boolean_mask(box, there), tf.boolean_mask(identified, there)
        origin, window = tf.cond(
            draw[1] < 0.5,
            lambda: focused_crop(box, identified, canvas, self.crop, draw[2:5]),
            lambda: safe_crop(box, canvas, draw[4:8]),
        )
        return View(size, origin - before, window, draw[8] < 0.5)

    def _fill(self, image: Tensor) -> Tensor:
        tf = tensorflow()
        mean, deviation = 255 * np.array([IMAGE_MEAN, IMAGE_DEVIATION], np.float32)
        if self.pad == "mean":
            return tf.constant(np.round(mean).astype(np.uint8))
        darkest = tf.reduce_min((tf.cast(tf.reduce_min(image, axis=[0, 1]), tf.float32) - mean) / deviation)
        return tf.cast(tf.clip_by_value(tf.round(darkest * deviation + mean), 0, 255), tf.uint8)


def focused_crop(
    box: Tensor, identified: Tensor, canvas: Tensor, crop: tuple[int, int], draw: Tensor
) -> tuple[Tensor, Tensor]:
    """A window of the crop's size around one person.

    The person is one of the identified, if there are any, else any; the window lies anywhere where it
    contains the whole box, and grows in the crop's aspect ratio if the box is larger than the crop. Without
    people it lies anywhere.

    Args:
      box: f32[people, 4] in pixels of the padded scene, none empty.
      identified: bool[people].
      canvas: i32[2], (height, width) of the padded scene.
      crop: (height, width) of the crop.
      draw: f32[3] uniform in 0 .. 1: which person, where vertically, where horizontally.

    Returns:
      i32[2] (y, x) of the window's upper left corner, i32[2] its (height, width).
    """
    tf = tensorflow()
    crop = tf.constant(crop, tf.int32)

    def around_a_person() -> tuple[Tensor, Tensor]:
        chosen = tf.cond(tf.reduce_any(identified), lambda: identified, lambda: tf.ones_like(identified))
        people = tf.boolean_mask(box, chosen)
        person = people[_pick(draw[0], tf.shape(people)[0])]
        low = tf.cast(tf.floor(person[1::-1]), tf.int32)
        high = tf.cast(tf.math.ceil(person[:1:-1]), tf.int32)
        growth = tf.reduce_max(tf.cast(high - low, tf.float64) / tf.cast(crop, tf.float64))
        window = tf.where(
            growth > 1, tf.cast(tf.math.ceil(tf.cast(crop, tf.float64) * growth), tf.int32), crop
        )
        return window, tf.stack([high - window, low])

    def anywhere() -> tuple[Tensor, Tensor]:
        return crop, tf.stack([tf.zeros([2], tf.int32), canvas - crop])

    window, bounds = tf.cond(tf.shape(box)[0] > 0, around_a_person, anywhere)
    # Inside the canvas; a window larger than the canvas contains it, so its bounds change places.
    inside = tf.stack([tf.minimum(0, canvas - window), tf.maximum(0, canvas - window)])
    first, last = tf.maximum(bounds[0], inside[0]), tf.minimum(bounds[1], inside[1])
    return first + _pick(draw[1:], last - first + 1), window


def safe_crop(box: Tensor, canvas: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
    """A window of random height and width around all people, each of them eroded by 10 % on every side.

    As albumentations' RandomSizedBBoxSafeCrop 1.3.1. Resized to the crop it loses its aspect ratio. Without
    people the window has the canvas' aspect ratio and 90 to 100 % of its height.

    Args:
      box: f32[people, 4] in pixels of the padded scene, none empty.
      canvas: i32[2], (height, width) of the padded scene.
      draw: f32[4] uniform in 0 .. 1.

    Returns:
      i32[2] (y, x) of the window's upper left corner, i32[2] its (height, width).
    """
    tf = tensorflow()
    extent = tf.cast(canvas, tf.float32)

    def around_everybody() -> tuple[Tensor, Tensor]:
        eroded = box + EROSION * tf.tile(box[:, 2:] - box[:, :2], [1, 2]) * tf.constant(
            [1.0, 1.0, -1.0, -1.0]
        )
        low = tf.reduce_min(eroded[:, 1::-1], axis=0) / extent
        high = tf.reduce_max(eroded[:, :1:-1], axis=0) / extent
        low, high = low * draw[:2], high + (1 - high) * draw[2:]
        share = high - low
        return share, tf.where(share < 1, low / tf.maximum(1 - share, 1e-6), 0)

    def nearly_all() -> tuple[Tensor, Tensor]:
        return tf.fill([2], 1 - EROSION * draw[2]), draw[:2]

    share, place = tf.cond(tf.shape(box)[0] > 0, around_everybody, nearly_all)
    window = tf.clip_by_value(tf.cast(extent * share, tf.int32), 1, canvas)
    slack = tf.cast(canvas - window, tf.float32)
    return tf.cast(slack * tf.clip_by_value(place, 0.0, 1.0), tf.int32), window


def clip_boxes(box: Tensor, size: Tensor) -> Tensor:
    """f32[people, 4] boxes, corners outside a picture of `size` (height, width) moved to its border."""
    tf = tensorflow()
    return tf.clip_by_value(box, 0.0, tf.tile(tf.cast(size[::-1], tf.float32), [2]))


def move_boxes(box: Tensor, picture_size: Tensor, view: View, crop: Tensor) -> tuple[Tensor, Tensor]:
    """Where boxes of the original picture lie in the view of it.

    Args:
      box: f32[people, 4] in pixels of the original picture.
      picture_size: i32[2], its (height, width).
      view: what is shown.
      crop: i32[2], (height, width) of the result.

    Returns:
      f32[people, 4] clipped boxes; bool[people], whether at least 40 % of the box, and anything at all, is
      left.
    """
    tf = tensorflow()

    def xyxy(size: Tensor) -> Tensor:
        return tf.tile(tf.cast(size[::-1], tf.float32), [2])

    box = box * (xyxy(view.scaled) / xyxy(picture_size)) - xyxy(view.origin)
    box = box * (xyxy(crop) / xyxy(view.window))
    width = tf.cast(crop[1], tf.float32)
    mirrored = tf.stack([width - box[:, 2], box[:, 1], width - box[:, 0], box[:, 3]], axis=1)
    box = tf.where(view.flip, mirrored, box)
    clipped = clip_boxes(box, crop)
    area = tf.reduce_prod(tf.maximum(box[:, 2:] - box[:, :2], 0.0), axis=1)
    left = tf.reduce_prod(tf.maximum(clipped[:, 2:] - clipped[:, :2], 0.0), axis=1)
    return clipped, (left > 0) & (left >= VISIBLE * area)


def jitter(image: Tensor, factors: Tensor) -> Tensor:
    """Multiplies brightness, contrast (about the mean grey) and saturation (about the pixel's grey).

    Args:
      image: u8[height, width, 3].
      factors: f32[3], brightness, contrast, saturation; 1 changes nothing.

    Returns:
      u8[height, width, 3].
    """
    tf = tensorflow()
    pixels = tf.clip_by_value(tf.cast(image, tf.float32) * factors[0], 0, 255)
    mean = tf.reduce_mean(tf.image.rgb_to_grayscale(pixels))
    pixels = tf.clip_by_value(mean + (pixels - mean) * factors[1], 0, 255)
    grey = tf.image.rgb_to_grayscale(pixels)
    pixels = tf.clip_by_value(grey + (pixels - grey) * factors[2], 0, 255)
    return tf.cast(tf.round(pixels), tf.uint8)


def _draw(seed: Tensor) -> Tensor:
    """f32[12] uniform in 0 .. 1."""
    return tensorflow().random.stateless_uniform([12], seed, alg="philox")


def _pick(draw: Tensor, count: Tensor) -> Tensor:
    """A whole number in 0 .. count - 1 from a number uniform in 0 .. 1."""
    tf = tensorflow()
    return tf.minimum(tf.cast(draw * tf.cast(count, tf.float32), tf.int32), count - 1)
