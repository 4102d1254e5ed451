"""The types every system, the trainer, the evaluator and the input pipeline share.

Boxes are always `xyxy` in absolute pixels of the resized image, float32; sizes are (height, width);
images and features are channels-last. Shapes are static, padded entries carry a `valid` mask.
"""

from typing import Any, NamedTuple

ArrayLike = Any  # numpy on the host, JAX on the devices


class Scenes(NamedTuple):
    """A batch of scenes, padded right and bottom to one size.

    Attributes:
      image: u8[B, H, W, 3] RGB as the input pipeline makes it, or f32[B, H, W, 3] normalised with zeros
        in the padding as the modules take it (`ps_jax.systems.System` turns the first into the second).
      size: i32[B, 2], (height, width) of each scene before padding.
      raw: u8[B, H0, W0, 3], the scene before resizing, only for systems that crop the original picture.
      raw_size: i32[B, 2], (height, width) of `raw` before padding, only together with it.
    """

    image: ArrayLike
    size: ArrayLike
    raw: ArrayLike | None = None
    raw_size: ArrayLike | None = None


class People(NamedTuple):
    """The annotated people of a batch of scenes, N slots a scene.

    Attributes:
      box: f32[B, N, 4], zeros where not valid.
      identity: i32[B, N], 0 .. L-1 for the L known identities of the training set, -1 unknown.
      person: i32[B, N], equal exactly where two boxes show the same person: the identity where it is
        known, else a number >= L of that one annotation, the same in all views of its scene.
      valid: bool[B, N].
    """

    box: ArrayLike
    identity: ArrayLike
    person: ArrayLike
    valid: ArrayLike


class Batch(NamedTuple):
    """What the input pipeline yields and one step of training or evaluation takes.

    Attributes:
      scenes: B scenes.
      people: their people.
      index: i32[B], position of each scene in its split; -1 for a filler scene at the end of evaluation.
    """

    scenes: Scenes
    people: People
    index: ArrayLike  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


class Detections(NamedTuple):
    """What a system finds in a batch of scenes, K slots a scene, best score first.

    Attributes:
      box: f32[B, K, 4], zeros where not valid.
      score: f32[B, K] in 0 .. 1.
      embedding: f32[B, K, D] as the model makes it, before any scaling.
      valid: bool[B, K].
    """

    box: ArrayLike
    score: ArrayLike
    embedding: ArrayLike
    valid: ArrayLike
