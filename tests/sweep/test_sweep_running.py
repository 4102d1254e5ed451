"""Running a sweep: order, going on, failures, interruption; with a fake training, and with the toy system."""

import dataclasses
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from toy_sweep import toy_sweep

from ps_jax.errors import ConfigError
from ps_jax.sweep import Row, Table
from ps_jax.sweep.records import FAILED, FINISHED, INTERRUPTED, Records
from ps_jax.sweep.running import Sweep, beside, run_sweep

HERE = Path(__file__).parent
FAKE = (sys.executable, str(HERE / "fake_training.py"))
CONFIG = str(HERE / "fake_training.py")  # any file that exists
METRICS = {"mAP": "search/*/mAP", "AP": "detection/AP"}


def sweep_of(out, *rows, seeds=1, only=None, **options):
    table = Table("Fake", "nobody", rows, METRICS)
    chosen = tuple(map(table.row, only)) if only else rows
    return Sweep(table, out, options.pop("runs_dir", out / "runs"), chosen, seeds, program=FAKE, **options)


def calls(sweep, row, seed=0):
    path = sweep.workdir(sweep.table.row(row), seed) / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_every_row_is_run_with_every_seed_and_recorded(tmp_path):
    rows = (Row("one", CONFIG, ("--config.mAP=0.5",)), Row("two", CONFIG, ("--config.mAP=0.25",)))
    sweep = sweep_of(tmp_path, *rows, seeds=2, arguments=("--config.x=1",), weights="w.npz")
    assert [(row.name, seed) for row, seed in sweep.runs()] == [
        ("one", 0),
        ("two", 0),
        ("one", 1),
        ("two", 1),
    ]
    assert run_sweep(sweep) == 0
    records = Records(tmp_path / "runs.jsonl")
    assert {one.status for row in rows for one in records.of(row.name)} == {FINISHED}
    assert records.get("two", 1).results == {"mAP": 0.26, "AP": 0.13}
    assert records.get("two", 1).versions["device"] == "fake"
    (line,) = calls(sweep, "one", 1)
    workdir = sweep.workdir(rows[0], 1)
    assert workdir.parent == tmp_path / "runs" and workdir.name.startswith("fake_training-")
    assert line == (
        f"--workdir {workdir} --config {CONFIG} --config.seed=1 --config.weights=w.npz --config.mAP=0.5 --config.x=1"
    )
    assert sweep.log(rows[0], 1).read_text().endswith("training\n")
    assert "| two |" in (tmp_path / "table.md").read_text()


def test_finished_runs_are_not_run_again_and_new_seeds_are(tmp_path, capsys):
    row = Row("one", CONFIG, ("--config.mAP=0.5",))
    sweep = sweep_of(tmp_path, row)
    run_sweep(sweep)
    before = Records(tmp_path / "runs.jsonl").get("one", 0)
    capsys.readouterr()
    assert run_sweep(sweep) == 0
    assert capsys.readouterr().out == ""
    assert run_sweep(sweep_of(tmp_path, row, seeds=2)) == 0
    assert len(calls(sweep, "one")) == len(calls(sweep, "one", 1)) == 1
    assert Records(tmp_path / "runs.jsonl").get("one", 0) == before


def test_a_failed_run_is_reported_the_others_run_and_it_is_tried_again(tmp_path, capsys):
    rows = (
        Row("bad", CONFIG, ("--config.mAP=0.5", "--config.fail_once=2")),
        Row("good", CONFIG, ("--config.mAP=0.5",)),
    )
    sweep = sweep_of(tmp_path, *rows)
    assert run_sweep(sweep) == 1
    records = Records(tmp_path / "runs.jsonl")
    bad = records.get("bad", 0)
    assert (bad.status, bad.exit_code) == (FAILED, 2)
    assert bad.message == "fake_training.py: the data are missing"
    assert records.get("good", 0).status == FINISHED
    assert f"exit code 2: {bad.message} ({sweep.log(rows[0], 0)})" in capsys.readouterr().out
    assert "- bad, seed 0: fake_training.py: the data are missing" in (tmp_path / "table.md").read_text()
    assert run_sweep(sweep) == 0
    assert (len(calls(sweep, "bad")), len(calls(sweep, "good"))) == (2, 1)
    again = Records(tmp_path / "runs.jsonl").get("bad", 0)
    assert again.status == FINISHED and again.minutes > bad.minutes
    assert "## Failed" not in (tmp_path / "table.md").read_text()


def test_a_run_without_the_tables_numbers_has_failed(tmp_path):
    row = Row("one", CONFIG, ("--config.mAP=0.5",))
    table = Table("Fake", "nobody", (row,), {"top-1": "search/*/top1"})
    assert run_sweep(Sweep(table, tmp_path, tmp_path / "runs", (row,), 1, program=FAKE)) == 1
    record = Records(tmp_path / "runs.jsonl").get("one", 0)
    assert (record.status, record.exit_code) == (FAILED, 0)
    assert record.message == "the results have no number at 'search/*/top1'"


def test_a_row_starts_from_the_work_directory_of_another_one(tmp_path):
    rows = (
        Row("first", CONFIG, ("--config.mAP=0.1",)),
        Row("other", CONFIG, ("--config.mAP=0.2",)),
        Row("second", CONFIG, ("--config.mAP=0.3", "--config.start={after}"), after="first"),
    )
    sweep = sweep_of(tmp_path, *rows, only=["second"])
    assert [row.name for row, _ in sweep.runs()] == ["first", "second"]
    assert run_sweep(sweep) == 0
    assert calls(sweep, "second")[0].endswith(f"--config.start={sweep.workdir(rows[0], 0)}")
    assert calls(sweep, "other") == []


def test_a_preparation_needs_no_results(tmp_path, capsys):
    rows = (
        Row("first", CONFIG, ("--config.mAP=none",), preparation=True),
        Row("second", CONFIG, ("--config.mAP=0.5",), after="first"),
    )
    assert run_sweep(sweep_of(tmp_path, *rows)) == 0
    first = Records(tmp_path / "runs.jsonl").get("first", 0)
    assert (first.status, first.results, first.versions) == (FINISHED, {}, {})
    assert "[1/2] first, seed 0: finished, 0.0 minutes\n" in capsys.readouterr().out
    assert (
        "| first |  |  | 1 | 0.0 |\n| second | 50.0 | 25.0 | 1 | 0.0 |" in (tmp_path / "table.md").read_text()
    )


def test_what_starts_from_a_failed_row_is_not_run(tmp_path):
    rows = (
        Row("first", CONFIG, ("--config.fail=2",)),
        Row("second", CONFIG, ("--config.mAP=0.3", "--config.start={after}"), after="first"),
    )
    sweep = sweep_of(tmp_path, *rows)
    assert run_sweep(sweep) == 2
    assert calls(sweep, "second") == []
    assert (
        Records(tmp_path / "runs.jsonl").get("second", 0).message
        == "it starts from first, which did not finish"
    )


def test_a_finished_run_with_other_arguments_is_an_error_before_anything_runs(tmp_path):
    run_sweep(sweep_of(tmp_path, Row("one", CONFIG, ("--config.mAP=0.5",))))
    changed = sweep_of(
        tmp_path, Row("new", CONFIG, ("--config.mAP=0.7",)), Row("one", CONFIG, ("--config.mAP=0.6",))
    )
    with pytest.raises(
        ConfigError, match=r"one, seed 0, was run with other arguments(.|\n)*Choose another --out"
    ):
        run_sweep(changed)
    assert calls(changed, "new") == []


def test_a_missing_configuration_file_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"one: there is no configuration file nowhere\.py"):
        run_sweep(sweep_of(tmp_path, Row("one", "nowhere.py:prw")))


def test_two_sweeps_do_not_work_in_one_directory(tmp_path):
    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another sweep"):
            run_sweep(sweep_of(tmp_path, Row("one", CONFIG, ("--config.mAP=0.5",))))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_and_the_sweep_and_both_go_on(tmp_path, number, capsys):
    rows = (
        Row("one", CONFIG, ("--config.mAP=0.5", "--config.sleep_once=60")),
        Row("two", CONFIG, ("--config.mAP=0.5",)),
    )
    sweep = sweep_of(tmp_path, *rows)

    def send_once_it_runs():
        log = sweep.log(rows[0], 0)
        while not (log.exists() and "training\n" in log.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=send_once_it_runs).start()
    with pytest.raises(SystemExit) as stopped:
        run_sweep(sweep)
    assert stopped.value.code == 128 + number
    record = Records(tmp_path / "runs.jsonl").get("one", 0)
    assert record.status == INTERRUPTED
    assert record.message == f"stopped by {number.name}; the same command goes on"
    assert calls(sweep, "two") == []
    assert run_sweep(sweep) == 0
    assert (len(calls(sweep, "one")), len(calls(sweep, "two"))) == (2, 1)


def test_tables_run_what_they_have_in_common_once(tmp_path):
    first = Row("first", CONFIG, ("--config.mAP=0.1",))
    second = Row("second", CONFIG, ("--config.mAP=0.3", "--config.start={after}"), after="first")
    renamed = dataclasses.replace(first, name="another name")
    one = sweep_of(tmp_path / "one", first, second, runs_dir=tmp_path / "runs")
    other = sweep_of(
        tmp_path / "other",
        renamed,
        dataclasses.replace(second, after="another name"),
        Row("own", CONFIG, ("--config.mAP=0.4",)),
        runs_dir=tmp_path / "runs",
    )
    assert run_sweep(one) == run_sweep(other) == 0
    assert [len(calls(one, "first")), len(calls(one, "second")), len(calls(other, "own"))] == [1, 1, 1]
    ran, taken = (Records(sweep.out / "runs.jsonl") for sweep in (one, other))
    assert taken.get("another name", 0).results == ran.get("first", 0).results == {"mAP": 0.1, "AP": 0.05}
    assert taken.get("second", 0) == ran.get("second", 0)


def test_a_run_whose_work_directory_is_gone_is_run_again(tmp_path):
    row = Row("one", CONFIG, ("--config.mAP=0.5",), preparation=True)
    sweep = sweep_of(tmp_path / "one", row, runs_dir=tmp_path / "runs")
    assert run_sweep(sweep) == 0
    shutil.rmtree(sweep.workdir(row, 0))
    again = sweep_of(tmp_path / "other", row, runs_dir=tmp_path / "runs")
    assert run_sweep(again) == 0
    assert len(calls(again, "one")) == 1


@pytest.mark.parametrize("signalled", [False, True])
def test_a_run_of_another_sweep_is_waited_for(tmp_path, signalled, capsys):
    row = Row("one", CONFIG, ("--config.mAP=0.5",))
    sweep = sweep_of(tmp_path, row)
    (tmp_path / "runs").mkdir()
    with open(beside(sweep.workdir(row, 0), ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def act_once_it_waits():
            while not (tmp_path / ".lock").exists():
                time.sleep(0.02)
            time.sleep(0.5)
            if signalled:
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                fcntl.flock(file, fcntl.LOCK_UN)

        thread = threading.Thread(target=act_once_it_waits)
        thread.start()
        if signalled:
            with pytest.raises(SystemExit):
                run_sweep(sweep)
        else:
            assert run_sweep(sweep) == 0
        thread.join()
    assert f"waiting: another sweep runs {sweep.workdir(row, 0)}" in capsys.readouterr().out
    status = Records(tmp_path / "runs.jsonl").get("one", 0).status
    assert (status, len(calls(sweep, "one"))) == ((INTERRUPTED, 0) if signalled else (FINISHED, 1))


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_where_its_training_was(tmp_path):
    """SIGTERM in the middle of the second row; the same command ends it, with no step taken twice."""
    command = [sys.executable, str(HERE / "toy_sweep.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    sweep = toy_sweep(tmp_path)
    metrics = sweep.workdir(sweep.table.row("slow"), 0) / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "slow, seed 0: interrupted" in output
    records = Records(tmp_path / "runs.jsonl")
    assert (records.get("one", 0).status, records.get("slow", 0).status) == (FINISHED, INTERRUPTED)
    assert records.get("slow", 0).exit_code == 143
    before = len(metrics.read_text().splitlines())
    assert before < 22

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "one, seed 0" not in done.stdout
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [(line["phase"], line["step"]) for line in lines if "evaluation" not in line]
    assert steps == [("pretrain", step + 1) for step in range(12)] + [
        ("finetune", step + 1) for step in range(9)
    ]
    after = Records(tmp_path / "runs.jsonl")
    assert after.get("slow", 0).minutes > records.get("slow", 0).minutes
    assert after.get("slow", 0).results == after.get("one", 0).results == {"mAP": 1 / (9 * 4)}


def test_a_row_can_be_another_evaluation_of_one_that_was_trained(tmp_path):
    rows = (
        Row("one", CONFIG, ("--config.mAP=0.5",)),
        Row("two", CONFIG, ("--config.mAP=0.3",)),
        Row(
            "one's boxes in two",
            CONFIG,
            ("--mAP", "0.7", "--detector", "{detector}"),
            after="two",
            evaluation=True,
            detector="one",
            metrics={"AP": ""},
        ),
    )
    evaluator = (sys.executable, str(HERE / "fake_evaluation.py"))
    sweep = sweep_of(
        tmp_path,
        *rows,
        only=["one's boxes in two"],
        arguments=("--config.eval.pictures=0", "--config.train.epochs=1"),
        weights="w.npz",
        evaluator=evaluator,
    )
    assert [row.name for row, _ in sweep.runs()] == ["one", "two", "one's boxes in two"]
    assert run_sweep(sweep) == 0
    record = Records(tmp_path / "runs.jsonl").get("one's boxes in two", 0)
    assert record.results == {"mAP": 0.7}  # AP is nowhere
    one, two, out = (sweep.workdir(row, 0) for row in rows)
    assert (out / "calls.txt").read_text().splitlines() == [
        f"--out {out} --workdir {two} --mAP 0.7 --detector {one} --config.eval.pictures=0"
    ]
    assert run_sweep(sweep) == 0 and len((out / "calls.txt").read_text().splitlines()) == 1  # not again


def test_an_evaluation_names_the_rows_it_is_of():
    with pytest.raises(ConfigError, match="'b' is an evaluation but names no row `after`"):
        Table("Fake", "nobody", (Row("b", CONFIG, evaluation=True),), METRICS)
    with pytest.raises(ConfigError, match=r"'b' has \{detector\} in it but names no row `detector`"):
        Table("Fake", "nobody", (Row("b", CONFIG, ("--detector={detector}",)),), METRICS)
    with pytest.raises(ConfigError, match="'b' comes after 'c', which is no earlier row"):
        Table("Fake", "nobody", (Row("a", CONFIG), Row("b", CONFIG, after="a", detector="c")), METRICS)
