"""Which form of an operation runs: named ones or an error, measured ones where nothing is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import _implementation, _launch
from kernels._choices import MEASURED
from kernels._implementation import check_implementation, quickest, run_form
from kernels._launch import kernel_mode, why_not


def test_names_are_checked():
    for implementation in (None, "xla"):
        check_implementation("roi_align", implementation)
    with pytest.raises(
        ValueError, match='roi_align: implementation is \'cuda\', wanted None, "xla" or "pallas"'
    ):
        check_implementation("roi_align", "cuda")
    with pytest.raises(ValueError, match=r"nms: .* this operation has no kernel"):
        check_implementation("nms", "pallas", has_kernel=False)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="has a GPU")
def test_without_a_gpu_the_kernel_is_an_error(monkeypatch):
    monkeypatch.setattr(jax, "__version__", "0.11.2")
    reason = "it needs an NVIDIA GPU, this process computes on cpu"
    with pytest.raises(ValueError, match=f'"pallas" is not available: {reason}; use "xla" or None'):
        check_implementation("deform_conv", "pallas")


@pytest.mark.parametrize("version", ["0.10.2", "0.9.1.dev1"])
def test_an_old_jax_is_an_error(monkeypatch, version):
    monkeypatch.setattr(jax, "__version__", version)
    with kernel_mode("interpret"), pytest.raises(ValueError, match=f"jax 0.11 or newer, this is {version}"):
        check_implementation("roi_align", "pallas")


@pytest.mark.parametrize(
    ("capability", "message"),
    [("8.0", "Hopper.* A100 has 8.0"), ("gfx942", "A100 has gfx942"), ("9.0", ""), ("10.3", "")],
)
def test_an_old_or_foreign_gpu_is_an_error(monkeypatch, capability, message):
    class Device:
        platform, device_kind, compute_capability = "gpu", "A100", capability

    monkeypatch.setattr(jax, "__version__", "0.11.2")
    monkeypatch.setattr(jax, "local_devices", lambda: [Device])
    if not message:
        assert why_not() == ""
        return
    with pytest.raises(ValueError, match=message):
        check_implementation("roi_align", "pallas")


def test_a_mode_ends_with_its_block():
    with kernel_mode("lower"):
        assert _launch.current_mode() == "lower"
    assert _launch.current_mode() == "gpu"


FORMS = {"a": lambda x: x + 1, "b": lambda x: x + 2, "pallas": lambda x: x + 3}


@pytest.fixture
def measured(monkeypatch):
    def set_to(**platforms):
        monkeypatch.setattr(_implementation, "MEASURED", {p: {"op": cases} for p, cases in platforms.items()})
        monkeypatch.setitem(_implementation._UNMEASURED, "op", "a")

    return set_to


def ran(implementation, platform="cpu"):
    """The constant that the form which runs on a platform adds."""
    traced = jax.jit(lambda x: run_form("op", implementation, FORMS, x)).trace(jnp.float32(0))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return [number for number in (1, 2, 3) if f"dense<{number}.0" in text]


def test_unmeasured_platforms_take_one_plain_form(measured):
    measured()
    assert ran(None) == ran("xla") == ran(None, "cuda") == [1]
    assert ran("pallas") == [3]


def test_the_quickest_form_of_each_platform_runs_there(measured):
    measured(
        cpu={"small": {"a": 2.0, "b": 1.0}, "large": {"a": 5.0, "b": 4.0}},
        cuda={"small": {"a": 2.0, "b": 1.9, "pallas": 1.0}},
    )
    assert (ran(None), ran("xla"), ran("pallas")) == ([2], [2], [3])
    # No GPU here, so no kernel for one; unless what is compiled is meant for another machine.
    assert ran(None, "cuda") == ran("xla", "cuda") == [2]
    assert ran(None, "rocm") == [1]
    if not (reason := why_not_when_lowering()):
        with kernel_mode("lower"):
            assert ran(None, "cuda") == [3]
            assert ran("xla", "cuda") == ran(None) == [2]
    else:
        assert "jax" in reason


def why_not_when_lowering():
    with kernel_mode("lower"):
        return why_not()


def test_cases_are_averaged_as_ratios(measured):
    # One form is 3 times quicker in a short case, the other 2 times in a long one.
    measured(cpu={"short": {"a": 3.0, "b": 1.0}, "long": {"a": 100.0, "b": 200.0, "pallas": 1.0}})
    assert quickest("op", "cpu", {"a", "b"}) == "b"
    assert quickest("op", "cpu", {"a", "b", "pallas"}) == "pallas"  # the long case alone has all of them
    assert quickest("op", "cpu", {"c"}) == "a"


def test_the_table_names_forms_that_are_there():
    forms = {
        "roi_align": {"one_by_one", "at_once", "separable", "pallas"},
        "deform_conv": {"gather", "pallas"},
        "grid_sample": {"gather", "pallas"},
        "roi_transform": {"gather", "pallas"},
        "nms": {"greedy", "tiles"},
    }
    for operation, form in _implementation._UNMEASURED.items():
        assert form in forms[operation] - {"pallas"}
    assert "cpu" in MEASURED
    for platform, operations in MEASURED.items():
        assert platform in ("cpu", "cuda")
        for operation, cases in operations.items():
            for times in cases.values():
                assert set(times) <= forms[operation]
                assert all(np.isfinite(time) and time > 0 for time in times.values())
