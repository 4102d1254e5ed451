"""The PyTorch side of `benchmarks.speed`: a process that prepares work and times it on demand.

    <python with torch> -m benchmarks.torch_worker THREADS

It reads one JSON object a line and answers one: {"prepare": <case of `speed`>} -> {"ready": true}, {"time": 1} ->
{"seconds": ...}, and {"error": ...} where something went wrong. Between two questions it only waits.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.torch_alignps import AlignPS
from benchmarks.torch_models import build_trunk, compiled
from benchmarks.torch_seqnet import SeqNet
from benchmarks.torch_spnet import IDENTITIES, SPNet


def prepare(case: dict[str, Any]) -> Callable[[], Any]:
    """The work of a case as a function without arguments, on PyTorch's default device."""
    torch.manual_seed(0)
    height, width = case["size"]
    image = torch.randn(case["batch"], 3, height, width).contiguous(memory_format=torch.channels_last)
    if case["work"] in ("trunk forward", "trunk step"):
        trunk = build_trunk(case["trunk"]).to(memory_format=torch.channels_last)
        return _trunk_step(trunk, image) if case["work"] == "trunk step" else _trunk_forward(trunk, image)
    if case["work"] == "detect":
        model = SPNet(case["trunk"], steps=case["steps"], reid_dimension=case["reid_dim"]).eval()
        model = model.to(memory_format=torch.channels_last)
        return lambda: model.detect(image)
    if case["work"] == "detect by seqnet":
        seqnet = SeqNet().eval().to(memory_format=torch.channels_last)
        return lambda: seqnet.detect(image)
    if case["work"] == "detect by alignps":
        alignps = AlignPS().eval().to(memory_format=torch.channels_last)
        return lambda: alignps.detect(image)
    if case["work"] == "train":
        return _training_step(SPNet(case["trunk"]).to(memory_format=torch.channels_last), image, case)
    raise ValueError(f"no work is called {case['work']!r}")


def _trunk_forward(trunk: torch.nn.Module, image: torch.Tensor) -> Callable[[], Any]:
    trunk.eval()

    @torch.no_grad()
    def call():
        return trunk(image)

    return call


def _trunk_step(trunk: torch.nn.Module, image: torch.Tensor) -> Callable[[], Any]:
    trunk.train()

    def call():
        trunk.zero_grad()
        sum(level.square().mean() for level in trunk(image)).backward()

    return call


def _training_step(model: SPNet, image: torch.Tensor, case: dict[str, Any]) -> Callable[[], Any]:
    count, side = case["people"], case["size"][0]
    people, identity = [], []
    for row in range(case["batch"]):
        corner = torch.rand(count, 2) * 0.6 * side
        size = torch.stack([0.1 + 0.1 * torch.rand(count), 0.2 + 0.2 * torch.rand(count)], 1) * side
        people.append(torch.cat([corner, corner + size], 1))
        identity.append((row * count + torch.arange(count)) % IDENTITIES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=5e-4)
    model.train()

    def call():
        optimizer.zero_grad()
        model.losses(image, people, identity, case["samples"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    return call


def vision_version() -> str:
    """The version of the torchvision whose operations are taken."""
    import torchvision

    return torchvision.__version__


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    versions = {"torch": torch.__version__, "torchvision": vision_version() if compiled else "left out"}
    print(json.dumps({"versions": versions}), flush=True)
    work: Callable[[], Any] = lambda: None  # noqa: E731
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any]
        try:
            if "prepare" in question:
                work = prepare(question["prepare"])
                answer = {"ready": True}
            else:
                start = time.perf_counter()
                work()
                answer = {"seconds": time.perf_counter() - start}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
