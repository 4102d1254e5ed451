"""Stochastic depth: leaving out residual branches at random while training."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int


class StochasticDepth(nn.Module):
    """Zeroes the whole branch of a random part of the rows and scales up the others.

    Huang et al., "Deep Networks with Stochastic Depth", as `torchvision.ops.StochasticDepth(p, "row")`.
    Draws from the rng stream "stochastic_depth", which is needed only in training at a rate above 0.

    Attributes:
      rate: chance that a row is zeroed, 0 .. 1 (below 1).
      axis_name: device axis the rows are spread over; all devices must then hold the same rng key. One mask
        is drawn for the rows of all devices and each takes its part, so that the number of devices does
        not change what is drawn.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "rows *rest"], train: bool, numbers: Int[Array, " rows"] | None = None
    ) -> Float[Array, "rows *rest"]:
        """Returns `x` [rows, ...] with dropped rows zeroed; `x` itself unless training.

        Args:
          x: the branch.
          train: whether anything is dropped.
          numbers: where given, each row is dropped by a draw of its own, that of its number, wherever it stands and
            whatever other rows there are.

        Raises:
          ValueError: if `rate` is not in [0, 1).
        """
        if not 0.0 <= self.rate < 1.0:
            raise ValueError(f"rate is {self.rate}, wanted a chance of at least 0 and below 1")
        if not train or self.rate == 0.0:
            return x
        rows, survival = x.shape[0], 1.0 - self.rate
        key = self.make_rng("stochastic_depth")
        if numbers is not None:
            kept = jax.vmap(lambda n: jax.random.bernoulli(jax.random.fold_in(key, n), survival))(numbers)
        elif self.axis_name is None or self.is_initializing():
            kept = jax.random.bernoulli(key, survival, (rows,))
        else:
            device = jax.lax.axis_index(self.axis_name)
            kept = jax.random.bernoulli(key, survival, (jax.lax.axis_size(self.axis_name) * rows,))
            kept = jax.lax.dynamic_slice_in_dim(kept, device * rows, rows)
        noise = kept.astype(x.dtype) / jnp.asarray(survival, x.dtype)
        return x * noise.reshape((rows,) + (1,) * (x.ndim - 1))
