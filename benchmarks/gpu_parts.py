"""What `benchmarks.gpu_check` measures in a process of its own: operations, trunks and models.

    python -m benchmarks.gpu_parts PART ROWS.jsonl [--tiny] [--without_torch]

Every row is written as soon as it is known, so that a part that runs out of time leaves what it has.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import workloads
from benchmarks.timing import Clock, in_turns, jax_clock, median_ratio, summarise
from kernels.deform_conv import deform_conv
from kernels.nms import nms
from kernels.roi_align import roi_align
from kernels.roi_transform import grid_sample

IMPLEMENTATIONS = ("xla", "pallas")
Row = dict[str, Any]


class Torch:
    """PyTorch and torchvision on the same device as JAX, for timing in turns.

    Args:
      wanted: False pretends that there is none.

    Attributes:
      missing: why there is no PyTorch here, "" where there is.
    """

    def __init__(self, wanted: bool = True):
        self.missing = "" if wanted else "left out, as the part failed with it"
        if not wanted:
            return
        try:
            import torch
            import torchvision
        except ImportError as error:
            self.missing = f"no {error.name}"
            return
        self.torch, self.vision = torch, torchvision
        self.cuda = jax.default_backend() == "gpu"
        if self.cuda and not torch.cuda.is_available():
            self.missing = "its PyTorch sees no GPU"

    def tensor(self, array: np.ndarray, gradient: bool = False) -> Any:
        """An array as a tensor on the device."""
        tensor = self.torch.tensor(array, device="cuda" if self.cuda else "cpu")
        return tensor.requires_grad_(gradient)

    def clock(self, function: Callable[[], Any], calls: int = 1) -> Clock:
        """Times a function until the device is done."""

        def wait():
            if self.cuda:
                self.torch.cuda.synchronize()

        def clock() -> float:
            wait()
            start = time.perf_counter()
            for _ in range(calls):
                function()
            wait()
            return (time.perf_counter() - start) / calls

        return clock


def measure(case: str, contenders: dict[str, Clock], note: str = "", rounds: int = 7) -> Row:
    """One row: median milliseconds of ours and, where it is there, PyTorch's, and the ratio of the two."""
    seconds = in_turns(contenders, rounds)
    row: Row = {"case": case, "ours": summarise(seconds["ours"]).milliseconds, "note": note}
    if "torch" in seconds:
        row["torch"] = summarise(seconds["torch"]).milliseconds
        row["ratio"] = round(median_ratio(seconds["torch"], seconds["ours"]), 3)
    return row


def relative_error(ours: Any, theirs: Any) -> str:
    """Largest difference over the largest value, as text."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    error = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)
    return f"largest relative difference {error:.1e}"


def operations(torch: Torch, tiny: bool) -> Iterator[Row]:
    """RoIAlign, NMS, deformable convolution and grid sampling beside torchvision's, in full float32 on both sides."""
    jax.config.update("jax_default_matmul_precision", "highest")  # PyTorch's default for products
    if not torch.missing:
        torch.torch.backends.cudnn.allow_tf32 = False
    yield from _roi_align(torch, tiny)
    yield from _nms(torch, tiny)
    yield from _deform_conv(torch, tiny)
    yield from _grid_sample(torch, tiny)


def _both_ways(
    name: str,
    torch: Torch,
    function: Callable[..., jax.Array],
    arrays: tuple[np.ndarray, ...],
    theirs: Callable[..., Any] | None,
    tiny: bool,
    to_torch: Callable[[np.ndarray], np.ndarray],
    to_ours: Callable[[np.ndarray], np.ndarray],
) -> Iterator[Row]:
    """Forward and gradient of a function of float arrays.

    Args:
      name: for the table.
      torch: PyTorch.
      function: ours, with an `implementation`.
      arrays: its arguments; gradients of the sum of squares go to all of them.
      theirs: PyTorch's, of tensors made of the arrays; None where there is none.
      tiny: fewer calls.
      to_torch, to_ours: move the axes of arguments to PyTorch's order, and of its results back.
    """
    calls = 1 if tiny else 10
    on_device = [jnp.asarray(array) for array in arrays]
    contenders: dict[str, dict[str, Clock]] = {"forward": {}, "gradient": {}}
    expected: list[np.ndarray] = []
    if theirs:
        tensors = [torch.tensor(np.ascontiguousarray(to_torch(array)), gradient=True) for array in arrays]

        def their_forward():
            with torch.torch.no_grad():
                return theirs(*tensors)

        def their_gradient():
            return torch.torch.autograd.grad(theirs(*tensors).square().sum(), tensors)

        contenders["forward"]["torch"] = torch.clock(their_forward, calls)
        contenders["gradient"]["torch"] = torch.clock(their_gradient, calls)
        expected = [to_ours(tensor.detach().cpu().numpy()) for tensor in (their_forward(), *their_gradient())]
    for implementation in IMPLEMENTATIONS:
        ours = functools.partial(function, implementation=implementation)
        forward = jax.jit(ours)
        gradient = jax.jit(
            jax.grad(lambda *x, f=ours: jnp.sum(f(*x) ** 2), argnums=tuple(range(len(arrays))))
        )
        title = f"{name}, {implementation}"
        try:
            found = [forward(*on_device), *gradient(*on_device)]
        except Exception as error:  # an implementation that is not there, or does not compile
            yield {"case": title, "note": f"skipped: {str(error).splitlines()[0][:200]}"}
            continue
        for kind, result, call in (("forward", found[:1], forward), ("gradient", found[1:], gradient)):
            ours_clock = {"ours": jax_clock(call, *on_device, calls=calls)}
            theirs_of = expected[:1] if kind == "forward" else expected[1:]
            notes = [relative_error(a, b) for a, b in zip(result, theirs_of, strict=False)]
            note = max(notes, key=lambda text: float(text.split()[-1])) if notes else torch.missing
            yield measure(f"{title}, {kind}", ours_clock | contenders[kind], note)


def _channels_first(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -1, 1) if array.ndim == 4 else array


def _channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def _boxes(rng: np.random.Generator, count: int, height: float, width: float) -> np.ndarray:
    corner = rng.uniform(0, 0.8, (count, 2)) * (width, height)
    size = np.stack([rng.uniform(20, 120, count), rng.uniform(40, 300, count)], 1) * (width / 1504)
    return np.concatenate([corner, corner + size], 1).astype(np.float32)


def _roi_align(torch: Torch, tiny: bool) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    batch, count = (1, 4) if tiny else (4, 512)
    for height, width, channels, stride in (
        ((8, 12, 16, 8),) if tiny else ((57, 94, 1024, 16), (116, 188, 384, 8))
    ):
        feature = rng.standard_normal((batch, height, width, channels), np.float32)
        boxes = _boxes(rng, count, height * stride, width * stride)
        index = rng.integers(0, batch, count).astype(np.int32)
        options = {
            "output_size": (14, 14),
            "spatial_scale": 1 / stride,
            "sampling_ratio": 2,
            "aligned": False,
        }

        def ours(feature, implementation, boxes=boxes, index=index, options=options):
            return roi_align(feature, boxes, index, implementation=implementation, **options)

        theirs = None
        if not torch.missing:
            rois = torch.tensor(np.concatenate([index[:, None].astype(np.float32), boxes], 1))

            def theirs(feature, rois=rois, options=options):
                return torch.vision.ops.roi_align(feature, rois, **options)

        name = f"RoIAlign {count} boxes on {batch} x {height} x {width} x {channels}"
        yield from _both_ways(name, torch, ours, (feature,), theirs, tiny, _channels_first, _channels_last)


def _nms(torch: Torch, tiny: bool) -> Iterator[Row]:
    rng = np.random.default_rng(1)
    for count in (50,) if tiny else (300, 1000, 6000, 12000):
        boxes, score = _boxes(rng, count, 900, 1500), rng.permutation(count).astype(np.float32) / count
        on_device = [jnp.asarray(boxes), jnp.asarray(score), jnp.ones(count, bool)]
        contenders: dict[str, Clock] = {}
        kept = None
        if not torch.missing:
            tensors = [torch.tensor(boxes), torch.tensor(score)]
            contenders["torch"] = torch.clock(lambda t=tensors: torch.vision.ops.nms(*t, 0.5))
            kept = set(torch.vision.ops.nms(*tensors, 0.5).tolist())
        for implementation in IMPLEMENTATIONS:
            title = f"NMS {count} boxes, {implementation}"
            suppress = jax.jit(functools.partial(nms, iou_threshold=0.5, implementation=implementation))
            try:
                standing = set(np.flatnonzero(suppress(*on_device)).tolist())
            except Exception as error:
                yield {"case": title, "note": f"skipped: {str(error).splitlines()[0][:200]}"}
                continue
            note = torch.missing or ("the same boxes" if standing == kept else "OTHER BOXES than torchvision")
            yield measure(title, {"ours": jax_clock(suppress, *on_device)} | contenders, note)


def _deform_conv(torch: Torch, tiny: bool) -> Iterator[Row]:
    rng = np.random.default_rng(2)
    batch, height, width, channels = (1, 8, 8, 16) if tiny else (2, 58, 94, 256)
    feature = rng.standard_normal((batch, height, width, channels), np.float32)
    offset = 2 * rng.standard_normal((batch, height, width, 18), np.float32)
    mask = rng.uniform(0, 1, (batch, height, width, 9)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, channels, channels), np.float32) / (9 * channels) ** 0.5

    def ours(feature, offset, mask, kernel, implementation):
        return deform_conv(feature, offset, kernel, mask=mask, padding=(1, 1), implementation=implementation)

    theirs = None
    if not torch.missing:

        def theirs(feature, offset, mask, kernel):
            return torch.vision.ops.deform_conv2d(feature, offset, kernel, padding=1, mask=mask)

    def to_torch(array):
        return array.transpose(3, 2, 0, 1) if array.shape[:2] == (3, 3) else _channels_first(array)

    def to_ours(array):
        return array.transpose(2, 3, 1, 0) if array.shape[2:] == (3, 3) else _channels_last(array)

    name = f"deformable convolution 3x3 on {batch} x {height} x {width} x {channels}"
    yield from _both_ways(name, torch, ours, (feature, offset, mask, kernel), theirs, tiny, to_torch, to_ours)


def _grid_sample(torch: Torch, tiny: bool) -> Iterator[Row]:
    rng = np.random.default_rng(3)
    batch, side, channels, out = (1, 16, 4, 8) if tiny else (8, 512, 3, 256)
    image = rng.standard_normal((batch, side, side, channels), np.float32)
    grid = rng.uniform(-1.1, 1.1, (batch, out, out, 2)).astype(np.float32)

    def ours(image, grid, implementation):
        return grid_sample(image, grid, align_corners=False, implementation=implementation)

    theirs = None
    if not torch.missing:

        def theirs(image, grid):
            return torch.torch.nn.functional.grid_sample(image, grid, align_corners=False)

    def is_grid(array):
        return array.shape[-1] == 2

    name = f"grid sampling of {batch} x {side} x {side} x {channels} at {out} x {out}"
    yield from _both_ways(
        *(name, torch, ours, (image, grid), theirs, tiny),
        lambda array: array if is_grid(array) else _channels_first(array),
        lambda array: array if is_grid(array) else _channels_last(array),
    )


def trunks(torch: Torch, tiny: bool) -> Iterator[Row]:
    """Bare trunks beside torchvision's, forward and training step, in the type that training uses here."""
    dtype = str(_compute_dtype())
    for name in ("mobilenet_v2",) if tiny else ("resnet50", "convnext_tiny"):
        for work, size in (
            ("forward", (1, 64, 96) if tiny else (1, 928, 1504)),
            ("step", (2, 64, 64) if tiny else (8, 512, 512)),
        ):
            make = workloads.trunk_forward if work == "forward" else workloads.trunk_step
            contenders = {"ours": jax_clock(make(name, *size[1:], size[0], dtype))}
            if not torch.missing:
                contenders["torch"] = torch.clock(_their_trunk(torch, name, work, size, dtype))
            words = "forward" if work == "forward" else "forward and gradient"
            title = f"{name} trunk, {words}, {' x '.join(map(str, size))}, {dtype}"
            yield measure(title, contenders, torch.missing)


def _compute_dtype() -> jnp.dtype:
    from ps_jax.training import compute_dtype

    return compute_dtype("auto")


def _their_trunk(torch: Torch, name: str, work: str, size: tuple[int, ...], dtype: str) -> Callable[[], Any]:
    from torchvision.models.feature_extraction import create_feature_extractor

    library = torch.torch
    last = {"resnet50": "layer4", "convnext_tiny": "features.7", "mobilenet_v2": "features.18"}[name]
    model = create_feature_extractor(getattr(torch.vision.models, name)(), {last: "c5"})
    image = torch.tensor(np.random.default_rng(0).standard_normal((size[0], 3, *size[1:]), np.float32))
    model = model.to(image.device, memory_format=library.channels_last)
    image = image.contiguous(memory_format=library.channels_last)
    half = library.autocast(image.device.type, library.bfloat16, enabled=dtype == "bfloat16")

    def forward():
        with library.no_grad(), half:
            return model(image)["c5"]

    def step():
        model.zero_grad()
        with half:
            loss = model(image)["c5"].float().square().mean()
        loss.backward()

    model.train(work == "step")
    return step if work == "step" else forward


def models(torch: Torch, tiny: bool) -> Iterator[Row]:
    """SPNet-S: detection in a scene of 900 x 1500, and training steps of both paths with the paper's settings."""
    from configs import spnet_qc

    dtype = str(_compute_dtype())
    trunk, scene = ("mobilenet_v2", (64, 96)) if tiny else ("convnext_tiny", (928, 1504))
    clock = jax_clock(workloads.detection(workloads.spnet(dtype, trunk=trunk), *scene))
    yield measure(f"SPNet-S {trunk}, detection, 1 x {scene[0]} x {scene[1]}, {dtype}", {"ours": clock})
    for phase in ("finetune",) if tiny else ("finetune", "pretrain"):
        config = spnet_qc.get_config("streets" if tiny else "prw").unlock()
        config.model.trunk = trunk
        if tiny:
            config[phase].update(crop=64, batch_size=2)
        settings = config[phase]
        call = workloads.training_step(config, phase)
        title = f"SPNet-S {trunk}, training step, {settings.model.mode}, {settings.batch_size} x {settings.crop} x "
        yield measure(f"{title}{settings.crop}, {dtype}", {"ours": jax_clock(call)})


PARTS = {"operations": operations, "trunks": trunks, "models": models}


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    from ps_jax.training import enable_compilation_cache

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_parts", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("rows")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--without_torch", action="store_true")
    options = parser.parse_args(arguments)
    enable_compilation_cache()
    with open(options.rows, "a") as file:
        for row in PARTS[options.part](Torch(not options.without_torch), options.tiny):
            print(json.dumps(row), file=file, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
