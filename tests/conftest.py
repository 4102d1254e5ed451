"""What all tests share: the CPU as the default device, a compilation cache, the folder of golden numbers."""

import os
import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parent

# Both must be set before jax is imported for the first time.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_TESTS.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
sys.path[:0] = [path for path in (str(_TESTS), str(_TESTS.parent)) if path not in sys.path]

import pytest  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden_dir",
        default=str(_TESTS / "golden"),
        help="folder of golden numbers (default: tests/golden)",
    )


@pytest.fixture(scope="session")
def golden_dir(request: pytest.FixtureRequest) -> Path:
    return Path(request.config.getoption("--golden_dir")).resolve()
