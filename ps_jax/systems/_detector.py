"""What RDLR knows of a detector: the boxes it is trained on, and those that it finds."""

from typing import NamedTuple

from ps_jax.interface import ArrayLike


class Candidates(NamedTuple):
    """Boxes that a detector predicts in training and that stand for people.

    Attributes:
      box: f32[scene, candidate, 4] in pixels of the resized scene and within it; gradients pass to the predictions
        of the detector, but not to the proposals or anchors that they start from.
      score: f32[scene, candidate] in 0 .. 1.
      person: i32[scene, candidate], number of the person in the scene.
      valid: bool[scene, candidate].
    """

    box: ArrayLike
    score: ArrayLike
    person: ArrayLike
    valid: ArrayLike


class Found(NamedTuple):
    """The people that a detector finds, best score first.

    Attributes:
      box: f32[scene, found, 4] in pixels of the resized scene; gradients pass as in `Candidates`.
      score: f32[scene, found] in 0 .. 1.
      valid: bool[scene, found].
    """

    box: ArrayLike
    score: ArrayLike
    valid: ArrayLike
