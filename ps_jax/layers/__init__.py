"""Layers with PyTorch's numbers: what its checkpoints and papers rely on, in Flax Linen."""

from ps_jax.layers._convolve import convolve as convolve
from ps_jax.layers.batch_norm import BatchNorm as BatchNorm
from ps_jax.layers.batch_norm import statistics_per_device as statistics_per_device
from ps_jax.layers.convolution import Conv as Conv
from ps_jax.layers.deformable import DeformableConv as DeformableConv
from ps_jax.layers.group_norm import GroupNorm as GroupNorm
from ps_jax.layers.initializers import kaiming_normal_fan_out as kaiming_normal_fan_out
from ps_jax.layers.initializers import kaiming_uniform as kaiming_uniform
from ps_jax.layers.initializers import normal as normal
from ps_jax.layers.layer_norm import LayerNorm as LayerNorm
from ps_jax.layers.linear import Linear as Linear
from ps_jax.layers.stochastic_depth import StochasticDepth as StochasticDepth
