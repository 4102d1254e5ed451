"""The benchmark of models, in its tiny form, without PyTorch."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks.speed", "--tiny", "--rounds", "1", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_our_side_is_timed_alone_where_there_is_no_torch(tmp_path):
    done = run(
        "pairs", "--only", "ResNet-50 trunk, forward", "--threads", "1", "--out", str(tmp_path / "t.md")
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    head = "| work | images | ours ms (lowest - highest) | PyTorch ms (lowest - highest) | PyTorch / ours |"
    assert head in lines
    rows = lines[lines.index(head) + 2 :]
    assert [row.split(" | ")[0] for row in rows] == [
        "| ResNet-50 trunk, forward",
        "| ResNet-50 trunk, forward and gradient",
    ]
    assert all(row.endswith("|  | skipped: no --torch_python |") for row in rows)
    assert "1 of " in done.stdout and "cpu" in done.stdout
    assert (tmp_path / "t.md").read_text() == done.stdout


def test_an_interpreter_without_torch_is_one_message(tmp_path):
    for python, message in (
        (sys.executable, "speed: the PyTorch process ended; does its interpreter have torch?"),
        (
            str(tmp_path / "python"),
            f"speed: {tmp_path / 'python'}: cannot be run (No such file or directory)",
        ),
    ):
        done = run("pairs", "--torch_python", python)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == message


def test_unknown_modes_are_refused():
    done = run("paris")
    assert done.returncode == 2
    assert "'paris' is none of pairs, search, throughput" in done.stderr
