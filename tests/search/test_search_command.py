"""The command line of the search, with the model replaced by one that knows colours."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from search_fakes import ColourDetector, draw_scene, make_folder, save

from ps_jax.errors import ConfigError, DataError, GalleryError
from ps_jax.search import commands
from ps_jax.search.stores import locked

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a command; what it prints."""
    monkeypatch.setattr(commands, "load_detector", lambda *_, **__: ColourDetector(stride=32))
    monkeypatch.setattr("ps_jax.training.enable_compilation_cache", lambda: None)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        options = commands.parser("help").parse_args(list(map(str, arguments)))
        return options.run(options)

    return call


@pytest.fixture
def indexed(run, tmp_path):
    shown = make_folder(tmp_path / "pictures")
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"no picture")
    run("index", "pictures", "--model", "model", "--gallery", "g")
    return shown


def test_index_says_what_it_did(run, tmp_path, capsys):
    make_folder(tmp_path / "pictures")
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"no picture")
    said = run("index", "pictures", "--model", "model", "--gallery", "g")
    assert said == (
        "g: 12 scenes of 13 files looked at, 28 people found; 0 files unchanged, 0 gone, 1 damaged in all; 28 people "
        "in the gallery"
    )
    listed = f"damaged: {tmp_path}/pictures/broken.jpg: this is no picture"
    assert listed in capsys.readouterr().err
    again = run("index", "pictures", "--model", "model", "--gallery", "g")
    assert again.startswith(
        "g: 0 scenes of 0 files looked at, 0 people found; 13 files unchanged, 0 gone, 1 damaged"
    )
    assert listed in capsys.readouterr().err  # whenever its folder is indexed


def test_one_index_at_a_time(run, indexed):
    with locked("g"), pytest.raises(GalleryError, match="g: another index is at work on this gallery"):
        run("index", "pictures", "--model", "model", "--gallery", "g")
    assert "28 people in the gallery" in run("index", "pictures", "--model", "model", "--gallery", "g")


def test_without_a_box_the_detections_are_numbered(run, indexed, tmp_path):
    query = save(draw_scene({2: 50.0, 4: 120.0}), tmp_path / "query.png")
    said = run("find", "--gallery", "g", "--query", query, "--out", "out").splitlines()
    assert said[0] == f"{query}: 2 people, drawn in out/people_1.jpg"
    assert said[1] == "   1  score 0.95  box 50 30 70 90" and said[2] == "   2  score 0.90  box 120 30 140 90"
    with Image.open(tmp_path / "out" / "people_1.jpg") as drawn:
        assert drawn.size == (200, 120)
    assert not (tmp_path / "out" / "index.html").exists()


def test_picks_and_boxes_find_the_same(run, indexed, tmp_path):
    query = save(draw_scene({2: 50.0, 4: 120.0}), tmp_path / "query.png")
    options = ("find", "--gallery", "g", "--query", query, "--count", 5)
    said = run(*options, "--pick", 1)
    assert said.splitlines()[-1] == "written to runs/search/query: index.html, answers.json"
    picked = json.loads((tmp_path / "runs/search/query/answers.json").read_text())
    run(*options, "--box", 50, 30, 70, 90, "--out", "boxed")
    boxed = json.loads((tmp_path / "boxed/answers.json").read_text())
    assert picked == boxed and len(boxed["answers"]) == 5
    assert boxed["search"]["search"] == "exact" and boxed["search"]["people"] == 28
    run(*options, "--pick", 1, "--query", query, "--pick", 1, "--cbgm", "5,2", "--out", "twice")
    twice = json.loads((tmp_path / "twice/answers.json").read_text())
    assert twice["queries"] == ["query.png"] * 2 and twice["search"]["cbgm"].startswith("k1=5 k2=2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pick", "3"], "--pick 3: 2 people are detected"),
        (["--pick", "0"], "--pick 0: 2 people are detected"),
        (["--pick", "1", "--pick", "2"], "2 times --pick for 1 times --query"),
        (["--pick", "1", "--box", "1", "2", "3", "4"], "give one of them"),
        (["--pick", "1", "--count", "0"], "wanted is at least one answer"),
        (["--box", "500", "2", "600", "4"], "outside the picture"),
    ],
)
def test_mistakes_in_queries(run, indexed, tmp_path, arguments, message):
    query = save(draw_scene({2: 50.0, 4: 120.0}), tmp_path / "query.png")
    with pytest.raises((ConfigError, DataError), match=message):
        run("find", "--gallery", "g", "--query", query, *arguments)


def test_missing_things(run, indexed, tmp_path):
    with pytest.raises(DataError, match=r"--query none.png: cannot be read"):
        run("find", "--gallery", "g", "--query", "none.png")
    query = save(draw_scene({2: 50.0}), tmp_path / "query.png")
    with pytest.raises(
        GalleryError, match=r"nowhere: there is no gallery here; make it with python search.py index"
    ):
        run("find", "--gallery", "nowhere", "--query", query)


def test_bad_numbers_are_refused_by_the_parser(run, capsys):
    for arguments in (["--after", "yesterday"], ["--cbgm", "10"], ["--box", "1", "2"]):
        with pytest.raises(SystemExit):
            run("find", "--gallery", "g", "--query", "q.png", *arguments)
    assert "'yesterday' is no date such as 2024-05-17" in capsys.readouterr().err


def test_what_is_printed_can_be_printed(monkeypatch, capsys):
    class Options:
        @staticmethod
        def run(options):
            return "first\nto \udcff\x1b[2J.png"

    class Parser:
        @staticmethod
        def parse_args(arguments):
            return Options

    monkeypatch.setattr(commands, "parser", lambda description: Parser)
    runpy.run_path(str(ROOT / "search.py"))["main"]([])
    assert capsys.readouterr().out == "first\nto \\udcff\\x1b[2J.png\n"


def test_the_program_has_one_message_for_what_the_user_can_mend(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "search.py"),
        "index",
        "pictures",
        "--gallery",
        "g",
        "--model",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(f"search.py: {tmp_path}: there is no checkpoint")
    assert list(tmp_path.iterdir()) == []
