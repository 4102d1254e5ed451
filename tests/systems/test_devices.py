"""A step must not depend on the number of devices: compared in a program of its own, which has two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _report(mode: str, trunk: str = "tiny", variant: str = "") -> dict:
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE)]),
    }
    result = subprocess.run(
        [sys.executable, HERE / "two_devices.py", mode, trunk, variant],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["tiny", "mobilenet_v2"])
def test_object_centric_step_on_two_devices_is_the_step_on_one(trunk):
    report = _report("oc", trunk)
    assert min(report["terms"].values()) > 0.01  # every term takes part
    assert report["term"] < (1e-5 if trunk == "tiny" else 1e-4)
    # Batch statistics of a few small maps: an image brighter by 2e-7 moves MobileNetV2's gradient by 0.4 %.
    assert report["gradient"] < (1e-5 if trunk == "tiny" else 2e-2)
    _same_beside_the_gradient(report, ("lookup_table", "queue", "queue_header"))


@pytest.mark.slow
def test_cascade_on_two_devices_is_the_cascade_on_one():
    report = _report("oc", variant="large")
    assert len(report["terms"]) == 7 and min(report["terms"].values()) > 0.01
    assert report["term"] < 1e-5 and report["gradient"] < 1e-5
    _same_beside_the_gradient(report, ("lookup_table", "queue", "queue_header"))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["", "large"])
def test_query_centric_step_on_two_devices_is_the_step_on_one(variant):
    """Query and scene of a pair lie on different devices, too."""
    report = _report("qc", variant=variant)
    assert min(report["terms"].values()) > 0.01
    assert report["term"] < 1e-5 and report["gradient"] < 1e-5
    _same_beside_the_gradient(report, ("lookup_table", "queue", "queue_header"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["oc", "qc"])
def test_momentum_queue_on_two_devices_is_the_one_on_one(mode):
    report = _report(mode, variant="queue")
    assert min(report["terms"].values()) > 0.01
    assert report["term"] < 1e-5 and report["gradient"] < 1e-5
    _same_beside_the_gradient(
        report, ("queue", "queue_person", "queue_age", "queue_header", "momentum_encoder")
    )


@pytest.mark.slow
@pytest.mark.parametrize("system", ["seqnet", "nae"])
def test_a_step_of_the_seqnet_family_on_two_devices_is_the_step_on_one(system):
    report = _report(system)
    assert len(report["terms"]) == (7 if system == "seqnet" else 5) and min(report["terms"].values()) > 0.01
    assert report["term"] < 1e-5 and report["gradient"] < 1e-5
    _same_beside_the_gradient(report, ("lookup_table", "queue", "queue_header"))


@pytest.mark.slow
def test_a_step_of_leaps_on_two_devices_is_the_step_on_one():
    report = _report("leaps")
    assert len(report["terms"]) == 6 and min(report["terms"].values()) > 1e-3
    assert report["term"] < 1e-5 and report["gradient"] < 1e-5
    _same_beside_the_gradient(report, ("lookup_table", "queue", "queue_header"))


@pytest.mark.slow
@pytest.mark.parametrize("system", ["alignps", "roi_alignps"])
def test_a_step_of_alignps_on_two_devices_is_the_step_on_one(system):
    """Of ROI-AlignPS with all that the branches learn from each other."""
    report = _report(system)
    assert len(report["terms"]) == (5 if system == "alignps" else 13)
    assert min(map(abs, report["terms"].values())) > 1e-4
    assert report["term"] < 1e-5 and report["gradient"] < 1e-5
    boxes = ("box_table", "box_queue", "box_queue_header") if system == "roi_alignps" else ()
    _same_beside_the_gradient(report, ("lookup_table", "queue", "queue_header", *boxes))


def _same_beside_the_gradient(report: dict, memories: tuple[str, ...]) -> None:
    assert set(report["memory"]) == set(memories)
    for name, difference in report["memory"].items():
        assert difference < 1e-4, name
    assert report["batch_stats"] < 1e-4 and report["replicas"] == 0
