"""PyTorch on the same device, and rows of a table that set its times beside ours."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.timing import Clock, in_turns, median_ratio, summarise

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
