"""Context matching by hand, against its definition, and over a grid of k1 and k2."""

import json

import numpy as np
import pytest
from evaluation_fakes import ColorSystem, DrawnSource, make_split, perfect_variables
from PIL import Image
from search_cases import BOX, CONTEXT, FAR, LOW, context_case

from ps_jax.errors import ConfigError
from ps_jax.evaluation import Settings, evaluate
from ps_jax.evaluation.cbgm import ContextMatching, best_matching, context_features, context_rows
from ps_jax.evaluation.cbgm_grid import ContextGrid, best_cell, format_grid, grid_cells
from ps_jax.evaluation.protocols import SearchItems
from ps_jax.evaluation.table import make_table


def test_context_raises_the_query_of_a_scene_with_the_companion():
    items, table, similarity, feature = context_case([(0.5, 0.0), (0.1, 0.9)], [(0.6, 0.0)])
    changed = ContextMatching(k1=3, k2=2).rematch(items, table, similarity, feature, CONTEXT)
    # Scene 0: query - detection 0 (0.5), companion - detection 1 (0.9); the best edge is 0.9.
    # Scene 1 has one detection: the query takes it (0.6 against 0.0).
    assert changed.tolist() == [0.9, 0.1, 0.6]
    assert similarity.tolist() == [0.5, 0.1, 0.6]  # the argument is left as it was


def test_context_with_fewer_people_than_k2():
    items, table, similarity, feature = context_case([(0.5, 0.0), (0.1, 0.9)])
    changed = ContextMatching(k1=5, k2=4).rematch(items, table, similarity, feature, CONTEXT[:1])
    assert changed.tolist() == [0.5, 0.1]


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


def test_context_is_the_query_and_the_surest_others():
    boxes = np.array([LOW, FAR, (200.0, 0, 260, 150), (300.0, 0, 360, 150)])
    embedding = np.array([[9.0, 9.0], [3.0, 4.0], [0.0, 2.0], [5.0, 0.0]])
    nobody = (np.zeros((0, 4)), np.zeros(0), np.zeros((0, 2)))
    # Score order within a scene is not relied on. The detection of the query itself, row 0, gives way to its box.
    table = make_table([nobody, (boxes, np.array([0.99, 0.6, 0.8, 0.7]), embedding)])
    query = np.array([0.8, -0.6])
    expected = [[0.8, -0.6], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]]  # unit length, not weighted by the score
    for k2 in (1, 2, 3, 4, 9):
        people = context_features(query, BOX, table, 1, k2)
        np.testing.assert_allclose(people, expected[:k2], atol=1e-15)


def changed_by_definition(matching, items, table, similarity, feature, context):
    """The matching as the protocol states it, with everything sorted."""
    rows = [row for scene in items.scene for row in range(*table.rows(scene).indices(len(similarity)))]
    place = {
        row: scene for scene in items.scene for row in range(*table.rows(scene).indices(len(similarity)))
    }
    ranked = sorted(rows, key=lambda row: -similarity[row])
    if matching.candidates == "detections":
        ranked = ranked[: matching.k1]
    changed = similarity.copy()
    for scene in list(dict.fromkeys(place[row] for row in ranked))[: matching.k1]:
        here = table.rows(scene)
        weights = context[: matching.k2] @ feature[here].T
        for person, detection in zip(*best_matching(weights), strict=True):
            if person == 0:
                changed[here.start + detection] = weights[best_matching(weights)].max()
    return changed


@pytest.mark.parametrize("candidates", ["detections", "scenes"])
def test_context_matching_against_its_definition(candidates):
    random = np.random.default_rng(5)
    for trial in range(40):
        counts = random.integers(0, 5, 30)
        scenes = [
            (np.zeros((n, 4)), np.full(n, 0.9), random.integers(-4, 5, (n, 3)) / 4.0) for n in counts
        ]  # few different features: many ties
        table = make_table(scenes)
        listed = random.permutation(30)[:20]
        if trial % 4 == 0:
            listed = np.concatenate([listed, listed[:7]])  # scenes searched twice
        items = SearchItems(listed, np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int))
        context = random.normal(size=(4, 3))
        similarity = table.embedding @ np.array([1.0, 0.0, 0.0])
        matching = ContextMatching(int(random.integers(1, 25)), int(random.integers(1, 6)), candidates)
        found = matching.rematch(items, table, similarity, table.embedding, context)
        expected = changed_by_definition(matching, items, table, similarity, table.embedding, context)
        np.testing.assert_array_equal(found, expected)


def grid_numbers(k1, k2, mean_ap, top1):
    return {"k1": k1, "k2": k2, "mAP": mean_ap, "top1": top1, "top5": 1.0, "top10": 1.0}


def test_grid_as_text():
    entries = {
        "10x2": grid_numbers(10, 2, 0.94, 0.95),
        "10x3": grid_numbers(10, 3, 0.948, 0.957),
        "30x2": grid_numbers(30, 2, 0.941, 0.951),
        "30x3": grid_numbers(30, 3, 0.957, 0.948),
    }
    rows = grid_cells(entries)
    assert [[(cell.k1, cell.k2) for cell in row] for row in rows] == [[(10, 2), (30, 2)], [(10, 3), (30, 3)]]
    assert best_cell(rows)[:2] == (10, 3)  # of equal scores the smaller k1
    lines = format_grid("TestG100", entries, {"mAP": 0.938, "top1": 0.946})
    assert lines[0].endswith("(mAP + top-1) / 2 (mAP / top-1); without it 94.2 (93.8 / 94.6); * best")
    assert [line.split() for line in lines[1:]] == [
        ["k2", "\\", "k1", "10", "30"],
        ["2", "94.5", "(94.0", "/", "95.0)", "94.6", "(94.1", "/", "95.1)"],
        ["3", "95.2", "(94.8", "/", "95.7)*", "95.2", "(95.7", "/", "94.8)"],
    ]
    assert len({len(line.rstrip("* ")) for line in lines[2:]}) == 1


class CountingSource(DrawnSource):
    """Counts how often its scenes are asked for."""

    passes = 0

    def scene_batches(self, *args, **kwargs):
        self.passes += 1
        return super().scene_batches(*args, **kwargs)


def confused(split):
    """Some boxes drift onto the neighbour, and scores vary."""
    variables, random = perfect_variables(split), np.random.default_rng(1)
    count = len(split.scenes)
    variables["box"][:, :4, ::2] += random.choice([0, 0, 0.06, 0.12], (count, 4, 1)).astype(np.float32)
    lower = random.choice([0, 0.1, 0.3], (count, 4)).astype(np.float32)
    variables["score"][:, :4] -= lower * (variables["score"][:, :4] > 0)
    return variables


def test_a_grid_is_what_its_pairs_are_one_by_one(tmp_path, capsys):
    split = make_split(scenes=8, people=6)
    grid = {"cbgm_grid": {"k1": (3, 12), "k2": (1, 3)}, "cbgm": {"k1": 0, "k2": 0, "candidates": "scenes"}}
    source = CountingSource(split)
    options = grid | {"pictures": 0, "similarity": "score_cosine"}
    results = evaluate(ColorSystem(), confused(split), source, options, tmp_path)
    assert source.passes == 1  # every pair searches the same detections
    assert results["settings"]["cbgm_grid"] == "k1=3,12 k2=1,3 candidates=scenes"
    assert (results["settings"]["cbgm"], "search_cbgm" in results) == ("off", False)
    entries = results["search_cbgm_grid"]["rule"]
    assert list(entries) == ["3x1", "3x3", "12x1", "12x3"]
    for key, entry in entries.items():
        k1, k2 = map(int, key.split("x"))
        single = options | {"cbgm": {"k1": k1, "k2": k2, "candidates": "scenes"}, "cbgm_grid": {}}
        alone = evaluate(ColorSystem(), confused(split), DrawnSource(split), single, None)
        numbers = alone["search_cbgm"]["rule"]
        assert entry == {"k1": k1, "k2": k2} | {n: numbers[n] for n in ("mAP", "top1", "top5", "top10")}
    assert len({entry["mAP"] for entry in entries.values()}) == 3  # the pairs do differ
    # The query alone is no company: nothing changes.
    plain = results["search"]["rule"]
    assert all(entries[f"{k1}x1"]["mAP"] == plain["mAP"] for k1 in (3, 12))
    assert json.loads((tmp_path / "results.json").read_text()) == results
    printed = capsys.readouterr().out
    assert "rule, context matching: (mAP + top-1) / 2 (mAP / top-1); without it" in printed
    assert "cbgm_grid k1=3,12 k2=1,3 candidates=scenes" in printed


def test_a_grid_on_the_page(tmp_path):
    split = make_split()
    options = {"cbgm_grid": {"k1": (2, 5), "k2": (2, 3, 4)}, "pictures": 1, "true_boxes": False}
    evaluate(ColorSystem(), confused(split), DrawnSource(split), options, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "<th>k2</th><th>k1 = 2</th><th>k1 = 5</th>" in page
    assert 'src="pictures/cbgm_grid.png"' in page
    with Image.open(tmp_path / "pictures" / "cbgm_grid.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels == (24, 140, 66)).all(-1).sum() > 200  # the frame of the best pair


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"cbgm_grid": {"k1": (10,)}},
            "eval.cbgm_grid.k2: there is no value; give at least one for k1 and k2",
        ),
        ({"cbgm_grid": {"k1": (10, 10), "k2": (3,)}}, "eval.cbgm_grid.k1: 10, 10 names one twice"),
        ({"cbgm_grid": {"k1": (10, 0), "k2": (3,)}}, "k1 = 0 and k2 = 3 must both be at least 1"),
        ({"cbgm_grid": {"k3": (10,)}}, "eval.cbgm_grid.k3: there is no such option"),
        ({"cbgm": {"k3": 10}}, "eval.cbgm.k3: there is no such option"),
        (
            {"cbgm_grid": {"k1": (10,), "k2": (3,)}, "cbgm": {"candidates": "both"}},
            "eval.cbgm.candidates: 'both' is neither",
        ),
        ({"cbgm_grid": {"k1": (10,), "k2": (3,)}, "mode": "qc"}, "eval.cbgm needs detections that do not"),
        ({"context_grid": ContextGrid((10,), (3,))}, "eval.context_grid: there is no such option"),
    ],
)
def test_grid_settings(config, message):
    with pytest.raises(ConfigError) as error:
        Settings.of(config)
    assert message in str(error.value)
