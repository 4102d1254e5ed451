import math

import pytest

from ps_jax.errors import TrainingError
from ps_jax.training.metric_writers import MetricWriter, read_records

PHASES = ("pretrain", "finetune")


def fill(workdir):
    for phase in PHASES:
        with MetricWriter(workdir, PHASES, phase, 0) as writer:
            for step in (1, 2, 3, 4):
                writer.write(step, {"loss/total": step / 2})
                if step % 2 == 0:
                    writer.write_evaluation(step, {"search/all/mAP": 1 / step})


def test_records_are_there_before_the_writer_is_closed(tmp_path):
    with MetricWriter(tmp_path, PHASES, "pretrain", 0) as writer:
        writer.write(1, {"loss/total": 0.5})
        assert read_records(tmp_path / "metrics.jsonl") == [
            {"phase": "pretrain", "step": 1, "loss/total": 0.5}
        ]
    assert list((tmp_path / "pretrain").glob("events.out.tfevents*"))


def test_resume_takes_back_what_came_after_the_checkpoint(tmp_path):
    fill(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "finetune", "st')  # cut short
    with MetricWriter(tmp_path, PHASES, "finetune", 2) as writer:
        assert writer.evaluated(2) and not writer.evaluated(4)
        assert writer.best_evaluation("mAP") == 0.5
        writer.write(3, {"loss/total": 7.0})
    records = read_records(tmp_path / "metrics.jsonl")
    training = [(r["phase"], r["step"]) for r in records if "evaluation" not in r]
    assert training == [("pretrain", s) for s in (1, 2, 3, 4)] + [("finetune", s) for s in (1, 2, 3)]
    assert records[-1]["loss/total"] == 7.0


def test_a_phase_that_starts_again_drops_the_later_ones(tmp_path):
    fill(tmp_path)
    with MetricWriter(tmp_path, PHASES, "pretrain", 0) as writer:
        assert writer.best_evaluation("mAP") == -math.inf
    assert read_records(tmp_path / "metrics.jsonl") == []


def test_a_full_disk_is_named(tmp_path):
    with (
        pytest.raises(
            TrainingError, match=r"metrics.jsonl: cannot write metrics \(No space left on device\)"
        ),
        MetricWriter(tmp_path, PHASES, "pretrain", 0) as writer,
    ):
        writer._file.close()
        writer._file = open("/dev/full", "a")  # noqa: SIM115, the writer closes it
        writer.write(1, {"loss/total": 1.0})
