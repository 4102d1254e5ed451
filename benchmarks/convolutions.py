"""Gradient of convolutions: XLA's own form against the one that `ps_jax.layers` takes on a CPU.

python -m benchmarks.convolutions
"""

import os
import platform
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks.timing import compare
from ps_jax.layers import convolve

# name, image [height, width], kernel [height, width], channels in and out, groups, batch
CASES = (
    ("depthwise 3x3, 96 channels", (80, 80), (3, 3), 96, 96, 96, 8),
    ("depthwise 3x3, 576 channels", (12, 12), (3, 3), 576, 576, 576, 8),
    ("depthwise 7x7, 96 channels", (64, 64), (7, 7), 96, 96, 96, 2),
    ("1x1, 256 to 256 channels", (64, 64), (1, 1), 256, 256, 1, 2),
    ("3x3, 1024 to 1024 channels", (28, 28), (3, 3), 1024, 1024, 1, 1),
)


def gradient_of(implementation: str, padding: tuple[int, int], groups: int) -> Callable:
    """Compiled (x, kernel) -> value and gradients of a convolution in one of its forms."""

    def loss(x, kernel):
        y = convolve(x, kernel, padding=padding, groups=groups, implementation=implementation)
        return jnp.sum(y * y)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def main() -> None:
    print(f"jax {jax.__version__}, {jax.default_backend()}, {os.cpu_count()} cores, {platform.machine()}")
    print(f"{'forward and gradients':32s} {'XLA ms':>9s} {'ours ms':>9s} {'XLA / ours':>11s}")
    for name, image, window, channels, features, groups, batch in CASES:
        keys = jax.random.split(jax.random.key(0))
        x = jax.random.normal(keys[0], (batch, *image, channels))
        kernel = jax.random.normal(keys[1], (*window, channels // groups, features)) * 0.05
        padding = (window[0] // 2, window[1] // 2)

        forms = [gradient_of(implementation, padding, groups) for implementation in ("xla", "matrix")]
        xla, ours, ratio = compare(*forms, x, kernel)
        print(f"{name:32s} {1e3 * xla:9.1f} {1e3 * ours:9.1f} {ratio:11.1f}", flush=True)


if __name__ == "__main__":
    main()
