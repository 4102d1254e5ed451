"""A drawn pair of scenes that context matching finds the query in, and single-point search does not."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import context_scenes
from benchmarks.context_scenes import FRIEND, SHE, STRANGER


@pytest.fixture(scope="module")
def case():
    return context_scenes.make_case()


def test_similarities_of_the_drawn_people(case):
    assert case.query.identities == (SHE, FRIEND)
    assert case.gallery.identities == (SHE, FRIEND, STRANGER)
    expected = [[0.231, 0.516, 0.202], [0.100, 0.870, 0.030]]
    np.testing.assert_allclose(case.weights, expected, atol=5e-3)


def test_single_point_search_fails_by_far(case):
    assert case.before.hits == (False, True, True)
    assert case.before.ap == 0.5
    assert case.before.correct.tolist() == [False, True, False]  # her friend, she, the stranger
    assert case.weights[0, 1] - case.weights[0, 0] > 0.25


def test_context_matching_succeeds_by_far(case):
    assert case.pairs == (SHE, FRIEND)
    straight, crossed = case.weights[[0, 1], [0, 1]].sum(), case.weights[[0, 1], [1, 0]].sum()
    assert straight == pytest.approx(1.101, abs=5e-3)
    assert crossed == pytest.approx(0.616, abs=5e-3)
    assert case.after.hits == (True, True, True)
    assert case.after.ap == 1.0
    # Her similarity is the best of the matching now, the others' are what they were.
    expected = [case.weights[1, 1], case.weights[0, 1], case.weights[0, 2]]
    np.testing.assert_allclose(case.after.similarity, expected, atol=1e-12)


def test_numbers_and_picture(tmp_path, capsys):
    out = tmp_path / "pair.png"
    assert context_scenes.main(["--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "single point: average precision 0.50, first right: False, ranked 0.516, 0.231, 0.202" in printed
    assert (
        "context matching: average precision 1.00, first right: True, ranked 0.870, 0.516, 0.202" in printed
    )
    assert out.stat().st_size < 150_000
    with Image.open(out) as file:
        pixels = np.asarray(file.convert("RGB")).astype(int)
    height, width = context_scenes.SIZE
    assert pixels.shape[0] > 2 * height and pixels.shape[1] > 2 * width
    # The wrong choice is framed red in the upper half, the right one green in the lower.
    for color, more, less in (((200, 40, 40), 0, 1), ((24, 140, 66), 1, 0)):
        near = [(np.abs(half - color).max(-1) < 12).sum() for half in np.array_split(pixels, 2)]
        assert near[more] - near[less] > 1000
    assert context_scenes.main(["--out", str(tmp_path / "none" / "pair.png")]) == 2
    assert "cannot be written" in capsys.readouterr().err
