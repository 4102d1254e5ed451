"""The operations of `kernels` at the sizes the systems use them at: what is measured on a CPU and on a GPU."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kernels.deform_conv import deform_conv
from kernels.nms import nms
from kernels.roi_align import roi_align
from kernels.roi_transform import grid_sample, roi_transform


@dataclass(frozen=True)
class Case:
    """One operation at one size.

    Attributes:
      operation: its name in the table of forms.
      name: of the case, for tables.
      forms: names of what can be measured: forms in plain JAX, and "pallas" where there is a kernel.
      arrays: its arguments.
      run: our operation, a function of the arrays.
      differentiated: arguments whose gradients are measured together; none: there is no gradient.
      layouts: PyTorch's order of the axes of each argument, "NCHW", "OIHW" or "" for the same as ours.
      theirs: PyTorch's operation, (torch, torchvision, tensors) -> tensor in `their_layout`.
      their_layout: of the result.
    """

    operation: str
    name: str
    forms: tuple[str, ...]
    arrays: tuple[np.ndarray, ...]
    run: Callable[..., jax.Array]
    differentiated: tuple[int, ...]
    layouts: tuple[str, ...]
    theirs: Callable[..., Any]
    their_layout: str = "NCHW"

    def forward(self, *arrays: jax.Array) -> jax.Array:
        """The operation."""
        return self.run(*arrays)

    def gradient(self, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        """Gradients of the sum of the squares of the result."""
        return jax.grad(lambda *a: jnp.sum(self.run(*a).astype(jnp.float32) ** 2), self.differentiated)(
            *arrays
        )

    def least_bytes(self) -> int:
        """Every argument read once and the result written once: no way of computing it moves less."""
        result = jax.eval_shape(self.run, *self.arrays)
        return sum(array.nbytes for array in self.arrays) + result.size * result.dtype.itemsize


def boxes_in(rng: np.random.Generator, count: int, height: float, width: float) -> np.ndarray:
    """Boxes of people's form inside a picture, f32[count, 4]."""
    corner = rng.uniform(0, 0.8, (count, 2)) * (width, height)
    size = np.stack([rng.uniform(20, 120, count), rng.uniform(40, 300, count)], 1) * (width / 1504)
    return np.concatenate([corner, np.minimum(corner + size, (width, height))], 1).astype(np.float32)


def cases(tiny: bool = False, batch: int = 1) -> Iterator[Case]:
    """All cases.

    Args:
      tiny: small sizes, to show that they run.
      batch: pictures at a time.

    Yields:
      RoIAlign, deformable convolution, ROI transform and grid sampling, suppression.
    """
    for system, height, width, channels, stride, rois, bins in (
        (("tiny", 6, 8, 8, 16, 3, 2),)
        if tiny
        else (("SeqNet", 57, 94, 1024, 16, 128, 14), ("SPNet", 116, 188, 384, 8, 128, 14))
    ):
        yield _roi_align(system, height, width, channels, stride, batch * rois, bins, batch)
    yield _moved_bins(tiny, batch)
    for system, height, width, channels, out_channels, modulated in (
        (("tiny", 4, 5, 8, 8, True),)
        if tiny
        else (("AlignPS neck", 113, 188, 768, 256, False), ("AlignPS head", 113, 188, 256, 256, True))
    ):
        yield _deform_conv(system, batch, height, width, channels, out_channels, modulated)
    yield _roi_transform(tiny, batch)
    yield _grid_sample(tiny)
    for system, count, threshold, most in (
        (("tiny", 20, 0.5, 5),)
        if tiny
        else (("AlignPS", 1000, 0.5, 100), ("SeqNet test", 6000, 0.7, 300), ("SeqNet", 12000, 0.7, 2000))
    ):
        yield _nms(system, count, threshold, most)


def _roi_align(system, height, width, channels, stride, rois, bins, batch):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((batch, height, width, channels), np.float32)
    boxes = boxes_in(rng, rois, height * stride, width * stride)
    index = np.sort(rng.integers(0, batch, rois)).astype(np.int32)
    options = {
        "output_size": (bins, bins),
        "spatial_scale": 1 / stride,
        "sampling_ratio": 2,
        "aligned": False,
    }

    def theirs(torch, vision, features, boxes, index):
        return vision.ops.roi_align(features, torch.cat([index[:, None].float(), boxes], 1), **options)

    return Case(
        "roi_align",
        f"{system}: {rois} boxes, {bins} x {bins}, on {batch} x {height} x {width} x {channels}",
        ("one_by_one", "at_once", "separable", "pallas"),
        (features, boxes, index),
        lambda features, boxes, index: roi_align(features, boxes, index, **options),
        (0,),
        ("NCHW", "", ""),
        theirs,
    )


def _moved_bins(tiny, batch):
    """LEAPS: bins with offsets; torchvision has none and is measured without."""
    rng = np.random.default_rng(1)
    height, width, channels, rois, bins = (6, 8, 8, 3, 2) if tiny else (113, 188, 256, 100 * batch, 7)
    features = rng.standard_normal((batch, height, width, channels), np.float32)
    boxes = boxes_in(rng, rois, height * 8, width * 8)
    index = np.sort(rng.integers(0, batch, rois)).astype(np.int32)
    offsets = 4 * rng.standard_normal((rois, bins, bins, 2), np.float32)
    options = {"output_size": (bins, bins), "spatial_scale": 1 / 8, "sampling_ratio": 2, "aligned": True}

    def theirs(torch, vision, features, boxes, index, offsets):
        # The sum with zero times the offsets makes them take part in the gradient.
        rois = torch.cat([index[:, None].float(), boxes], 1)
        return vision.ops.roi_align(features, rois, **options) + 0 * offsets.sum()

    return Case(
        "roi_align",
        f"LEAPS, with offsets: {rois} boxes, {bins} x {bins}, on {batch} x {height} x {width} x {channels}",
        ("one_by_one", "at_once", "pallas"),
        (features, boxes, index, offsets),
        lambda features, boxes, index, offsets: roi_align(features, boxes, index, offsets=offsets, **options),
        (0, 3),
        ("NCHW", "", "", ""),
        theirs,
    )


def _deform_conv(system, batch, height, width, channels, out_channels, modulated):
    rng = np.random.default_rng(2)
    features = rng.standard_normal((batch, height, width, channels), np.float32)
    offset = 2 * rng.standard_normal((batch, height, width, 18), np.float32)
    kernel = rng.standard_normal((3, 3, channels, out_channels), np.float32) / (9 * channels) ** 0.5
    mask = rng.uniform(0, 1, (batch, height, width, 9)).astype(np.float32)
    arrays = (features, offset, kernel, mask)[: 4 if modulated else 3]

    def theirs(torch, vision, features, offset, kernel, mask=None):
        return vision.ops.deform_conv2d(features, offset, kernel, padding=1, mask=mask)

    return Case(
        "deform_conv",
        f"{system}: v{2 if modulated else 1}, 3 x 3, {channels} to {out_channels}, on {batch} x {height} x {width}",
        ("gather", "pallas"),
        arrays,
        lambda features, offset, kernel, mask=None: deform_conv(
            features, offset, kernel, mask=mask, padding=(1, 1)
        ),
        tuple(range(len(arrays))),
        ("NCHW", "NCHW", "OIHW", "NCHW")[: len(arrays)],
        theirs,
    )


def _roi_transform(tiny, batch):
    """RDLR: crops of raw pictures, differentiated in the boxes."""
    rng = np.random.default_rng(3)
    height, width, each, out = (12, 16, 2, (4, 2)) if tiny else (1080, 1920, 16, (256, 128))
    image = rng.integers(0, 256, (batch, height, width, 3), np.uint8)
    boxes = boxes_in(rng, each * batch, height, width)
    index = np.repeat(np.arange(batch, dtype=np.int32), each)

    def theirs(torch, vision, image, boxes, index):
        x, y = ((torch.arange(count, device=boxes.device) + 0.5) / count for count in out[::-1])
        x = (boxes[:, :1] + x * (boxes[:, 2:3] - boxes[:, :1])) / width * 2 - 1
        y = (boxes[:, 1:2] + y * (boxes[:, 3:] - boxes[:, 1:2])) / height * 2 - 1
        grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
        grid = grid.reshape(batch, each * out[0], out[1], 2)  # the crops of a picture below each other
        sampled = torch.nn.functional.grid_sample(image.float(), grid, align_corners=False)
        return sampled.reshape(batch, 3, each, *out).transpose(1, 2).reshape(batch * each, 3, *out)

    return Case(
        "roi_transform",
        f"RDLR: {each * batch} boxes, {out[0]} x {out[1]}, from {batch} x {height} x {width} x 3, u8",
        ("gather", "pallas"),
        (image, boxes, index),
        lambda image, boxes, index: roi_transform(image, boxes, index, output_size=out),
        (1,),
        ("NCHW", "", ""),
        theirs,
    )


def _grid_sample(tiny):
    rng = np.random.default_rng(4)
    batch, side, channels, out = (1, 16, 4, 8) if tiny else (8, 512, 3, 256)
    image = rng.standard_normal((batch, side, side, channels), np.float32)
    grid = rng.uniform(-1.1, 1.1, (batch, out, out, 2)).astype(np.float32)
    return Case(
        "grid_sample",
        f"{batch} x {side} x {side} x {channels} at {out} x {out}",
        ("gather", "pallas"),
        (image, grid),
        lambda image, grid: grid_sample(image, grid, align_corners=False),
        (0, 1),
        ("NCHW", ""),
        lambda torch, vision, image, grid: torch.nn.functional.grid_sample(image, grid, align_corners=False),
    )


def _nms(system, count, threshold, most):
    rng = np.random.default_rng(5)
    boxes, score = boxes_in(rng, count, 900, 1500), rng.permutation(count).astype(np.float32) / count

    def theirs(torch, vision, boxes, score):
        keep = torch.zeros(count, dtype=torch.bool, device=boxes.device)
        keep[vision.ops.nms(boxes, score, threshold)[:most]] = True
        return keep

    return Case(
        "nms",
        f"{system}: {count} boxes, {threshold}, at most {most}",
        ("greedy", "tiles"),
        (boxes, score),
        lambda boxes, score: nms(boxes, score, jnp.ones(count, bool), threshold, max_kept=most),
        (),
        ("", ""),
        theirs,
        "",
    )
