"""The pages build without a warning, and the tutorial runs from its first cell to its last."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The tutorial at a size for tests: as tests/test_whole_run.py, two steps, everything found counts.
SMALL = """
config.unlock()
config.data.update(max_people=4, resize=(96, 128))
config.data.streets.update(
    height=96, width=128, train_scenes=24, test_scenes=10, train_identities=8, test_identities=4, cameras=2,
    people=(2, 3), gallery_sizes=(4, 8),
)
config.finetune.update(epochs=0.67, crop=96, batch_size=4, log_every=1, checkpoint_every=2)
config.eval.update(score_threshold=0.0, pictures=2)
config.lock()
"""


def test_pages_and_reference_build_without_a_warning(tmp_path):
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "-d",
        tmp_path / "trees",
    ]
    done = subprocess.run(
        [*command, ROOT / "docs", tmp_path / "html"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reference = (tmp_path / "html" / "api.html").read_text()
    assert "ps_jax.search.finding.find" in reference and "ps_jax.interface.Detections" in reference
    for page in (
        "quick_start",
        "search",
        "own_data",
        "port_checkpoint",
        "add_system",
        "add_dataset",
        "protocol",
        "faq",
    ):
        assert (tmp_path / "html" / f"{page}.html").is_file()


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
    cells = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())["cells"]
    programs = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    programs.insert(1, SMALL)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(programs)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "people in 10 pictures; the next run has 0 files to do" in done.stdout
    answers = json.loads((tmp_path / "runs" / "tutorial" / "answers" / "answers.json").read_text())["answers"]
    assert len(answers) == 9 and done.stdout.rstrip().endswith("index.html")
