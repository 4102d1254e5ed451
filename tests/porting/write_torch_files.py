"""Writes the files in `torch_files/`; needs PyTorch, which the tests do not.

    python tests/porting/write_torch_files.py            # made with torch 2.13 on a CPU

Every value is worked out again, without PyTorch, by `expected` in `test_torch_files.py`.
"""

import argparse
import sys
import types
from collections import OrderedDict
from pathlib import Path

import torch

OUT = Path(__file__).parent / "torch_files"


def count(*size, dtype=torch.float32):
    """0, 1, 2, ... in the given shape."""
    elements = int(torch.Size(size).numel())
    return torch.arange(elements).to(dtype).reshape(size)


def every_kind():
    """Types, views, shared storages and containers."""
    shared = count(4, 6)
    noted = count(3)
    noted.note = "tensors with attributes have another form"
    return OrderedDict(
        {
            "float64": count(2, 3, dtype=torch.float64) / 7,
            "float32": count(2, 3) / 7,
            "float16": count(2, 3, dtype=torch.float16) / 8,
            "bfloat16": (count(2, 3) / 8).to(torch.bfloat16),
            "int64": count(3, dtype=torch.int64) - 2**40,
            "int32": count(3, dtype=torch.int32) - 5,
            "int16": count(3, dtype=torch.int16) - 5,
            "int8": count(3, dtype=torch.int8) - 5,
            "uint8": count(3, dtype=torch.uint8) + 250,
            "bool": torch.tensor([True, False, True]),
            "scalar": torch.tensor(3.5),
            "counter": torch.tensor(17),
            "empty": torch.zeros(0, 4),
            "parameter": torch.nn.Parameter(count(2, 2)),
            "noted": noted,
            "shared": shared,
            "transposed": shared.t(),
            "every_second": shared[1::2, 1::2],
            "one_row": shared[2],
            "expanded": count(3)[:, None].expand(3, 4),
        }
    )


def network():
    """A bare state dict of a module, with the metadata that PyTorch gives it."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 2))
    for parameter in module.parameters():
        parameter.data = count(*parameter.shape) / 4
    return module.state_dict()


def lightning():
    """As PyTorch Lightning writes it: weights under `model.`, and around them objects of foreign classes."""
    module = types.ModuleType("foreign")
    sys.modules["foreign"] = module
    exec(
        "class Options(dict):\n"
        "    pass\n"
        "class Schedule:\n"
        "    def __init__(self): self.steps = [1, 2]\n"
        "def make(*args): return args\n",
        module.__dict__,
    )
    options = module.Options(trunk="resnet50", path=Path("/data"), rate=1e-4)
    options.frozen = True
    weight = torch.nn.Parameter(count(2, 3))
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    weight.sum().backward()
    optimizer.step()
    weight.data = count(2, 3)
    return {
        "epoch": 3,
        "global_step": 120,
        "pytorch-lightning_version": "2.0.2",
        "state_dict": OrderedDict({"model.head.weight": weight, "model.head.bias": count(2) - 1}),
        "loops": {"fit_loop": {"state_dict": {}, "progress": module.Schedule()}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best": torch.tensor(0.5), "dirpath": "/tmp"}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"base_lrs": [1e-3], "made": module.Schedule()}],
        "hyper_parameters": options,
        "arguments": argparse.Namespace(seed=1, device=torch.device("cpu"), ids={1, 2}, raw=b"\x00\xff"),
    }


def main():
    OUT.mkdir(exist_ok=True)
    for name, content in {"kinds": every_kind(), "network": network(), "lightning": lightning()}.items():
        torch.save(content, OUT / f"{name}.pth")
        torch.save(content, OUT / f"{name}_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"model": network()}, OUT / "protocol4.pth", pickle_protocol=4)
    torch.save({"small": torch.ones(2, dtype=torch.uint16) * 3}, OUT / "uint16.pth")


if __name__ == "__main__":
    main()
