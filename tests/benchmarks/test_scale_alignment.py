"""The comparison of levels at two sizes; with ImageNet weights where PS_JAX_TRUNK_WEIGHTS names MobileNetV2's."""

import os
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import scale_alignment
from benchmarks.scale_alignment import (
    LEVELS,
    SYSTEM_SIZES,
    TOGETHER,
    TRUNK_SIZES,
    compare,
    draw_scenes,
    embed,
    imagenet_trunk,
    make_figures,
    retrieval_picture,
    retrieval_table,
    retrieve,
    trained_systems,
)
from configs.tables import alignps_table1


def test_the_same_people_stand_in_the_middle_of_their_places_at_both_sizes():
    figures = make_figures(6)
    assert len({look.top + look.accent for look in figures.looks}) == 6
    for street, height in ((0, 48), (1, 120)):
        pictures, boxes = draw_scenes(figures, street, height)
        assert pictures.shape == (1, 256, 384, 3) and pictures.dtype == np.uint8
        middle = (boxes[0, :, :2] + boxes[0, :, 2:]) / 2
        np.testing.assert_allclose(middle, [[32 + 64 * place, 128] for place in range(6)], atol=1)
        tall = boxes[0, :, 3] - boxes[0, :, 1]
        assert (np.abs(tall / height - 0.98) < 0.14).all(), tall / height


def test_levels_are_read_under_the_middle_of_the_box_and_weigh_the_same():
    maps = {name: np.zeros((1, 8 >> power, 8 >> power, 2), np.float32) for power, name in enumerate(LEVELS)}
    maps["c3"][0, 5, 2] = [3, 4]
    maps["c4"][0, 2, 1] = [0, 9]
    maps["c5"][0, 1, 0] = [-1, 0]
    box = np.array([[[10.0, 34.0, 30.0, 54.0]]])  # middle (20, 44): cell (5, 2) of stride 8
    features = embed(maps, box)
    centred = {"c3": [3 - 3 / 64, 4 - 4 / 64], "c4": [0, 9 - 9 / 16], "c5": [-1 + 1 / 4, 0]}
    unit = {name: np.array(value) / np.linalg.norm(value) for name, value in centred.items()}
    for name in LEVELS:
        np.testing.assert_allclose(features[name], [unit[name]], rtol=1e-6)
    together = np.concatenate([unit[name] for name in LEVELS]) / np.sqrt(3)
    np.testing.assert_allclose(features[TOGETHER], [together], rtol=1e-6)


def test_ranks_of_the_one_right_answer():
    queries = np.eye(3)
    gallery = np.array([[0.9, 0.1, 0], [0.2, 0.1, 0.3], [0, 0.3, 0.4]])
    found = retrieve(queries, gallery)
    assert found.top1 == pytest.approx(2 / 3)  # 0.9 first; 0.1 shared with another and behind 0.3; 0.4 first
    assert found.mean_ap == pytest.approx((1 + 1 / 2 + 1) / 3)


def test_trained_systems_embed_people_at_their_boxes(monkeypatch):
    """By the colours in the middle of their boxes most people are found at both sizes."""

    def colours(variables, scenes, boxes):
        middle = ((boxes[..., :2] + boxes[..., 2:]) / 2).astype(int)
        row = middle[..., 1:] + jnp.array([-6, 0, 6])  # within the smaller people, too
        taken = scenes.image[jnp.arange(len(boxes))[:, None, None], row, middle[..., :1]]
        return taken.reshape(*boxes.shape[:2], 9).astype(jnp.float32) * variables

    loaded = {"colours": (SimpleNamespace(embed=colours), 1.0, {})}
    monkeypatch.setattr(scale_alignment, "load_system", lambda workdir: loaded[workdir.name])
    results = compare(trained_systems([Path("runs/colours")]), 12, TRUNK_SIZES)
    assert set(results) == {"colours"}
    same, other = results["colours"]
    assert same.top1 > 0.6 and other.mean_ap > 0.4
    assert "| colours |" in retrieval_table(results, TRUNK_SIZES)
    assert retrieval_picture(results, TRUNK_SIZES)[1:4] == b"PNG"


def test_only_the_middle_pair_of_sizes_lies_on_two_levels():
    """All pairs differ by the same factor; the limit of small scenes is 32 pixels from the middle to a side."""
    limits = (32, 64)
    row = alignps_table1.get_table().row("P3, P4, P5")
    assert f"--config.model.size_limits={limits}" in row.overrides
    figures = make_figures(24)
    for pair, levels in zip(SYSTEM_SIZES, ([0, 0], [0, 1], [1, 1]), strict=True):
        assert pair[1] / pair[0] == pytest.approx(1.3, abs=0.02)
        for street, (height, level) in enumerate(zip(pair, levels, strict=True)):
            box = draw_scenes(figures, street, height)[1]
            furthest = np.max((box[..., 2:] - box[..., :2]) / 2, axis=-1)
            assert np.mean(np.digitize(furthest, limits) == level) > 0.9, (height, furthest)


def test_levels_side_by_side_find_people_at_another_size_that_none_alone_finds():
    """Of 96 people: what finds 93 at one size finds 13 at 2.5 times it; all levels together find 41 there."""
    weights = os.environ.get("PS_JAX_TRUNK_WEIGHTS")
    if not weights:
        pytest.skip("PS_JAX_TRUNK_WEIGHTS names no file with MobileNetV2's ImageNet weights")
    results = compare(imagenet_trunk(weights), 96, TRUNK_SIZES)
    found = {name: [96 * line.top1 for line in lines] for name, lines in results.items()}
    # One person more or less where rounding decides a near tie.
    assert found["c3"] == [pytest.approx(93, abs=1), pytest.approx(13, abs=1)]
    assert found["c4"] == [pytest.approx(78, abs=1), pytest.approx(29, abs=1)]
    assert found["c5"] == [pytest.approx(28, abs=1), pytest.approx(18, abs=1)]
    assert found[TOGETHER] == [pytest.approx(92, abs=1), pytest.approx(41, abs=1)]
    mean_ap = {name: 100 * lines[1].mean_ap for name, lines in results.items()}
    expected = {"c3": 28.4, "c4": 45.5, "c5": 32.8, TOGETHER: 58.8}
    assert mean_ap == {name: pytest.approx(value, abs=1.0) for name, value in expected.items()}
    assert "| c3 + c4 + c5 |" in retrieval_table(results, TRUNK_SIZES)
    assert retrieval_picture(results, TRUNK_SIZES)[:8] == b"\x89PNG\r\n\x1a\n"
