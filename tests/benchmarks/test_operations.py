"""The measuring of operations, in its tiny form: every case in every form, the table it writes, the raw atomics."""

import functools
import importlib.util
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import operations
from benchmarks.gpu_questions import atomic_to_table
from benchmarks.operation_cases import cases
from kernels import _choices
from kernels._launch import kernel_mode, why_not


@pytest.mark.parametrize("case", list(cases(tiny=True)), ids=lambda case: case.name)
def test_forms_of_a_case_agree(case):
    arrays = [jnp.asarray(array) for array in case.arrays]
    results = []
    for form in case.forms:
        with kernel_mode("interpret" if form == "pallas" else "gpu"):
            if form == "pallas" and why_not():
                continue
            compiled = operations.compile_form(case, form, arrays)
            results.append(compiled.forward(*arrays))
            if compiled.gradient:
                results[-1] = [results[-1], *compiled.gradient(*arrays)]
    assert len(results) > 1 or why_not()
    for result in results[1:]:
        for ours, expected in zip(jax.tree.leaves(result), jax.tree.leaves(results[0]), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_bytes_that_cannot_be_avoided():
    case = next(case for case in cases(tiny=True) if case.operation == "roi_align")
    # 6 x 8 cells of 8 channels, 3 boxes with their images, and 3 x 2 x 2 bins of 8 channels, 4 bytes each.
    assert case.least_bytes() == 4 * (6 * 8 * 8 + 3 * 4 + 3 + 3 * 2 * 2 * 8)


def test_the_table_is_written_and_read_back(tmp_path, capsys):
    path = tmp_path / "choices.py"
    shutil.copy(Path(_choices.__file__), path)
    assert operations.main(["--tiny", "--only", "nms", "--rounds", "1", "--write", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "| nms | tiny: 20 boxes, 0.5, at most 5 | greedy |" in printed
    spec = importlib.util.spec_from_file_location("choices", path)
    written = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    before = _choices.MEASURED
    platform = "cuda" if jax.default_backend() == "gpu" else jax.default_backend()
    assert set(written.MEASURED) == {*before, platform}
    # What was measured anew stands in place of the old, and nothing else has changed.
    assert {name: set(times) for name, times in written.MEASURED[platform].pop("nms").items()} == {
        "tiny: 20 boxes, 0.5, at most 5": {"greedy", "tiles"}
    }
    for operation, measured in before["cpu"].items():
        if (operation, platform) != ("nms", "cpu"):
            assert written.MEASURED["cpu"][operation] == measured
    assert written.MACHINES[platform].endswith(f"jax {jax.__version__}")
    # Writing what stands there changes nothing: the file is the script's.
    operations.write_table(path, before, _choices.MACHINES)
    assert path.read_text() == Path(_choices.__file__).read_text()


def test_the_atomic_form_lowers_for_a_gpu():
    with kernel_mode("lower"):
        if reason := why_not():
            pytest.skip(reason)
    shapes = ((512, 1024), jnp.float32), ((512, 16), jnp.int32), ((512, 16), jnp.float32)
    arrays = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    traced = jax.jit(functools.partial(atomic_to_table, 100)).trace(*arrays)
    assert traced.lower(lowering_platforms=("cuda",)).as_text().count("mosaic_gpu_v2") == 1
