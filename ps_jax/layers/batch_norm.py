"""Batch normalisation with PyTorch's conventions."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import Initializer
from jaxtyping import Array, Bool, Float


def statistics_per_device() -> contextlib.AbstractContextManager:
    """While active, every BatchNorm that is called normalises with the statistics of its own device's rows.

    So it is the trainer, not each trunk, head and system, that chooses whether training synchronises them. The
    running statistics of the devices then differ until somebody averages them.
    """

    def interceptor(call, args, kwargs, context):
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            kwargs = {**kwargs, "synchronised": False}
        return call(*args, **kwargs)

    return nn.intercept_methods(interceptor)


class BatchNorm(nn.Module):
    """Normalises the last axis over all others, exactly as `torch.nn.BatchNorm1d` and `BatchNorm2d`.

    Training normalises with the biased variance of the batch and moves the running variance towards the
    unbiased one (Flax's own layer uses the biased one for both). Statistics and result are computed in
    float32 whatever the input.

    Variables: `params` scale, bias [channel] (if `affine`); `batch_stats` mean, var [channel].

    Attributes:
      momentum: weight of the new statistics in the running ones (PyTorch's sense).
      epsilon: added to the variance.
      affine: learn a scale and a bias.
      axis_name: device axis over which batch statistics are shared, unless `statistics_per_device` is active;
        None keeps them to one device.
      single_row_uses_running: with fewer than two valid rows use, and do not move, the running statistics,
        where PyTorch would raise (the "safe" normalisation of SPNet's re-identification projector).
      scale_init: initialiser of the scale.
      dtype: type of the result; None keeps the input's.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    affine: bool = True
    axis_name: str | None = None
    single_row_uses_running: bool = False
    scale_init: Initializer = nn.initializers.ones
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*rows channel"],
        use_running_average: bool,
        mask: Bool[Array, "..."] | None = None,
        synchronised: bool = True,
    ) -> Float[Array, "*rows channel"]:
        """Normalises `x`.

        Args:
          x: features [..., channel]; every position before the channel is a row.
          use_running_average: evaluation mode: use the running statistics and leave them alone.
          mask: True for rows that exist, over the leading axes of `x` (a prefix of [...], for example
            [batch] for images). Other rows are taken as zeros: they do not count, get a finite result
            and pass no gradient.
          synchronised: share batch statistics over the device axis, where there is one.

        Returns:
          The normalised features, shaped like `x`.

        Raises:
          ValueError: if `mask` is not shaped like leading axes of `x`.
        """
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        dtype = self.dtype or x.dtype
        x = x.astype(jnp.float32)
        if mask is not None:
            if mask.ndim >= x.ndim or mask.shape != x.shape[: mask.ndim]:
                raise ValueError(f"mask has shape {mask.shape}, wanted leading axes of {x.shape[:-1]}")
            mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
            x = jnp.where(mask, x, 0.0)

        if use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            mean, var, count = self._batch_statistics(x, mask, synchronised)
            enough = count >= (2 if self.single_row_uses_running else 1)
            if not self.is_initializing():
                unbiased = var * (count / jnp.maximum(count - 1.0, 1.0))
                for running, new in ((running_mean, mean), (running_var, unbiased)):
                    moved = (1.0 - self.momentum) * running.value + self.momentum * new
                    running.value = jax.lax.stop_gradient(jnp.where(enough, moved, running.value))
            if self.single_row_uses_running:
                mean = jnp.where(enough, mean, running_mean.value)
                var = jnp.where(enough, var, running_var.value)

        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.affine:
            factor = factor * self.param("scale", self.scale_init, (channels,), jnp.float32)
        result = (x - mean) * factor
        if self.affine:
            result = result + self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        return result.astype(dtype)

    def _batch_statistics(self, x, mask, synchronised):
        """Returns mean [channel], biased variance [channel] and the number of rows, over all devices sharing."""
        axes = tuple(range(x.ndim - 1))
        axis_name = self.axis_name if synchronised and not self.is_initializing() else None

        def over_devices(value):
            return value if axis_name is None else jax.lax.psum(value, axis_name)

        rows = x.size // x.shape[-1]
        if mask is None:
            count = over_devices(jnp.asarray(rows, jnp.float32))
        else:
            count = over_devices(jnp.sum(mask, dtype=jnp.float32) * (rows / mask.size))
        divisor = jnp.maximum(count, 1.0)
        mean = over_devices(jnp.sum(x, axes)) / divisor
        # Two passes: the mean of squares minus the square of the mean loses too many digits in float32.
        centred = x - mean
        if mask is not None:
            centred = jnp.where(mask, centred, 0.0)
        # What rounding of a long sum left of the mean; its derivative is zero.
        rest = jax.lax.stop_gradient(over_devices(jnp.sum(centred, axes)) / divisor)
        var = over_devices(jnp.sum(centred * centred, axes)) / divisor - rest * rest
        return mean + rest, var, count
