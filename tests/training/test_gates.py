"""What a phase demands before it begins is printed and checked."""

import logging

import pytest

from ps_jax.errors import ConfigError, TrainingError
from ps_jax.training.gates import check_gates
from ps_jax.training.metric_writers import BEFORE, MetricWriter

SCALARS = {
    "search/TestG50/top1": 0.2,
    "search_true_boxes/TestG50/mAP": 0.1,
    "search_true_boxes/TestG50/top1": 0.9,
    "detection/AP": 0.8,
}


@pytest.fixture
def writer(tmp_path):
    with MetricWriter(tmp_path, ("detector", "refine"), "refine", BEFORE) as made:
        made.write_evaluation(0, SCALARS)
        yield made


def test_what_is_reached_is_printed(writer, caplog):
    with caplog.at_level(logging.INFO, logger="absl"):
        check_gates("refine", writer, {"detection_ap": 0.8, "reid_top1": 0.85})
    assert "detection_ap 0.800, at least 0.800" in caplog.text
    assert "reid_top1 0.900, at least 0.850" in caplog.text


def test_what_is_not_reached_ends_the_run(writer):
    words = (
        r"phase refine does not begin: detection_ap is 0\.800, less than 0\.810\. .*--config\.refine\.gates"
    )
    with pytest.raises(TrainingError, match=words):
        check_gates("refine", writer, {"detection_ap": 0.81, "reid_top1": 0.85})


def test_an_unknown_gate_is_told(writer):
    with pytest.raises(ConfigError, match=r"refine\.gates\.recall: there is no such gate"):
        check_gates("refine", writer, {"recall": 0.1})


def test_what_was_not_measured_is_told(tmp_path):
    with MetricWriter(tmp_path, ("refine",), "refine", BEFORE) as writer:
        writer.write_evaluation(0, {"detection/AP": 0.8})
        with pytest.raises(
            ConfigError, match=r"has no search_true_boxes/\.\.\./top1; set eval\.true_boxes=True"
        ):
            check_gates("refine", writer, {"detection_ap": 0.1, "reid_top1": 0.0})
