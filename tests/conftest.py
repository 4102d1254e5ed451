"""What all tests share: the CPU as the default device, a compilation cache, the folder of golden numbers."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

_TESTS = Path(__file__).resolve().parent

# Both must be set before jax is imported for the first time.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_TESTS.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
sys.path[:0] = [path for path in (str(_TESTS), str(_TESTS.parent)) if path not in sys.path]

import jax  # noqa: E402
import pytest  # noqa: E402

from kernels._launch import kernel_mode, why_not  # noqa: E402

_LONG_FILES = {
    name: rank
    for rank, name in enumerate(
        (
            "test_whole_run.py",
            "test_golden_spnet.py",
            "test_devices.py",
            "test_spnet_tuning.py",
            "test_spnet_training.py",
            "test_box_embedder.py",
        )
    )
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden_dir",
        default=str(_TESTS / "golden"),
        help="folder of golden numbers (default: tests/golden)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first: the last file of a run in parallel then is a short one."""
    items.sort(key=lambda item: _LONG_FILES.get(item.path.name, len(_LONG_FILES)))


@pytest.fixture(scope="session")
def golden_dir(request: pytest.FixtureRequest) -> Path:
    return Path(request.config.getoption("--golden_dir")).resolve()


@pytest.fixture(params=["xla", "interpreted", "gpu"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every implementation of an operation that can run here: tests with it are the shared base of all.

    "interpreted" is the kernel in Pallas' interpreter on any machine, "gpu" the kernel on a GPU.
    """
    if request.param == "xla":
        yield "xla"
        return
    if request.param == "gpu" and jax.default_backend() != "gpu":
        pytest.skip("no GPU")
    with kernel_mode("interpret" if request.param == "interpreted" else "gpu"):
        if reason := why_not():
            pytest.skip(reason)
        yield "pallas"
