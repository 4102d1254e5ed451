"""Batches of crops of known people, for the training of a re-identification network.

Crops are cut as `kernels.roi_transform` cuts them, rounded to 8 bit: one bilinear sample at the centre of each pixel,
without a low-pass filter, and the mean colour outside of the picture. So a network is trained on what it will be given.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from input_pipeline.batches import SceneReader
from input_pipeline.crop_plan import CropPlan, CropSamples, crop_steps_per_epoch, known_people
from input_pipeline.lazy_tensorflow import tensorflow
from input_pipeline.plan import host_rows
from input_pipeline.resampling import Tensor
from input_pipeline.scenes import Split
from input_pipeline.transforms import IMAGE_MEAN
from ps_jax.errors import ConfigError
from ps_jax.interface import Batch, People, Scenes

MEAN_COLOR = np.round(255 * np.array(IMAGE_MEAN)).astype(np.uint8)
ERASED_AREA = (0.02, 0.4)  # shares of the crop
ERASED_ASPECT = (0.3, 1 / 0.3)  # height over width
ATTEMPTS = 20  # to find a rectangle to erase that fits


def crop_batches(
    split: Split,
    phase: Any,
    *,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """The endless stream of a phase's batches of crops, or one host's share of it.

    Args:
      split: training records.
      phase: configuration with `crop` (height, width), `batch_size`, `images_per_person`, `crop_padding` (pixels that a
        crop may be moved by) and `erasing` (probability that a rectangle is erased).
      seed: seed of the run.
      start_step: the step of the first batch.
      process_index, process_count: this host and the number of hosts.

    Returns:
      An iterator of host batches: `scenes.image` u8[rows, height, width, 3] are the crops, `people` has one slot.

    Raises:
      ConfigError: values of the phase contradict each other.
      DataError: too few people are known, or (from the iterator) a picture cannot be read.
    """
    share = host_rows(phase, start_step, process_index, process_count)
    crop_steps_per_epoch(split, phase)  # checks batch_size and images_per_person
    size = tuple(phase.crop)
    if len(size) != 2 or min(size) < 1:
        raise ConfigError(f"crop is {size}; wanted is (height, width) in pixels")
    plan = CropPlan(*known_people(split), phase.batch_size, phase.images_per_person, (seed,))
    tf = tensorflow()
    reader = SceneReader(split)
    boxes, identities = (tf.constant(column) for column in reader.annotations[:2])

    def samples(step: np.ndarray) -> CropSamples:
        return CropSamples(*(column[share] for column in plan.samples(int(step))))

    @tf.autograph.experimental.do_not_convert
    def load_samples(step: Tensor) -> CropSamples:
        position, person, seeds = tf.numpy_function(samples, [step], (tf.int32, tf.int32, tf.int64))
        rows = len(share)
        return CropSamples(
            tf.ensure_shape(position, [rows]),
            tf.ensure_shape(person, [rows]),
            tf.ensure_shape(seeds, [rows, 2]),
        )

    def make(sample: CropSamples) -> tuple[Batch, Tensor]:
        picture, _, failure = reader(sample.position)
        crop = cut(picture, boxes[sample.person], size)
        crop = augment(crop, phase.crop_padding, phase.erasing, sample.seed)
        identity = identities[sample.person][None]
        whole = tf.constant([[0.0, 0.0, size[1], size[0]]])
        people = People(whole, identity, identity, tf.ones([1], tf.bool))
        return Batch(Scenes(crop, tf.constant(size)), people, sample.position), failure

    stream = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max).map(load_samples).unbatch()
    return reader.batches(stream, make, len(share))


def cut(picture: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """u8[height, width, 3], a box of a picture resized to `size`, as `kernels.roi_transform` does it.

    Args:
      picture: u8[h, w, 3].
      box: f32[4], xyxy in its pixels.
      size: (height, width).
    """
    tf = tensorflow()
    mean = tf.cast(MEAN_COLOR, tf.float32)
    # A rim of the mean colour: each of the four neighbours of a sample counts on its own.
    rim = tf.pad(tf.cast(picture, tf.float32) - mean, [[1, 1], [1, 1], [0, 0]])
    last = tf.cast(tf.shape(rim)[:2] - 1, tf.float32)
    low, high = box[1::-1], box[:1:-1]
    half = 0.5 * (high - low) / tf.constant(size, tf.float32)
    # Centres of the first and the last sample, in the rim's pixels, whose index 0 is half a pixel in
    first, final = low + half + 0.5, high - half + 0.5
    window = tf.concat([first / last, final / last], axis=0)[None]
    sampled = tf.image.crop_and_resize(rim[None], window, [0], size)[0]
    return tf.cast(tf.clip_by_value(tf.round(sampled + mean), 0, 255), tf.uint8)


def augment(crop: Tensor, padding: int, erasing: float, seed: Tensor) -> Tensor:
    """Mirrors a crop half of the time, moves it by up to `padding` pixels, and erases a rectangle now and then.

    Random erasing: Zhong et al., "Random Erasing Data Augmentation", 2017. What is moved in and what is erased has the
    mean colour.

    Args:
      crop: u8[height, width, 3].
      padding: pixels.
      erasing: probability.
      seed: i64[2].
    """
    tf = tensorflow()
    height, width, _ = crop.shape
    draw = tf.random.stateless_uniform([4 + 4 * ATTEMPTS], seed, alg="philox")
    crop = tf.cond(draw[0] < 0.5, lambda: tf.reverse(crop, [1]), lambda: crop)
    shift = tf.cast(draw[1:3] * (2 * padding + 1), tf.int32)
    shift = tf.minimum(shift, 2 * padding)
    bare = tf.cast(crop, tf.int32) - tf.cast(MEAN_COLOR, tf.int32)
    bare = tf.pad(bare, [[padding, padding], [padding, padding], [0, 0]])
    bare = tf.slice(bare, [shift[0], shift[1], 0], [height, width, 3])

    attempts = tf.reshape(draw[4:], [ATTEMPTS, 4])
    area = (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * attempts[:, 0]) * (height * width)
    aspect = ERASED_ASPECT[0] + (ERASED_ASPECT[1] - ERASED_ASPECT[0]) * attempts[:, 1]
    tall = tf.cast(tf.round(tf.sqrt(area * aspect)), tf.int32)
    wide = tf.cast(tf.round(tf.sqrt(area / aspect)), tf.int32)
    fits = (tall < height) & (wide < width)
    first = tf.argmax(tf.cast(fits, tf.int32))
    tall, wide = tall[first], wide[first]
    top = tf.cast(attempts[first, 2] * tf.cast(height - tall + 1, tf.float32), tf.int32)
    left = tf.cast(attempts[first, 3] * tf.cast(width - wide + 1, tf.float32), tf.int32)
    rows, columns = tf.range(height)[:, None], tf.range(width)[None]
    erased = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
    erased &= (draw[3] < erasing) & tf.reduce_any(fits)
    bare = tf.where(erased[..., None], 0, bare)
    return tf.ensure_shape(tf.cast(bare + tf.cast(MEAN_COLOR, tf.int32), tf.uint8), [height, width, 3])
