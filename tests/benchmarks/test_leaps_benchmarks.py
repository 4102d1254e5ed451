"""What is measured of LEAPS: boxes by their score, systems in turns."""

import io

import numpy as np
from PIL import Image

from benchmarks import systems
from benchmarks.boxes_by_score import boxes_picture, count_boxes

PEOPLE = np.array([[10.0, 10, 30, 60], [60, 10, 80, 60]])
BOX = np.array([[10.0, 10, 30, 60], [10, 10, 30, 50], [10, 10, 30, 40], [61, 10, 81, 60], [0, 0, 5, 5]])
SCORE = np.array([0.9, 0.05, 0.02, 0.008, -1.0])


def test_boxes_are_counted_by_score_and_overlap():
    """Overlaps with the first person 1, 0.8 and 0.6; with the second 19/21."""
    lines = count_boxes(BOX, SCORE, PEOPLE, (0.1, 0.01, 0.001))
    assert lines == [("0.1", "1", "1", "1"), ("0.01", "3", "2", "1"), ("0.001", "4", "3", "2")]


def test_a_panel_for_each_threshold_shows_its_boxes():
    image = np.full((80, 100, 3), 128, np.uint8)
    picture = Image.open(io.BytesIO(boxes_picture(image, BOX, SCORE, (0.1, 0.001))))
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    blue = (
        np.abs(pixels - [0x4B, 0xC0, 0xF7]).sum(axis=-1) < 30
    )  # the third colour: only the second panel has it
    middle = pixels.shape[1] // 2
    assert blue[:, middle:].sum() > 50 and not blue[:, :middle].any()


def test_systems_are_timed_against_the_first_and_beside_the_papers_times():
    rows = {"AlignPS": lambda: lambda: np.ones(3), "new": lambda: lambda: np.ones(3)}
    lines = systems.time_systems(rows, rounds=3)
    assert [line[0] for line in lines] == ["AlignPS", "new"]
    assert lines[0][2:] == ("1.00", "61") and float(lines[1][2]) > 0 and lines[1][3] == ""
    named = systems.systems(tiny=True)
    assert set(systems.PAPER) <= set(named) and len(named) == 3 + 7 + 2 + 3
