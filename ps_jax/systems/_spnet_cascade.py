"""SPNet's cascade in training: what a stage predicts, the next one embeds and predicts from again (section 3.1).

Both paths hold their boxes in rows: a row is a scene (object-centric), or a pair of a query and a scene
(query-centric).
"""

from typing import TYPE_CHECKING, NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int

from ps_jax.boxes import clip_boxes, decode
from ps_jax.heads import offset_norm
from ps_jax.systems._spnet_losses import box_loss, sample_loss

if TYPE_CHECKING:
    from ps_jax.systems.spnet import SPNet


class Samples(NamedTuple):
    """Boxes that a stage works on.

    Attributes:
      box: anchors, or boxes that the stage before predicted.
      matched: the person that each stands for, `BACKGROUND` or `IGNORED`.
      target: number of that person (object-centric: in the row's scene, query-centric: over all slots of all
        scenes); where several could be meant, background has the first one.
      target_box: that person's box.
      valid: boxes that exist.
    """

    box: Float[Array, "row box 4"]
    matched: Int[Array, "row box"]
    target: Int[Array, "row box"]
    target_box: Float[Array, "row box 4"]
    valid: Bool[Array, "row box"]


class Stage(NamedTuple):
    """What a stage makes of its samples.

    Attributes:
      samples: what it works on.
      deltas: from their boxes to the predicted ones.
      logits: of being the person searched for, or anybody.
    """

    samples: Samples
    deltas: Float[Array, "row box 4"]
    logits: Float[Array, "row box"]


def predicted_boxes(stage: Stage, size: Int[Array, "row 2"]) -> Float[Array, "row box 4"]:
    """The boxes that a stage predicts, clipped to `size` = (height, width); gradients end here."""
    return jax.lax.stop_gradient(clip_boxes(decode(stage.deltas, stage.samples.box), size))


def run_step(
    model: "SPNet",
    step: int,
    pyramid: dict[str, Array],
    samples: Samples,
    scene: Int[Array, " row"] | None = None,
    query: Float[Array, "row 1 dimension"] | None = None,
) -> Stage:
    """Embeds the boxes anew and predicts from them.

    Args:
      model: the bound module.
      step: number of the cascade step, 1 .. T.
      pyramid: feature pyramid of the scenes.
      samples: what the step works on.
      scene: the scene of each row; None: the row's own number.
      query: query of each row; None on the object-centric path.
    """
    embedding = model.embed_locations(step, pyramid, samples.box, samples.valid, train=True, scene=scene)
    offsets = model.offsets(step, embedding, query)
    logits = model.logits(step, offset_norm(offsets), samples.valid, train=True)
    return Stage(samples, model.regression_head[step](offsets), logits)


def stage_losses(model: "SPNet", number: int, stage: Stage) -> dict[str, Float[Array, ""]]:
    """Losses of stage `number` = 0 .. T.

    Returns:
      "bbox_regression{n}", n = number + 1, and for the cascade's steps "classification{n}" (for anchors, too, with
      `first_stage_classification`).
    """
    samples = stage.samples
    positive = (samples.matched >= 0) & samples.valid
    terms = {
        f"bbox_regression{number + 1}": box_loss(
            model, stage.deltas, samples.box, samples.target_box, positive
        )
    }
    if number or model.first_stage_classification:
        terms[f"classification{number + 1}"] = sample_loss(
            model, stage.logits, samples.matched, samples.valid
        )
    return terms
