"""What is pooled for the proposals of a scene: RoIAlign, plain or with bins that move (dynamic RoIAlign of LEAPS)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.roi_align import roi_align

SAMPLING_RATIO = 2  # samples per bin and direction


def pool_cells(
    features: Float[Array, "batch height width channel"],
    box: Float[Array, "batch proposal 4"],
    stride: int,
    side: int,
    offsets: Float[Array, "batch proposal {side} {side} 2"] | None = None,
) -> Float[Array, "batch proposal {side}*{side} channel"]:
    """The cells of every box, row by row, from the map of its own scene.

    Args:
      features: one map for each scene.
      box: f32, `xyxy` in pixels; no gradient goes to them.
      stride: pixels between cells of the map.
      side: bins along each side of a box.
      offsets: pixels (down, right) that each bin is moved by, see `bin_offsets`; None: 0.
    """
    batch, count = box.shape[:2]
    pooled = roi_align(
        features,
        box.reshape(-1, 4),
        jnp.repeat(jnp.arange(batch), count),
        output_size=(side, side),
        spatial_scale=1.0 / stride,
        sampling_ratio=SAMPLING_RATIO,
        aligned=True,
        offsets=None if offsets is None else offsets.reshape(-1, side, side, 2),
    )
    return pooled.reshape(batch, count, side * side, -1)


def bin_offsets(
    predicted: Float[Array, "batch proposal 2*{side}*{side}"],
    box: Float[Array, "batch proposal 4"],
    side: int,
    scale: float,
) -> Float[Array, "batch proposal {side} {side} 2"]:
    """Offsets of bins in pixels from those predicted in units of the box's size (Dai et al. 2017, section 2.2).

    Args:
      predicted: the horizontal offsets of all bins, row by row, then the vertical ones.
      box: f32, `xyxy` in pixels; no gradient goes to them.
      side: bins along each side of a box.
      scale: gamma, what an offset of 1 is of the box's side.

    Returns:
      Pixels (down, right).
    """
    size = jax.lax.stop_gradient(box[..., 2:] - box[..., :2])
    planes = predicted.astype(jnp.float32).reshape(*box.shape[:2], 2, side, side)
    planes = scale * size[..., None, None] * planes
    return jnp.stack([planes[:, :, 1], planes[:, :, 0]], axis=-1)
