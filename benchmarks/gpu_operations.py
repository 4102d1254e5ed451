"""Every operation in every form beside torchvision's, and its bytes a second beside those of a copy."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.beside_torch import Row, Torch, measure, relative_error
from benchmarks.operation_cases import Case, cases
from benchmarks.operations import compile_form
from benchmarks.timing import Clock, in_turns, jax_clock, summarise

_TO_TORCH = {"NCHW": (0, 3, 1, 2), "OIHW": (3, 2, 0, 1)}
_FROM_TORCH = {"NCHW": (0, 2, 3, 1), "OIHW": (2, 3, 1, 0)}


def operations(torch: Torch, tiny: bool) -> Iterator[Row]:
    """All cases, forward and gradient, in full float32 on both sides."""
    jax.config.update("jax_default_matmul_precision", "highest")  # PyTorch's default for products
    if not torch.missing:
        torch.torch.backends.cudnn.allow_tf32 = False
    bandwidth = copy_bandwidth(2**16 if tiny else 2**29)
    yield {"case": "copy in the device's memory, read and written", "ours": f"{bandwidth / 1e9:.0f} GB/s"}
    for case in cases(tiny):
        yield from _measured(case, torch, bandwidth, 1 if tiny else 10)


def copy_bandwidth(size: int) -> float:
    """Bytes a second that a copy of an array of so many bytes reads and writes."""
    array = jnp.zeros(size // 4, jnp.float32)
    copy = jax.jit(lambda array: array + 1)
    return 2 * size / summarise(in_turns({"copy": jax_clock(copy, array, calls=10)})["copy"]).median


def _measured(case: Case, torch: Torch, bandwidth: float, calls: int) -> Iterator[Row]:
    arrays = [jnp.asarray(array) for array in case.arrays]
    # What cannot be avoided: the gradient reads that of the result, and writes as much as it differentiates.
    least = {"forward": case.least_bytes()}
    least["gradient"] = least["forward"] + sum(case.arrays[place].nbytes for place in case.differentiated)
    contenders, expected = _theirs(case, torch, calls)
    for form in case.forms:
        title = f"{case.operation}, {case.name}: {form}"
        try:
            compiled = compile_form(case, form, arrays)
            results = {"forward": [compiled.forward(*arrays)]}
            if compiled.gradient:
                results["gradient"] = list(compiled.gradient(*arrays))
            jax.block_until_ready(results)
        except Exception as error:  # a form that cannot run here, or needs more memory than there is
            yield {"case": title, "note": f"skipped: {str(error).splitlines()[0][:200]}"}
            continue
        for kind, program in (("forward", compiled.forward), ("gradient", compiled.gradient)):
            if program is None:
                continue
            clock = jax_clock(program, *arrays, calls=calls)
            seconds = summarise(in_turns({"ours": clock}, 3)["ours"]).median
            note = f"{least[kind] / seconds / 1e9:.0f} GB/s, {100 * least[kind] / seconds / bandwidth:.0f} % of a copy"
            note += f"; {compiled.megabytes[kind == 'gradient']:.0f} MB"
            note += f"; {_difference(results[kind], expected.get(kind)) or torch.missing}"
            yield measure(f"{title}, {kind}", {"ours": clock} | contenders.get(kind, {}), note, rounds=5)


def _theirs(case: Case, torch: Torch, calls: int) -> tuple[dict[str, dict[str, Clock]], dict[str, list[Any]]]:
    """Clocks and results of PyTorch's operation, forward and gradient; empty where there is no PyTorch."""
    if torch.missing:
        return {}, {}
    library, vision = torch.torch, torch.vision
    tensors = [
        torch.tensor(
            np.ascontiguousarray(array.transpose(_TO_TORCH[layout]) if layout else array),
            gradient=place in case.differentiated,
        )
        for place, (array, layout) in enumerate(zip(case.arrays, case.layouts, strict=True))
    ]
    wanted = [tensors[place] for place in case.differentiated]

    def forward():
        with library.no_grad():
            return case.theirs(library, vision, *tensors)

    def gradient():
        return library.autograd.grad(case.theirs(library, vision, *tensors).square().sum(), wanted)

    def ours(tensor, layout):
        array = tensor.detach().cpu().numpy()
        return array.transpose(_FROM_TORCH[layout]) if layout else array

    clocks = {"forward": {"torch": torch.clock(forward, calls)}}
    results = {"forward": [ours(forward(), case.their_layout)]}
    if wanted:
        clocks["gradient"] = {"torch": torch.clock(gradient, calls)}
        layouts = [case.layouts[place] for place in case.differentiated]
        results["gradient"] = [ours(*pair) for pair in zip(gradient(), layouts, strict=True)]
    if "with offsets" in case.name:
        results = {}  # measured for its time only: theirs has no offsets
    return clocks, results


def _difference(ours: list[jax.Array], theirs: list[np.ndarray] | None) -> str:
    if theirs is None:
        return ""
    if ours[0].dtype == bool:
        return "the same boxes" if np.array_equal(ours[0], theirs[0]) else "OTHER BOXES than torchvision"
    notes = [relative_error(a, b) for a, b in zip(ours, theirs, strict=True)]
    return max(notes, key=lambda text: float(text.split()[-1]))
