"""What is not known about GPUs before it is measured on one, and decides how the kernels are written.

1. Does XLA add up float32 in a scatter at full speed, or is the regression of jaxlib 0.10.2 and 0.11.0 still there
   (jax-ml/jax 38806)? With and without the LLVM option that works around it.
2. RoIAlign on four scenes, in float32 and bfloat16, and with TensorFloat-32 products in the separable form.
3. Suppression: how large should a tile be?
4. Is the gradient to the features quicker by atomic additions than by a sorted list? How many channels should one
   program hold, and how many rows be on their way at once?
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.beside_torch import Row, Torch, measure, relative_error
from benchmarks.operation_cases import boxes_in, cases
from benchmarks.operations import compile_form
from benchmarks.timing import in_turns, jax_clock, summarise
from kernels import _row_sums
from kernels._launch import LANES, why_not
from kernels.nms import xla as nms_forms
from kernels.roi_align import separable

WORKAROUND = "--xla_backend_extra_options=-nvptx-allow-ftz-atomics"
_SCATTER = """
import json, sys
from benchmarks.gpu_questions import scatter_seconds
print(json.dumps(scatter_seconds(sys.argv[1] == "tiny")))
"""


def questions(torch: Torch, tiny: bool) -> Iterator[Row]:
    """Rows that answer the questions; PyTorch is beside the others in the part on operations."""
    yield from _scatter(tiny)
    yield from _roi_align(tiny)
    yield from _tiles(tiny)
    yield from _gradient_to_table(tiny)


def scatter_seconds(tiny: bool) -> dict[str, float]:
    """Seconds of additions of rows into few rows, by name."""
    updates, width = (64, 8) if tiny else (40960, 64)
    found = {}
    for rows in (399, 1):
        index = jnp.asarray(np.random.default_rng(0).integers(0, rows, updates))
        for dtype in (jnp.float32, jnp.bfloat16):
            values = jnp.ones((updates, width), dtype)
            add = jax.jit(
                lambda index, values, rows=rows: jnp.zeros((rows, width), values.dtype).at[index].add(values)
            )
            name = f"{updates} x {width} into {rows} rows, {jnp.dtype(dtype)}"
            found[name] = summarise(in_turns({"add": jax_clock(add, index, values, calls=3)})["add"]).median
    return found


def _scatter(tiny: bool) -> Iterator[Row]:
    flags = os.environ.get("XLA_FLAGS", "")
    for title, options in (("scatter", flags), ("scatter with the work-around", f"{flags} {WORKAROUND}")):
        if tiny and options != flags:
            continue  # an option of the back end for GPUs
        done = subprocess.run(
            [sys.executable, "-c", _SCATTER, "tiny" if tiny else "full"],
            env=os.environ | {"XLA_FLAGS": options.strip()},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            yield {
                "case": f"1: {title}",
                "note": f"skipped: {(done.stderr.strip() or '?').splitlines()[-1][:200]}",
            }
            continue
        for name, seconds in json.loads(done.stdout.splitlines()[-1]).items():
            yield {"case": f"1: {title}, {name}", "ours": f"{1e3 * seconds:.3g}"}


def _attempt(title: str, make: Callable[[], tuple[Callable, tuple]], calls: int, note: str = "") -> Row:
    """One row; a contender that cannot run here is named with the reason."""
    try:
        function, arrays = make()
        jax.block_until_ready(function(*arrays))
    except Exception as error:
        return {"case": title, "note": f"skipped: {str(error).splitlines()[0][:200]}"}
    return measure(title, {"ours": jax_clock(function, *arrays, calls=calls)}, note, rounds=5)


def _roi_align(tiny: bool) -> Iterator[Row]:
    case = next(cases(tiny, batch=1 if tiny else 4))
    for dtype in (jnp.float32, jnp.bfloat16):
        arrays = [jnp.asarray(case.arrays[0], dtype), *map(jnp.asarray, case.arrays[1:])]
        for form in (*case.forms, "separable, TensorFloat-32"):
            if form.startswith("one_by_one"):
                continue  # a form for CPUs
            name, _, reduced = form.partition(", ")
            precision = jax.lax.Precision.DEFAULT if reduced else separable.PRECISION
            with mock.patch.object(separable, "PRECISION", precision):
                for kind in ("forward", "gradient"):
                    yield _attempt(
                        f"2: {case.name}, {jnp.dtype(dtype)}: {form}, {kind}",
                        lambda name=name, kind=kind, arrays=arrays: (
                            getattr(compile_form(case, name, arrays), kind),
                            tuple(arrays),
                        ),
                        calls=1 if tiny else 10,
                    )


def _tiles(tiny: bool) -> Iterator[Row]:
    for count in (30,) if tiny else (1000, 6000, 12000):
        boxes = jnp.asarray(boxes_in(np.random.default_rng(5), count, 900, 1500))
        arrays = boxes, jnp.zeros(count, jnp.int32), jnp.ones(count, bool)
        for tile in (10, 30) if tiny else (256, 1024, 2048, 12000):
            with mock.patch.object(nms_forms, "TILE", tile):
                suppress = jax.jit(
                    lambda boxes, classes, valid, n=count: nms_forms.suppress_by_tiles(
                        boxes, classes, valid, 0.7, n
                    )
                )
                row = _attempt(
                    f"3: {count} boxes in tiles of {tile}", lambda s=suppress, a=arrays: (s, a), calls=1
                )
            yield row


def atomic_to_table(count: int, gradient: jax.Array, rows: jax.Array, weights: jax.Array) -> jax.Array:
    """The gradient of `kernels._row_sums` to its table by atomic additions, to be compared with the sorted list.

    Args:
      count: rows of the table.
      gradient: f32[P, C], C a multiple of 128.
      rows: i32[P, T], -1 for none.
      weights: f32[P, T].

    Returns:
      f32[count, C]; the order of the additions is not defined.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    sums, taps = rows.shape
    channels = gradient.shape[1]

    def body(gradient, rows, weights, table):
        place = jax.lax.axis_index("program")
        values = gradient[place].astype(jnp.float32)

        def add(tap, nothing):
            @pl.when(rows[place, tap] >= 0)
            def _():
                plgpu.atomic_add(table.at[rows[place, tap]], weights[place, tap] * values)

            return nothing

        jax.lax.fori_loop(0, taps, add, 0)

    table = jax.new_ref(jnp.zeros((count, channels), jnp.float32))
    plgpu.kernel(body, out_type=(), grid=(sums,), grid_names=("program",))(gradient, rows, weights, table)
    return jax.freeze(table)


def _gradient_to_table(tiny: bool) -> Iterator[Row]:
    count, sums, taps, channels = (40, 12, 4, LANES) if tiny else (4 * 57 * 94, 4 * 128 * 196, 16, 1024)
    rng = np.random.default_rng(6)
    gradient = jnp.asarray(rng.standard_normal((sums, channels), np.float32))
    # As RoIAlign's after equal taps are joined: about half of the places are taken, neighbours read neighbours.
    first = np.sort(rng.integers(0, count, sums))[:, None] + rng.integers(0, 3, (sums, taps))
    rows = np.where(rng.random((sums, taps)) < 0.5, np.minimum(first, count - 1), -1)
    arrays = gradient, jnp.asarray(rows, jnp.int32), jnp.asarray(rng.random((sums, taps)), jnp.float32)
    calls = 1 if tiny else 5

    def checked(function):
        if reason := why_not():
            raise ValueError(reason)
        return jax.jit(function), arrays

    def plain(gradient, rows, weights):
        flat = jnp.where(rows >= 0, rows, count).ravel()
        values = (weights[..., None] * gradient[:, None]).reshape(-1, channels)
        return jnp.zeros((count, channels)).at[flat].add(values, mode="drop")

    by_list = _row_sums._to_table(count, jnp.dtype(jnp.float32), "gpu")
    by_atomics = functools.partial(atomic_to_table, count)
    note = ""
    if not why_not():
        note = relative_error(jax.jit(by_atomics)(*arrays), jax.jit(by_list)(*arrays))
    yield _attempt("4: gradient to the features, sorted list", lambda: checked(by_list), calls)
    yield _attempt("4: gradient to the features, atomics", lambda: checked(by_atomics), calls, note)
    yield _attempt("4: gradient to the features, scatter of XLA", lambda: (jax.jit(plain), arrays), calls)
    table = jnp.zeros((count, channels))
    for name, values in (("LARGEST_BLOCK", (256, 512, 1024)), ("UNROLLED", (1, 2, 4, 8))):
        for value in values[:1] if tiny else values:
            with mock.patch.object(_row_sums, name, value):
                sums_of = _row_sums._forward(jnp.dtype(jnp.float32), "gpu")
                row = _attempt(
                    f"4: sums of rows, {name} {value}",
                    lambda f=sums_of: (checked(f)[0], (table, *arrays[1:])),
                    calls,
                )
            yield row
