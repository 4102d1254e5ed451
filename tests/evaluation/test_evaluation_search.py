"""Search with numbers worked out by hand: every edge case of the protocol."""

import numpy as np
import pytest

from input_pipeline.scenes import Gallery, GalleryItem, Person, Query, Scene, Split
from ps_jax.errors import ConfigError, DataError
from ps_jax.evaluation.cbgm import ContextMatching, best_matching, context_rows
from ps_jax.evaluation.protocols import gallery_names, search_task
from ps_jax.evaluation.search import evaluate_search, iou_thresholds, similarity_rows
from ps_jax.evaluation.table import make_table

BOX = (0.0, 0.0, 100.0, 200.0)
FAR = (500.0, 500.0, 600.0, 700.0)
LOW = (0.0, 0.0, 100.0, 120.0)  # overlaps BOX by 0.6
POOR = (0.0, 0.0, 100.0, 90.0)  # overlaps BOX by 0.45


def scene(name: str, *people: int, **known) -> Scene:
    return Scene(name, name, 720, 1280, tuple(Person(BOX, person) for person in people), **known)


def split_of(scenes, *galleries: Gallery) -> Split:
    return Split("made", "test", tuple(scenes), {g.name: g for g in galleries}, galleries[0].name)


def listed(*items: tuple[str, bool], query: str = "q") -> Gallery:
    boxes = tuple(GalleryItem(name, BOX if positive else None) for name, positive in items)
    return Gallery("listed", (Query(query, BOX, 1),), (boxes,))


def table_of(*scenes: list[tuple[tuple, float]]):
    """Table of [(box, similarity), ...] for each scene; the embedding of one number is the similarity."""
    return make_table(
        (
            np.array([box for box, _ in found], np.float64).reshape(-1, 4),
            np.full(len(found), 0.9),
            np.array([[value] for _, value in found], np.float64).reshape(-1, 1),
        )
        for found in scenes
    )


def search(task, table, iou="variable"):
    return evaluate_search(task, [(table, table.embedding[:, 0])] * len(task.queries), iou).rankings[0]


def test_scene_without_detections_lowers_the_recall():
    split = split_of([scene("q", 1), scene("a", 1), scene("b", 1)], listed(("a", True), ("b", True)))
    ranking = search(search_task(split, "listed"), table_of([], [(BOX, 0.8)], []))
    assert (ranking.positives, ranking.found, ranking.ap) == (2, 1, 0.5)
    assert ranking.hits == (True, True, True)
    assert ranking.scene.tolist() == [1]


def test_repeated_scene_counts_twice_but_is_searched_once():
    split = split_of([scene("q", 1), scene("a", 1)], listed(("a", True), ("a", True)))
    ranking = search(search_task(split, "listed"), table_of([], [(BOX, 0.8), (FAR, 0.1)]))
    assert (ranking.positives, ranking.found) == (2, 1)
    assert ranking.ap == 0.5
    assert len(ranking.scene) == 2


def test_one_right_detection_a_person():
    split = split_of([scene("q", 1), scene("a", 1)], listed(("a", True)))
    # Both overlap the person by 1; the more similar one is right, the other wrong: ranks 1 and 2.
    ranking = search(search_task(split, "listed"), table_of([], [(BOX, 0.3), (BOX, 0.8), (FAR, 0.5)]))
    assert ranking.correct.tolist() == [True, False, False]
    assert ranking.similarity.tolist() == [0.8, 0.5, 0.3]
    assert ranking.ap == 1.0


def test_most_similar_misses_the_person_and_the_next_hits():
    split = split_of([scene("q", 1), scene("a", 1)], listed(("a", True)))
    ranking = search(search_task(split, "listed"), table_of([], [(POOR, 0.9), (LOW, 0.6), (BOX, 0.5)]))
    assert ranking.correct.tolist() == [False, True, False]
    assert ranking.hits == (False, True, True)
    assert ranking.ap == 0.5


def test_small_people_need_less_overlap():
    small = np.array([[0.0, 0, 10, 20], [0.0, 0, 100, 200], [0.0, 0, 45, 45]])
    # The last one: 2025 / 3025 = 0.669 is above 0.5.
    np.testing.assert_allclose(iou_thresholds(small, "variable"), [200 / 600, 0.5, 0.5], atol=1e-15)
    np.testing.assert_array_equal(iou_thresholds(small, "fixed"), 0.5)
    gallery = Gallery("g", (Query("q", BOX, 1),), ((GalleryItem("a", (0.0, 0, 10, 20)),),))
    split = split_of([scene("q", 1), scene("a", 1)], gallery)
    third = (0.0, 0.0, 10.0, 6.8)  # overlap 0.34
    task = search_task(split, "g")
    assert search(task, table_of([], [(third, 0.9)])).ap == 1.0
    assert search(task, table_of([], [(third, 0.9)]), "fixed").ap == 0.0
    with pytest.raises(ConfigError, match=r"eval\.iou: 'loose' is unknown; choose one of variable, fixed"):
        search(task, table_of([], []), "loose")


def test_nothing_found_is_zero():
    split = split_of([scene("q", 1), scene("a", 1)], listed(("a", True)))
    task = search_task(split, "listed")
    for table in (table_of([], []), table_of([], [(FAR, 0.9)]), table_of([(BOX, 0.9)], [])):
        ranking = search(task, table)
        assert (ranking.ap, ranking.hits, ranking.found) == (0.0, (False, False, False), 0)


def test_nobody_to_find_is_zero_and_counts():
    split = split_of([scene("q", 1), scene("a")], listed(("a", False)))
    result = evaluate_search(search_task(split, "listed"), [(table_of([], [(FAR, 0.9)]), np.array([0.9]))])
    assert (result.mean_average_precision, len(result.rankings)) == (0.0, 1)
    assert (len(result.answerable.rankings), result.answerable.mean_average_precision) == (0, 0.0)


def test_ties():
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


def test_top_5_and_10():
    split = split_of([scene("q", 1), scene("a", 1)], listed(("a", True)))
    for wrong, hits in ((0, (1, 1, 1)), (4, (0, 1, 1)), (5, (0, 0, 1)), (10, (0, 0, 0))):
        found = [(FAR, 0.9 - 0.01 * i) for i in range(wrong)] + [(BOX, 0.1)]
        ranking = search(search_task(split, "listed"), table_of([], found))
        assert tuple(map(int, ranking.hits)) == hits
        assert ranking.ap == pytest.approx(1 / (wrong + 1))
        assert len(ranking.scene) == min(10, wrong + 1)  # fewer than ten are no problem


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
    ("options", "scenes", "positives"),
    [
        ({}, [1, 2, 3, 4], 3),  # the own scene is out, the own camera is not
        ({"cross_camera": True}, [3, 4], 1),
        ({"min_frame_gap": 125}, [2, 3, 4], 2),  # 124 frames away is out, 125 is in, other recordings stay
        ({"min_frame_gap": 126}, [3, 4], 1),
        ({"cross_camera": True, "min_frame_gap": 125}, [3, 4], 1),
    ],
)
def test_rule_galleries(options, scenes, positives):
    task = search_task(rule_split(), "default", **options)
    assert task.items[0].scene.tolist() == scenes
    assert task.items[0].weight.sum() == positives
    assert (task.items[0].box == BOX).all()
    shown = [rule_split().scenes[s].name for s in task.items[0].scene[task.items[0].positive]]
    assert shown == [
        n for n in ("near", "edge", "other") if n in [rule_split().scenes[s].name for s in scenes]
    ]


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


# Context matching. Features are two-dimensional: the query looks along x, its companion along y.


def context_case(*scenes: list[tuple[float, float]]):
    """A query, scenes whose detections have the given features; items, table, similarity, feature."""
    names = [f"s{i}" for i in range(len(scenes))]
    split = split_of(
        [scene("q", 1), *(scene(name) for name in names)], listed(*((name, False) for name in names))
    )
    features = [np.array(found, np.float64).reshape(-1, 2) for found in scenes]
    table = make_table(
        [(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 2)))]
        + [(np.tile(BOX, (len(f), 1)), np.full(len(f), 0.9), f) for f in features]
    )
    return search_task(split, "listed").items[0], table, table.embedding[:, 0], table.embedding


CONTEXT = np.array([[1.0, 0.0], [0.0, 1.0]])  # the query and its companion


def test_context_raises_the_query_of_a_scene_with_the_companion():
    items, table, similarity, feature = context_case([(0.5, 0.0), (0.1, 0.9)], [(0.6, 0.0)])
    changed = ContextMatching(k1=3, k2=2).rematch(items, table, similarity, feature, CONTEXT)
    # Scene 0: query - detection 0 (0.5), companion - detection 1 (0.9); the best edge is 0.9.
    # Scene 1 has one detection: the query takes it (0.6 against 0.0).
    assert changed.tolist() == [0.9, 0.1, 0.6]
    assert similarity.tolist() == [0.5, 0.1, 0.6]  # the argument is left as it was


def test_context_with_the_query_unmatched():
    # One detection, which the companion takes: 0.9 against 0.3. Nothing changes.
    items, table, similarity, feature = context_case([(0.3, 0.9)])
    changed = ContextMatching(k1=5, k2=2).rematch(items, table, similarity, feature, CONTEXT)
    assert changed.tolist() == [0.3]


def test_context_with_fewer_people_than_k2():
    items, table, similarity, feature = context_case([(0.5, 0.0), (0.1, 0.9)])
    changed = ContextMatching(k1=5, k2=4).rematch(items, table, similarity, feature, CONTEXT[:1])
    assert changed.tolist() == [0.5, 0.1]


def test_context_candidates_that_share_a_scene():
    # The two best detections lie in scene 0; scene 1 comes third.
    scenes = [(0.5, 0.0), (0.45, 0.9)], [(0.4, 0.0), (0.0, 0.8)]
    items, table, similarity, feature = context_case(*scenes)
    released = ContextMatching(k1=2, k2=2).rematch(items, table, similarity, feature, CONTEXT)
    assert released.tolist() == [0.9, 0.45, 0.4, 0.0]  # two detections, one scene
    paper = ContextMatching(k1=2, k2=2, candidates="scenes").rematch(
        items, table, similarity, feature, CONTEXT
    )
    assert paper.tolist() == [0.9, 0.45, 0.8, 0.0]  # two scenes


def test_context_matching_uses_up_the_smaller_side():
    left, right = best_matching(np.array([[-1.0, -3.0], [-2.0, -9.0]]))
    assert sorted(zip(left.tolist(), right.tolist(), strict=True)) == [(0, 1), (1, 0)]  # -5 beats -10


def test_context_settings():
    with pytest.raises(ConfigError, match="k1 = 10 and k2 = 0 must both be at least 1"):
        ContextMatching(10, 0)
    with pytest.raises(ConfigError, match="'both' is neither"):
        ContextMatching(10, 3, "both")


def test_context_leaves_out_the_query_itself():
    boxes = np.array([BOX, LOW, (0.0, 0.0, 100.0, 100.0), FAR])  # overlaps 1, 0.6, 0.5, 0
    assert context_rows(np.array(BOX), boxes).tolist() == [2, 3]
