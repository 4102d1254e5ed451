"""Search with numbers worked out by hand; the edge cases of the protocol are in test_protocol_edge_cases.py."""

import numpy as np
import pytest
from search_cases import BOX, FAR, LOW, listed, scene, search, split_of, table_of

from input_pipeline.scenes import Gallery, GalleryItem, Person, Query, Scene, Split
from ps_jax.errors import ConfigError, DataError
from ps_jax.evaluation.protocols import gallery_names, search_task
from ps_jax.evaluation.search import evaluate_search, similarity_rows


def test_nobody_to_find_is_zero_and_counts():
    split = split_of([scene("q", 1), scene("a")], listed(("a", False)))
    result = evaluate_search(search_task(split, "listed"), [(table_of([], [(FAR, 0.9)]), np.array([0.9]))])
    assert (result.mean_average_precision, len(result.rankings)) == (0.0, 1)
    assert (len(result.answerable.rankings), result.answerable.mean_average_precision) == (0, 0.0)


def test_top_5_and_10():
    split = split_of([scene("q", 1), scene("a", 1)], listed(("a", True)))
    for wrong, hits in ((0, (1, 1, 1)), (4, (0, 1, 1)), (5, (0, 0, 1)), (10, (0, 0, 0))):
        found = [(FAR, 0.9 - 0.01 * i) for i in range(wrong)] + [(BOX, 0.1)]
        ranking = search(search_task(split, "listed"), table_of([], found))
        assert tuple(map(int, ranking.hits)) == hits
        assert ranking.ap == pytest.approx(1 / (wrong + 1))
        assert len(ranking.scene) == min(10, wrong + 1)  # fewer than ten are no problem


def test_rule_takes_the_first_box_of_a_person_annotated_twice():
    twice = Scene("a", "a", 720, 1280, (Person(FAR, 2), Person(LOW, 1), Person(BOX, 1)))
    task = search_task(split_of([scene("q", 1), twice], Gallery("g", (Query("q", BOX, 1),))), "g")
    assert task.items[0].box.tolist() == [list(LOW)]
    assert task.items[0].weight.tolist() == [1]


def test_options_need_what_the_data_has():
    split = split_of([scene("q", 1), scene("a", 1)], listed(("a", True)))
    with pytest.raises(ConfigError, match="cross_camera: made has no camera numbers"):
        search_task(split, "listed", cross_camera=True)
    with pytest.raises(ConfigError, match="min_frame_gap: made has no frame numbers"):
        search_task(split, "listed", min_frame_gap=125)
    with pytest.raises(ConfigError, match="min_frame_gap: -1 is negative"):
        search_task(split, "listed", min_frame_gap=-1)


def test_full_scopes():
    scenes = [scene("q", 1), scene("a", 1), scene("b"), scene("c")]
    split = split_of(scenes, listed(("b", False), ("a", True)))
    assert search_task(split, "listed").items[0].scene.tolist() == [2, 1]
    full = search_task(split, "listed:full").items[0]
    assert full.scene.tolist() == [2, 1, 3]
    assert full.positive.tolist() == [1]
    repeated = search_task(split, "listed:full_repeated").items[0]
    assert repeated.scene.tolist() == [1, 2, 3, 2, 1]
    assert repeated.positive.tolist() == [4]
    table = table_of([], [(BOX, 0.9)], [], [])
    assert search(search_task(split, "listed:full"), table).ap == 1.0
    assert search(search_task(split, "listed:full_repeated"), table).ap == 0.5


def test_gallery_names():
    scenes = [scene("q", 1), scene("a", 1), scene("b")]
    large = Gallery("TestG100", (Query("q", BOX, 1),), ((GalleryItem("a", BOX), GalleryItem("b")),))
    small = Gallery("TestG50", (Query("q", BOX, 1),), ((GalleryItem("a", BOX),),))
    split = split_of(scenes, large, small)
    assert gallery_names(split, ("default",)) == ["TestG100"]
    assert gallery_names(split, ("all",)) == ["TestG50", "TestG100"]
    assert gallery_names(split, ("TestG50", "TestG100:full", "TestG50")) == ["TestG50", "TestG100:full"]
    for wanted in ("TestG4000", "TestG50:half"):
        with pytest.raises(ConfigError, match=f"'{wanted}' is unknown; made test has TestG100, TestG50 "):
            gallery_names(split, (wanted,))
    with pytest.raises(ConfigError, match="no gallery is named"):
        gallery_names(split, ())
    with pytest.raises(DataError, match="made test: this partition has no queries"):
        gallery_names(Split("made", "test", tuple(scenes)), ("default",))


def test_errors_name_the_gallery():
    scenes = [scene("q", 1), scene("a", 1)]
    with pytest.raises(DataError, match="made test, gallery g: there are no queries"):
        search_task(split_of(scenes, Gallery("g", (), ())), "g")
    with pytest.raises(DataError, match="gallery g: every query's gallery is empty"):
        search_task(split_of(scenes, Gallery("g", (Query("q", BOX, 1),), ((),))), "g")
    with pytest.raises(DataError, match="gallery listed, query 0: scene 'away' is not among the 2 scenes"):
        search_task(split_of(scenes, listed(("a", True), query="away")), "listed")
    with pytest.raises(DataError, match="gallery listed, query 0: scene 'b' is not among the 2 scenes"):
        search_task(split_of(scenes, listed(("a", True), ("b", False))), "listed")


def test_similarity_rows_in_blocks():
    rng = np.random.default_rng(0)
    query, feature = rng.normal(size=(7, 5)), rng.normal(size=(11, 5))
    rows = np.stack(list(similarity_rows(query, feature, block=3)))
    np.testing.assert_allclose(rows, query @ feature.T, atol=1e-14)
