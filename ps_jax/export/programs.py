"""A system's inference as StableHLO that plain JAX runs, with the weights as its first argument."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from input_pipeline.plan import padded
from input_pipeline.resampling import window_size
from ps_jax.errors import ConfigError
from ps_jax.evaluation.inference import MAX_BOX_CHUNK
from ps_jax.interface import Scenes
from ps_jax.training._leaves import unflatten_variables
from ps_jax.training.packages import named_leaves

PLATFORMS = ("cpu", "cuda")


def export_programs(
    system: Any,
    variables: Mapping[str, Any],
    resize: tuple[int, int],
    picture_sizes: Sequence[tuple[int, int]],
    raw: bool = False,
    least_score: float = 0.0,
) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Exports detection and embedding for pictures of some sizes.

    `detect(weights, image, size)` gives {"box", "score", "embedding", "valid"}. Valid are the detections that are
    searched; others of a score above 0 are only there so that a query can be chosen among them, see
    `Settings.system_threshold`. `embed(weights, image, size, boxes)`
    f32[1, 32, width]. `weights` is what `safetensors` reads, `image` u8[1, H, W, 3] RGB, the resized picture with zeros
    behind it, `size` i32[1, 2] its (height, width) after resizing, `boxes` f32[1, 32, 4] in its pixels. They run on
    PLATFORMS with the plain-XLA form of every operation.

    Args:
      system: with the options that it is used with.
      variables: its variables.
      resize: (short side, longest long side) of the window resize.
      picture_sizes: (height, width) of pictures; of those that are padded to one size one program is made.
      raw: the system takes the pictures before resizing, too.
      least_score: detections below it are not valid.

    Returns:
      File name -> serialised program, and what each of them takes, for the package's record.

    Raises:
      ConfigError: a size is not positive, or the system takes pictures before resizing, too.
    """
    if picture_sizes and raw:
        raise ConfigError(
            f"--picture_size: {system.name} cuts people out of the pictures before resizing, which a program does not "
            "take; leave it out, the package alone is whole"
        )
    weights = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in named_leaves(variables).items()
    }

    def detect(weights, image, size):
        found = system.detect(unflatten_variables(weights), Scenes(image, size))
        found = found._replace(valid=found.valid & (found.score >= np.float32(least_score)))
        return {name: _single(value) for name, value in found._asdict().items()}

    def embed(weights, image, size, boxes):
        return _single(system.embed(unflatten_variables(weights), Scenes(image, size), boxes))

    programs: dict[str, bytes] = {}
    takes = []
    for height, width in picture_sizes:
        if height < 1 or width < 1:
            raise ConfigError(f"--picture_size {height}x{width}: wanted are a height and a width in pixels")
        resized = window_size(height, width, resize)
        canvas = tuple(int(side) for side in padded(resized))
        name = f"{canvas[0]}x{canvas[1]}"
        if f"detect_{name}.stablehlo" in programs:
            continue
        image = jax.ShapeDtypeStruct((1, *canvas, 3), jnp.uint8)
        size = jax.ShapeDtypeStruct((1, 2), jnp.int32)
        boxes = jax.ShapeDtypeStruct((1, MAX_BOX_CHUNK, 4), jnp.float32)
        for function, inputs in ((detect, (image, size)), (embed, (image, size, boxes))):
            made = export.export(jax.jit(function), platforms=PLATFORMS)(weights, *inputs)
            programs[f"{function.__name__}_{name}.stablehlo"] = bytes(made.serialize())
        takes.append({"canvas": list(canvas), "picture": [height, width], "resized": resized.tolist()})
    return programs, takes


def _single(value: jax.Array) -> jax.Array:
    return value.astype(jnp.float32) if jnp.issubdtype(value.dtype, np.floating) else value
