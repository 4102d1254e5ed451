"""Every operation with a kernel, forward and gradient, compiled for a GPU on a machine without one.

It shows that Mosaic takes the kernels; registers, races and speed stay unseen.
"""

import jax
import jax.numpy as jnp
import pytest

from kernels._launch import kernel_mode, why_not
from kernels.deform_conv import deform_conv
from kernels.roi_align import roi_align
from kernels.roi_transform import grid_sample, roi_transform

with kernel_mode("lower"):
    pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

KERNEL = "mosaic_gpu_v2"


def lowered(function, arguments, differentiated):
    """Kernels in the forward program and in that of the gradient, the arguments given as (shape, type)."""
    arrays = [jax.ShapeDtypeStruct(*argument) for argument in arguments]

    def total(*arrays):
        return jnp.sum(function(*arrays).astype(jnp.float32) ** 2)

    counts = []
    with kernel_mode("lower"):
        for compiled in (jax.jit(function), jax.jit(jax.value_and_grad(total, argnums=differentiated))):
            text = compiled.trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
            counts.append(text.count(KERNEL))
    return counts


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("sampling_ratio", "channels", "with_offsets"),
    [(2, 1024, False), (1, 384, False), (0, 256, False), (2, 256, True), (2, 100, True)],
)
def test_roi_align(dtype, sampling_ratio, channels, with_offsets):
    def pool(features, boxes, batch_index, offsets):
        return roi_align(
            *(features, boxes, batch_index),
            output_size=(14, 14),
            spatial_scale=1 / 16,
            sampling_ratio=sampling_ratio,
            aligned=with_offsets,
            max_sampling=3,
            offsets=offsets if with_offsets else None,
            box_gradient=with_offsets,
            implementation="pallas",
        )

    arguments = [((2, 57, 94, channels), dtype), ((128, 4), jnp.float32), ((128,), jnp.int32)]
    arguments.append(((128, 14, 14, 2), jnp.float32))
    # The features alone need one kernel backwards, positions the second.
    assert lowered(pool, arguments, (0, 1, 3) if with_offsets else 0) == [1, 3 if with_offsets else 2]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("channels", "offset_groups", "modulated"), [(768, 1, False), (256, 1, True), (512, 4, True)]
)
def test_deform_conv(dtype, channels, offset_groups, modulated):
    def convolve(features, offset, kernel, mask):
        mask = mask if modulated else None
        return deform_conv(features, offset, kernel, mask=mask, padding=(1, 1), implementation="pallas")

    taps = 9 * offset_groups
    arguments = [((1, 113, 188, channels), dtype), ((1, 113, 188, 2 * taps), jnp.float32)]
    arguments += [((3, 3, channels, 256), dtype), ((1, 113, 188, taps), jnp.float32)]
    # The gradient samples again.
    assert lowered(convolve, arguments, (0, 1, 2, 3) if modulated else (0, 1, 2)) == [1, 4]


def test_roi_transform():
    def crop(image, boxes, batch_index):
        return roi_transform(image, boxes, batch_index, output_size=(256, 128), implementation="pallas")

    arguments = [((2, 1080, 1920, 3), jnp.uint8), ((16, 4), jnp.float32), ((16,), jnp.int32)]
    assert lowered(crop, arguments, 1) == [1, 2]


def test_grid_sample():
    def sample(image, grid):
        return grid_sample(image, grid, align_corners=False, implementation="pallas")

    arguments = [((2, 64, 64, 128), jnp.float32), ((2, 32, 32, 2), jnp.float32)]
    assert lowered(sample, arguments, (0, 1)) == [1, 3]
