"""The eleven edge cases of the CUHK-SYSU and PRW protocols, in order, with numbers worked out by hand."""

import numpy as np
import pytest
from evaluation_fakes import ColorSystem, DrawnSource, make_split, perfect_variables
from PIL import Image
from search_cases import (
    BOX,
    CONTEXT,
    FAR,
    LOW,
    POOR,
    context_case,
    listed,
    scene,
    search,
    split_of,
    table_of,
)

from input_pipeline.scenes import Gallery, GalleryItem, Query, Split
from ps_jax.errors import ConfigError
from ps_jax.evaluation import evaluate
from ps_jax.evaluation.cbgm import ContextMatching, context_features
from ps_jax.evaluation.detection import evaluate_detection, match_best
from ps_jax.evaluation.protocols import search_task
from ps_jax.evaluation.search import evaluate_search, iou_thresholds
from ps_jax.evaluation.table import make_table


def test_01_a_scene_without_detections_lowers_the_recall():
    split = split_of([scene("q", 1), scene("a", 1), scene("b", 1)], listed(("a", True), ("b", True)))
    ranking = search(search_task(split, "listed"), table_of([], [(BOX, 0.8)], []))
    assert (ranking.positives, ranking.found, ranking.ap) == (2, 1, 0.5)
    assert ranking.hits == (True, True, True)
    assert ranking.scene.tolist() == [1]  # no entry of scene b
    # Detection over the same scenes: one of two people.
    person, nothing = np.array([BOX]), np.zeros((0, 4))
    result = evaluate_detection([(person, person, np.array([0.9])), (person, nothing, np.zeros(0))], 0.5)
    assert (result.people, result.found, result.recall, result.ap) == (2, 1, 0.5, 0.5)


def test_02_a_repeated_scene_counts_twice_but_is_searched_once():
    split = split_of([scene("q", 1), scene("a", 1)], listed(("a", True), ("a", True)))
    ranking = search(search_task(split, "listed"), table_of([], [(BOX, 0.8), (FAR, 0.1)]))
    assert (ranking.positives, ranking.found) == (2, 1)
    assert ranking.ap == 0.5  # 1 of the list, times 1 / 2
    assert len(ranking.scene) == 2


def test_03_one_right_detection_a_person():
    split = split_of([scene("q", 1), scene("a", 1), scene("b", 1)], listed(("a", True), ("b", True)))
    # Two detections of scene a overlap the person by 1; the more similar one is right, the other wrong.
    found = [(BOX, 0.3), (BOX, 0.8), (FAR, 0.5)], [(BOX, 0.2)]
    ranking = search(search_task(split, "listed"), table_of([], *found))
    assert ranking.correct.tolist() == [True, False, False, True]
    assert ranking.similarity.tolist() == [0.8, 0.5, 0.3, 0.2]
    assert ranking.ap == 0.5 * 1 + 0.5 * 2 / 4


def test_04_the_most_similar_misses_the_person_and_the_next_hits():
    split = split_of([scene("q", 1), scene("a", 1)], listed(("a", True)))
    ranking = search(search_task(split, "listed"), table_of([], [(POOR, 0.9), (LOW, 0.6), (BOX, 0.5)]))
    assert ranking.correct.tolist() == [False, True, False]
    assert ranking.hits == (False, True, True)
    assert ranking.ap == 0.5


def test_05_small_people_need_less_overlap():
    small = np.array([[0.0, 0, 10, 20], [0.0, 0, 100, 200], [0.0, 0, 45, 45]])
    # The last one: 2025 / 3025 = 0.669 is above 0.5.
    np.testing.assert_allclose(iou_thresholds(small, "variable"), [200 / 600, 0.5, 0.5], atol=1e-15)
    np.testing.assert_array_equal(iou_thresholds(small, "fixed"), 0.5)
    gallery = Gallery("g", (Query("q", BOX, 1),), ((GalleryItem("a", (0.0, 0, 10, 20)),),))
    task = search_task(split_of([scene("q", 1), scene("a", 1)], gallery), "g")
    third = (0.0, 0.0, 10.0, 6.8)  # overlap 0.34
    assert search(task, table_of([], [(third, 0.9)])).ap == 1.0
    assert search(task, table_of([], [(third, 0.9)]), "fixed").ap == 0.0
    less = (0.0, 0.0, 10.0, 6.6)  # overlap 0.33 is too little
    assert search(task, table_of([], [(less, 0.9)])).ap == 0.0
    with pytest.raises(ConfigError, match=r"eval\.iou: 'loose' is unknown; choose one of variable, fixed"):
        search(task, table_of([], []), "loose")


def test_06_nothing_found_is_zero_without_asking_for_an_average_precision(monkeypatch):
    monkeypatch.setattr("ps_jax.evaluation.search.average_precision", None)  # a call would fail
    split = split_of([scene("q", 1), scene("a", 1)], listed(("a", True)))
    task = search_task(split, "listed")
    for table in (table_of([], []), table_of([], [(FAR, 0.9)]), table_of([(BOX, 0.9)], [])):
        ranking = search(task, table)
        assert (ranking.ap, ranking.hits, ranking.found) == (0.0, (False, False, False), 0)


THREE = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])  # the query and two companions


def test_07_context_matching_with_fewer_detections_than_people():
    items, table, similarity, feature = context_case([(0.5, 0.0), (0.1, 0.9)])
    changed = ContextMatching(k1=5, k2=3).rematch(items, table, similarity, feature, THREE)
    # Edges: query 0.5, 0.1; companions 0, 0.9 and 0.3, 0.78. Query - 0 and first companion - 1 weigh 1.4,
    # query - 0 and second companion - 1 1.28, and without the query 0.3 + 0.9 = 1.2.
    assert changed.tolist() == [0.9, 0.1]


def test_07_context_matching_with_the_query_unmatched():
    # One detection, which the companion takes: 0.9 against 0.3. Nothing changes.
    items, table, similarity, feature = context_case([(0.3, 0.9)])
    changed = ContextMatching(k1=5, k2=2).rematch(items, table, similarity, feature, CONTEXT)
    assert changed.tolist() == [0.3]
    # Two detections, which the two companions take: 0.36 + 0.9 against 0.2 + 0.9 with the query.
    items, table, similarity, feature = context_case([(0.2, 0.3), (0.1, 0.9)])
    changed = ContextMatching(k1=5, k2=3).rematch(items, table, similarity, feature, THREE)
    assert changed.tolist() == [0.2, 0.1]


def test_07_context_matching_with_several_of_the_best_detections_in_a_scene():
    # The two best detections lie in scene 0; scene 1 comes third.
    items, table, similarity, feature = context_case([(0.5, 0.0), (0.45, 0.9)], [(0.4, 0.0), (0.0, 0.8)])
    released = ContextMatching(k1=2, k2=2).rematch(items, table, similarity, feature, CONTEXT)
    assert released.tolist() == [0.9, 0.45, 0.4, 0.0]  # two detections, one scene
    paper = ContextMatching(k1=2, k2=2, candidates="scenes")
    assert paper.rematch(items, table, similarity, feature, CONTEXT).tolist() == [0.9, 0.45, 0.8, 0.0]


def rule_split() -> Split:
    scenes = [
        scene("q", 1, camera=1, sequence="c1s1", frame=1000),
        scene("near", 1, camera=1, sequence="c1s1", frame=1124),
        scene("edge", 1, camera=1, sequence="c1s1", frame=875),
        scene("other", 1, 2, camera=2, sequence="c2s1", frame=1001),
        scene("empty", camera=3, sequence="c3s1", frame=7),
    ]
    return split_of(scenes, Gallery("default", (Query("q", BOX, 1),)))


@pytest.mark.parametrize(
    ("options", "scenes", "positives", "ap"),
    [
        ({}, [1, 2, 3, 4], 3, 2 / 3),  # the own scene is out, the own camera is not
        ({"cross_camera": True}, [3, 4], 1, 0.0),
        (
            {"min_frame_gap": 125},
            [2, 3, 4],
            2,
            0.5,
        ),  # 124 frames away is out, 125 is in, other recordings stay
        ({"min_frame_gap": 126}, [3, 4], 1, 0.0),
        ({"cross_camera": True, "min_frame_gap": 125}, [3, 4], 1, 0.0),
    ],
)
def test_08_galleries_by_rule(options, scenes, positives, ap):
    task = search_task(rule_split(), "default", **options)
    assert task.items[0].scene.tolist() == scenes
    assert task.items[0].weight.sum() == positives
    assert (task.items[0].box == BOX).all()
    shown = [rule_split().scenes[s].name for s in task.items[0].scene[task.items[0].positive]]
    assert shown == [
        n for n in ("near", "edge", "other") if n in [rule_split().scenes[s].name for s in scenes]
    ]
    # Found in the own scene, where it does not count, and in the two other scenes of the own camera.
    table = table_of([(BOX, 1.0)], [(BOX, 0.9)], [(BOX, 0.8)], [], [(FAR, 0.1)])
    ranking = search(task, table)
    assert (ranking.ap, 0 in ranking.scene) == (ap, False)


def test_09_ties():
    # Equal similarity in scenes a (wrong) and b (right): one threshold, precision 1/2 either way.
    split = split_of([scene("q", 1), scene("a"), scene("b", 1)], listed(("a", False), ("b", True)))
    ranking = search(search_task(split, "listed"), table_of([], [(FAR, 0.7)], [(BOX, 0.7)]))
    assert ranking.ap == 0.5
    assert ranking.scene.tolist() == [1, 2]  # earlier in the gallery first
    assert ranking.hits == (False, True, True)
    other = split_of(split.scenes, listed(("b", True), ("a", False)))
    ranking = search(search_task(other, "listed"), table_of([], [(FAR, 0.7)], [(BOX, 0.7)]))
    assert (ranking.ap, ranking.scene.tolist(), ranking.hits[0]) == (0.5, [2, 1], True)
    # Within a scene the detection of the higher score, the first, is the right one.
    single = split_of([scene("q", 1), scene("a", 1)], listed(("a", True)))
    ranking = search(search_task(single, "listed"), table_of([], [(LOW, 0.7), (BOX, 0.7)]))
    assert ranking.correct.tolist() == [True, False]


def test_10_fewer_than_ten_ranked_detections(tmp_path):
    split = split_of([scene("q", 1), scene("a", 1)], listed(("a", True)))
    ranking = search(search_task(split, "listed"), table_of([], [(FAR, 0.9), (BOX, 0.5), (FAR, 0.4)]))
    assert (len(ranking.scene), ranking.correct.tolist()) == (3, [False, True, False])
    assert (ranking.hits, ranking.ap) == ((False, True, True), 0.5)
    # Nor do the pictures of the first ten mind: here a gallery is one scene with three detections.
    drawn = make_split(scenes=2)
    options = {"pictures": 1}
    results = evaluate(ColorSystem(), perfect_variables(drawn), DrawnSource(drawn), options, tmp_path)
    assert results["search"]["rule"]["scenes"] == 1.0
    with Image.open(tmp_path / "pictures" / "rule_01.png") as sheet:
        assert sheet.width == 5 * (120 + 10) + 40  # the query, whom to find, three answers


def test_11_lists_without_any_detection():
    nobody = np.zeros((0, 4))
    assert match_best(nobody, nobody).tolist() == []
    assert match_best(np.array([BOX]), nobody).tolist() == []
    assert match_best(nobody, np.array([BOX])).tolist() == [False]
    result = evaluate_detection([(np.array([BOX]), nobody, np.zeros(0))], 0.5)
    assert (result.people, result.found, result.recall, result.ap, result.rap) == (1, 0, 0.0, 0.0, 0.0)
    # A whole partition in which nobody was detected, with and without context matching.
    empty = make_table([(nobody, np.zeros(0), np.zeros((0, 2)))] * 3)
    split = split_of([scene("q", 1), scene("a", 1), scene("b")], listed(("a", True), ("b", False)))
    task = search_task(split, "listed")
    similarity, feature = np.zeros(0), np.zeros((0, 2))
    context = context_features(np.array([1.0, 0.0]), BOX, empty, 0, k2=3)
    assert context.tolist() == [[1.0, 0.0]]  # the query alone
    for candidates in ("detections", "scenes"):
        matching = ContextMatching(10, 3, candidates)
        changed = matching.rematch(task.items[0], empty, similarity, feature, context)
        assert changed.tolist() == []
        result = evaluate_search(task, [(empty, changed)])
        assert (result.mean_average_precision, result.top) == (0.0, {1: 0.0, 5: 0.0, 10: 0.0})
