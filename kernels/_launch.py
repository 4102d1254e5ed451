"""Launches hand-written kernels: on a GPU through Mosaic, or in an interpreter on any machine.

Upstream, as of jax 0.11.2: `plgpu.kernel` (Mosaic GPU) is the supported way to a GPU; the Triton back end that
`pl.pallas_call` means on a GPU is deprecated since 0.11.0, and so is `pallas_call` for Mosaic GPU. Before 0.11
the same calls meant other things, so kernels want at least that. Mosaic reads vectors whose length is a
multiple of 128, and cannot gather at an array of indices before Blackwell: kernels here read whole rows at
places that they compute one by one.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Literal

import jax

LANES = 128
OLDEST_JAX = (0, 11)
OLDEST_CAPABILITY = (9, 0)

Mode = Literal["gpu", "interpret", "mosaic_interpret", "lower"]
_mode: ContextVar[Mode] = ContextVar("mode", default="gpu")


@contextlib.contextmanager
def kernel_mode(mode: Mode) -> Iterator[None]:
    """Within it, `implementation="pallas"` runs elsewhere than on this machine's GPU. For tests.

    The mode belongs to what is traced within: a function that was jitted and called before keeps its mode.

    Args:
      mode: "gpu"; "interpret", Pallas' interpreter, compiled and quick, any machine; "mosaic_interpret", that of
        Mosaic GPU, which also looks for races, some milliseconds a read; "lower", no check of this machine,
        for lowering on a machine without a GPU.
    """
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def current_mode() -> Mode:
    """The mode that a kernel traced now runs in."""
    return _mode.get()


def why_not() -> str:
    """Why kernels cannot run here, "" where they can."""
    if tuple(int(part) for part in jax.__version__.split(".")[:2]) < OLDEST_JAX:
        return f"it needs jax {'.'.join(map(str, OLDEST_JAX))} or newer, this is {jax.__version__}"
    if current_mode() != "gpu":
        return ""
    device = jax.local_devices()[0]
    if device.platform != "gpu":
        return f"it needs an NVIDIA GPU, this process computes on {device.platform}"
    capability = str(getattr(device, "compute_capability", ""))
    is_nvidia = re.fullmatch(r"\d+\.\d+", capability)  # of AMD's it is a name
    if not is_nvidia or tuple(int(part) for part in capability.split(".")) < OLDEST_CAPABILITY:
        return (
            f"it needs compute capability {'.'.join(map(str, OLDEST_CAPABILITY))} (Hopper) or newer, "
            f"{device.device_kind} has {capability or 'none'}"
        )
    return ""


def launch(
    body: Callable[..., None],
    programs: int,
    result: jax.ShapeDtypeStruct,
    *arrays: jax.Array,
    mode: Mode,
) -> jax.Array:
    """Runs a kernel body once for each program.

    Args:
      body: called with the number of the program, a reference to each array and one to the result.
      programs: how many; they lie on one axis, as the other two of a GPU's grid end at 65535.
      result: shape and type of the result.
      *arrays: what the body reads.
      mode: as `current_mode` said when the operation was called; its gradient may be traced later.

    Returns:
      The result; what the body did not write is not defined.
    """
    if programs == 0 or math.prod(result.shape) == 0:
        return jax.numpy.zeros(result.shape, result.dtype)
    if mode == "interpret":
        from jax.experimental import pallas as pl

        return pl.pallas_call(
            lambda *refs: body(pl.program_id(0), *refs), out_shape=result, grid=(programs,), interpret=True
        )(*arrays)
    from jax.experimental.pallas import mosaic_gpu as plgpu

    return plgpu.kernel(
        lambda *refs: body(jax.lax.axis_index("program"), *refs),
        out_type=result,
        grid=(programs,),
        grid_names=("program",),
        interpret=plgpu.InterpretGPUParams() if mode == "mosaic_interpret" else None,
    )(*arrays)
