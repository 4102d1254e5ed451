"""Locations of feature maps as training targets, in place of anchors (Tian et al., FCOS, 2019)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ps_jax.boxes.matching import BACKGROUND
from ps_jax.boxes.overlap import area


def level_locations(feature_size: tuple[int, int], stride: int) -> Float[Array, "location 2"]:
    """The (x, y) pixel in the middle of each cell of a map, row by row."""
    y, x = (np.arange(length, dtype=np.float32) * stride + stride // 2 for length in feature_size)
    grid_x, grid_y = np.meshgrid(x, y)
    return jnp.asarray(np.stack([grid_x.ravel(), grid_y.ravel()], axis=-1))


def distances_to_sides(
    location: Float[Array, "*#batch 2"], box: Float[Array, "*#batch 4"]
) -> Float[Array, "*batch 4"]:
    """From locations to the left, top, right and bottom side of boxes, in pixels; negative outside."""
    return jnp.concatenate([location - box[..., :2], box[..., 2:] - location], axis=-1)


def boxes_around(
    location: Float[Array, "*#batch 2"], distances: Float[Array, "*#batch 4"]
) -> Float[Array, "*batch 4"]:
    """The boxes whose sides are that far from locations, the inverse of `distances_to_sides`."""
    return jnp.concatenate([location - distances[..., :2], location + distances[..., 2:]], axis=-1)


def centerness(distances: Float[Array, "*batch 4"]) -> Float[Array, "*batch"]:
    """How much a location is the middle of its box: sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), in 0 .. 1."""
    one, other = distances[..., :2], distances[..., 2:]
    larger = jnp.maximum(one, other)
    ratio = jnp.minimum(one, other) / jnp.where(larger > 0, larger, 1.0)
    return jnp.sqrt(jnp.maximum(jnp.prod(ratio, axis=-1), 0.0))


def assign_locations(
    location: Float[Array, "location 2"],
    radius: float,
    size_range: tuple[float, float],
    box: Float[Array, "box 4"],
    valid: Bool[Array, " box"],
) -> Int[Array, " location"]:
    """Which box each location of a level is trained to find, with centre sampling.

    A location stands for a box if it lies inside it, and less than `radius` from its centre in both directions; of
    several boxes for the smallest, of equal ones for the first.

    Args:
      location: (x, y) in pixels.
      radius: in pixels, of the square around the centre.
      size_range: least and greatest distance, in pixels, of the side that is furthest away.
      box, valid: the annotated boxes, and which of the slots are filled.

    Returns:
      The box's number, or `BACKGROUND`.
    """
    distances = distances_to_sides(location[:, None], box)
    centre = (box[:, :2] + box[:, 2:]) / 2
    sampled = jnp.concatenate(
        [jnp.maximum(centre - radius, box[:, :2]), jnp.minimum(centre + radius, box[:, 2:])], axis=-1
    )
    inside = jnp.min(distances_to_sides(location[:, None], sampled), axis=-1) > 0
    furthest = jnp.max(distances, axis=-1)
    inside &= (furthest >= size_range[0]) & (furthest <= size_range[1]) & valid
    size = jnp.where(inside, area(box), jnp.inf)
    return jnp.where(jnp.any(inside, axis=1), jnp.argmin(size, axis=1), BACKGROUND).astype(jnp.int32)
