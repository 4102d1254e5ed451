"""What `benchmarks.gpu_check` measures in a process of its own: operations, trunks and models.

    python -m benchmarks.gpu_parts PART ROWS.jsonl [--tiny] [--without_torch]

Every row is written as soon as it is known, so that a part that runs out of time leaves what it has.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks import speed, workloads
from benchmarks.beside_torch import Row, Torch, measure
from benchmarks.gpu_operations import operations
from benchmarks.gpu_questions import questions
from benchmarks.timing import jax_clock


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
    """Detection in a scene of 900 x 1500 and training steps with the paper's settings, beside PyTorch's layers."""
    from configs import spnet_qc

    dtype = str(_compute_dtype())
    missing = torch.missing or ("its layers have no such trunk" if tiny else "")
    for case in _model_cases(tiny):
        contenders = {"ours": jax_clock(speed.ours(case, dtype))}
        if not missing:
            contenders["torch"] = torch.clock(_their_model(torch, case, dtype))
        size = " x ".join(map(str, (case.batch, *case.size)))
        yield measure(f"{case.name}, {size}, {dtype}", contenders, missing)
    if not tiny:
        config = spnet_qc.get_config("prw")
        settings = config.pretrain
        name = f"SPNet-S, ConvNeXt-T, query-centric training step, {settings.batch_size} x {settings.crop} x "
        clock = jax_clock(workloads.training_step(config, "pretrain"))
        yield measure(f"{name}{settings.crop}, {dtype}", {"ours": clock})


def _model_cases(tiny: bool) -> tuple[speed.Case, ...]:
    scene = (64, 96) if tiny else speed.SCENE
    small, large = ("mobilenet_v2", "mobilenet_v2") if tiny else ("convnext_tiny", "resnet50")
    caffe = "mobilenet_v2" if tiny else "resnet50_caffe"
    batch, crop, samples = (2, 64, 16) if tiny else (8, 512, 128)
    return (
        speed.Case(f"SPNet-S, {small}, detection", "detect", small, scene),
        speed.Case(f"SeqNet, {large}, detection", "detect by seqnet", large, scene),
        speed.Case(f"AlignPS, {caffe}, detection", "detect by alignps", caffe, scene),
        speed.Case(f"SPNet-S, {small}, training step", "train", small, (crop, crop), batch, samples=samples),
    )


def _their_model(torch: Torch, case: speed.Case, dtype: str) -> Callable[[], Any]:
    from benchmarks.torch_worker import prepare

    library = torch.torch
    device = library.device("cuda" if torch.cuda else "cpu")
    half = library.autocast(device.type, library.bfloat16, enabled=dtype == "bfloat16")
    with device:
        work = prepare(asdict(case))

    def call():
        with device, half:
            return work()

    return call


PARTS = {"operations": operations, "questions": questions, "trunks": trunks, "models": models}


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
