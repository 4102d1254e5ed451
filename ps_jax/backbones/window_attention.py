"""Self-attention inside the windows of a feature map.

Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", and Liu et al. 2022,
"Swin Transformer V2: Scaling Up Capacity and Resolution"; numbers are torchvision's.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from ps_jax.layers import Linear, normal

_ZEROS = nn.initializers.zeros
_NORMAL = normal(0.02)  # PyTorch's truncation at 2, that is 100 standard deviations, cuts nothing
_INIT: dict[str, Any] = {"kernel_init": _NORMAL, "bias_init": _ZEROS}
_MASKED = -100.0  # added to the logits of pairs that must not see each other
_LARGEST_LOGIT_SCALE = math.log(100.0)
_POSITION_FEATURES = 512  # hidden layer of the position bias of version 2


def relative_position_index(window: int) -> Int[np.ndarray, "cell cell"]:
    """Row of the table of position biases for each pair of a window's cells (query, key).

    The table holds the vertical offsets 1 - window .. window - 1, and in each the horizontal ones.
    """
    row, column = np.divmod(np.arange(window * window), window)
    vertical = row[:, None] - row[None, :] + window - 1
    horizontal = column[:, None] - column[None, :] + window - 1
    return vertical * (2 * window - 1) + horizontal


def log_spaced_offsets(window: int) -> Float[np.ndarray, "offset 2"]:
    """The (vertical, horizontal) offsets of that table in the units of version 2, -1.06 .. 1.06.

    The largest offset counts as 8; of such x it takes sign(x) log2(1 + |x|) / 3 (Swin Transformer V2, equation 4,
    in torchvision's normalisation).
    """
    offset = 8 * np.arange(1 - window, window) / (window - 1)
    offset = np.sign(offset) * np.log2(1 + np.abs(offset)) / 3
    return np.stack(np.meshgrid(offset, offset, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


def wrapped_pairs(
    counts: tuple[int, int], window: int, shifts: tuple[int, int]
) -> Bool[Array, "rows columns cell cell"]:
    """Pairs of cells that share a window only because the shifted map is wrapped around.

    Args:
      counts: rows and columns of windows.
      window: side of a window, in cells.
      shifts: how far the map was moved up and left; 0 wraps nothing.

    Returns:
      For every window, true where the cells come from opposite borders of the map.
    """
    position = np.divmod(np.arange(window * window), window)
    apart = []
    for axis in (0, 1):
        wrapped = position[axis] >= window - shifts[axis]
        last = np.arange(counts[axis]) == counts[axis] - 1
        # Combined on the device: as one constant it would take megabytes of the program for large maps.
        apart.append(jnp.asarray(last)[:, None, None] & jnp.asarray(wrapped[:, None] != wrapped[None, :]))
    return apart[0][:, None] | apart[1][None, :]


class WindowAttention(nn.Module):
    """Multi-head self-attention in square windows that may be shifted, with a bias by relative position.

    The map is padded with zeros, at the bottom and on the right, to whole windows; padded cells are seen like
    others. A shifted map is wrapped around, and cells from opposite borders do not see each other.

    Attributes:
      heads: how many heads share the channels.
      window: side of a window, in cells.
      shift: how far the windows are shifted down and right, in cells.
      version: 1, scaled dot products and a learned table of biases; 2, cosines with a learned temperature for
        each head, no bias on the keys, and biases from a small network on the offsets.
      shift_single_window: shift also along an axis that one window covers, as SOLIDER does and torchvision does
        not.
      dtype: type of the computation; None takes the input's. Logits and softmax are float32.
    """

    heads: int
    window: int
    shift: int = 0
    version: int = 1
    shift_single_window: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch height width channel"]:
        """Attends; the result has the shape of `x`."""
        _, height, width, channels = x.shape
        window, dtype = self.window, self.dtype or x.dtype
        counts = (-(-height // window), -(-width // window))
        below, beside = counts[0] * window - height, counts[1] * window - width
        down, right = (self.shift if count > 1 or self.shift_single_window else 0 for count in counts)

        x = jnp.pad(x, ((0, 0), (0, below), (0, beside), (0, 0)))
        x = jnp.roll(x, (-down, -right), axis=(1, 2))
        x = rearrange(x, "b (r i) (c j) d -> (b r c) (i j) d", i=window, j=window)
        query, key, value = rearrange(self._project(x), "w n (k h d) -> k w h n d", k=3, h=self.heads)

        logits = self._logits(query, key) + self._position_bias()
        if down or right:
            logits = logits.reshape(-1, *counts, *logits.shape[1:])
            wrapped = wrapped_pairs(counts, window, (down, right))[:, :, None]
            logits = jnp.where(wrapped, logits + _MASKED, logits)
            logits = logits.reshape(-1, *logits.shape[3:])
        x = jax.nn.softmax(logits, axis=-1).astype(dtype) @ value
        x = rearrange(x, "w h n d -> w n (h d)")
        x = Linear(channels, dtype=dtype, name="project", **_INIT)(x)

        x = rearrange(x, "(b r c) (i j) d -> b (r i) (c j) d", r=counts[0], c=counts[1], i=window, j=window)
        return jnp.roll(x, (down, right), axis=(1, 2))[:, :height, :width]

    def _project(self, x: Float[Array, "window cell channel"]) -> Float[Array, "window cell _"]:
        """Queries, keys and values of all heads, side by side."""
        channels = x.shape[-1]
        bias = self.param("qkv_bias", _ZEROS, (3 * channels,), jnp.float32)
        if self.version == 2:  # torchvision has a bias of the keys in its files but never adds it
            bias = bias * np.repeat(np.array([1.0, 0.0, 1.0], np.float32), channels)
        x = Linear(3 * channels, use_bias=False, dtype=self.dtype, name="qkv", **_INIT)(x)
        return x + bias.astype(x.dtype)

    def _logits(
        self, query: Float[Array, "window head cell depth"], key: Float[Array, "window head cell depth"]
    ) -> Float[Array, "window head cell cell"]:
        """How much each cell wants to see each other, before the position bias; float32."""
        if self.version == 1:
            query = query * query.shape[-1] ** -0.5
            return jnp.einsum("whqd,whkd->whqk", query, key, preferred_element_type=jnp.float32)
        scale = self.param(
            "logit_scale", nn.initializers.constant(math.log(10.0)), (self.heads,), jnp.float32
        )
        scale = jnp.exp(jnp.minimum(scale, _LARGEST_LOGIT_SCALE))
        cosine = jnp.einsum("whqd,whkd->whqk", _unit(query), _unit(key), preferred_element_type=jnp.float32)
        return cosine * scale[:, None, None]

    def _position_bias(self) -> Float[Array, "head cell cell"]:
        """The bias of each pair of cells by their offset, float32."""
        offsets = (2 * self.window - 1) ** 2
        if self.version == 1:
            table = self.param("relative_position_bias", _NORMAL, (offsets, self.heads), jnp.float32)
        else:
            table = jnp.asarray(log_spaced_offsets(self.window))
            table = Linear(_POSITION_FEATURES, name="position_expand", **_INIT)(table)
            table = jax.nn.relu(table)
            table = Linear(self.heads, use_bias=False, name="position_project", **_INIT)(table)
            table = 16.0 * jax.nn.sigmoid(table)
        return jnp.moveaxis(table[relative_position_index(self.window)], -1, 0)


def _unit(x: Float[Array, "*rows depth"]) -> Float[Array, "*rows depth"]:
    """Rows of unit length, or shorter than 1e-12 to begin with, as `torch.nn.functional.normalize`.

    Padded cells are zero in version 2; the root of their length is not taken, for its gradient is infinite.
    """
    squared = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return (x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))).astype(x.dtype)
