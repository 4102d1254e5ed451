"""Two processes index one folder into one gallery, each its own part."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from search_fakes import make_folder
from test_indexing import people_of

from ps_jax.search.stores import open_store

HERE = Path(__file__).parent


def index_together(folder):
    """Runs both processes; what they say."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    command = [sys.executable, str(HERE / "two_indexers.py")]
    processes = [
        subprocess.Popen(
            [*command, str(number), str(port), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(2)
    ]
    finished = [(*process.communicate(timeout=600), process.returncode) for process in processes]
    assert [code for _, _, code in finished] == [0, 0], finished
    return [said for said, _, _ in finished]


@pytest.mark.slow
def test_two_processes_index_one_folder(tmp_path):
    shown = make_folder(tmp_path / "pictures", 13)
    said = index_together(tmp_path)
    assert sorted(line.split(": ")[1].split(" scenes")[0] for line in said) == ["6", "7"]
    assert people_of(tmp_path / "g") == {(path, 0.0): sorted(people) for path, people in shown.items()}
    tables = {path.name for path in (tmp_path / "g").iterdir() if path.suffix == ".lance"}
    assert tables == {f"{kind}_{number:04d}.lance" for kind in ("people", "parts") for number in range(2)}
    again = index_together(tmp_path)
    assert all("0 scenes of 0 files looked at" in line for line in again)
    assert open_store(str(tmp_path / "g")).count() == sum(map(len, shown.values()))
