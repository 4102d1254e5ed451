import numpy as np
import pytest

from ps_jax.errors import ConfigError
from ps_jax.evaluation.detection import evaluate_detection, match_best
from ps_jax.evaluation.metrics import average_precision, pairwise_iou, precision_recall
from ps_jax.evaluation.similarity import gallery_features, unit_rows
from ps_jax.evaluation.table import empty_table, make_table


def test_pairwise_iou_by_hand():
    boxes = np.array([[0.0, 0, 10, 10], [5, 5, 15, 15], [20, 20, 30, 30], [3, 3, 3, 9]])
    overlap = pairwise_iou(boxes[:1], boxes)
    np.testing.assert_allclose(overlap, [[1.0, 25 / 175, 0.0, 0.0]], rtol=1e-15)
    assert pairwise_iou(boxes[3:], boxes[3:])[0, 0] == 0.0  # an empty box overlaps nothing


def test_average_precision_by_hand():
    # Ranks 1 and 3 right of 4: (1/2) * 1 + (1/2) * 2/3.
    assert average_precision(
        np.array([True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.6])
    ) == pytest.approx(0.5 + 0.5 * 2 / 3, abs=1e-15)
    # The same in another order.
    assert average_precision(
        np.array([False, True, False, True]), np.array([0.8, 0.7, 0.6, 0.9])
    ) == pytest.approx(0.5 + 0.5 * 2 / 3, abs=1e-15)


def test_average_precision_groups_ties():
    # Both at 0.8 form one threshold: precision 1/2 there whichever is listed first; then 2 of 3.
    score = np.array([0.8, 0.8, 0.5])
    for correct in ([True, False, True], [False, True, True]):
        assert average_precision(np.array(correct), score) == pytest.approx(
            0.5 * 0.5 + 0.5 * 2 / 3, abs=1e-15
        )
    # All tied: the share of right ones.
    assert average_precision(np.array([True, False, False, False]), np.ones(4)) == 0.25


def test_average_precision_of_nothing():
    assert average_precision(np.zeros(3, bool), np.arange(3.0)) == 0.0
    assert average_precision(np.zeros(0, bool), np.zeros(0)) == 0.0
    precision, recall = precision_recall(np.zeros(0, bool), np.zeros(0))
    assert len(precision) == len(recall) == 0


def test_average_precision_against_its_definition():
    rng = np.random.default_rng(3)
    for _ in range(20):
        score = rng.integers(0, 8, 40) / 8  # many ties
        correct = rng.random(40) < 0.4
        expected, before = 0.0, 0.0
        for threshold in sorted(set(score), reverse=True):
            taken = score >= threshold
            recall = (correct & taken).sum() / correct.sum()
            expected += (recall - before) * (correct & taken).sum() / taken.sum()
            before = recall
        assert average_precision(correct, score) == pytest.approx(expected, abs=1e-14)
        precision, recall = precision_recall(correct, score)  # the same, as a curve
        assert np.sum(np.diff(recall, prepend=0) * precision) == pytest.approx(expected, abs=1e-14)


PERSON = np.array([[0.0, 0, 10, 20]])


def test_detection_takes_the_best_fit_not_the_best_score():
    box = np.array([[0.0, 0, 10, 16], [0.0, 0, 10, 19], [50.0, 50, 60, 70]])  # overlaps 0.8, 0.95, 0
    result = evaluate_detection([(PERSON, box, np.array([0.9, 0.6, 0.7]))], 0.5)
    assert result.matched.tolist() == [False, True, False]
    assert result.recall == 1.0
    assert result.ap == pytest.approx(1 / 3)  # third by score
    assert result.rap == pytest.approx(1 / 9)


def test_detection_needs_both_to_agree():
    # The detection overlaps both people; it is the best of both, but only person 1 is its own best.
    people = np.array([[0.0, 0, 10, 20], [0.0, 0, 10, 22]])
    matched = match_best(people, np.array([[0.0, 0, 10, 22]]))
    result = evaluate_detection([(people, np.array([[0.0, 0, 10, 22]]), np.array([0.9]))], 0.5)
    assert matched.tolist() == [True]
    assert (result.found, result.people, result.recall, result.ap) == (1, 2, 0.5, 0.5)


def test_detection_ties_go_to_the_first():
    twice = np.array([[0.0, 0, 10, 20], [0.0, 0, 10, 20]])
    assert match_best(PERSON, twice).tolist() == [True, False]
    assert match_best(twice, PERSON).tolist() == [True]


def test_detection_thresholds():
    half = np.array([[0.0, 0, 10, 10]])  # overlap exactly 0.5 counts
    assert match_best(PERSON, half).tolist() == [True]
    assert match_best(PERSON, np.array([[0.0, 0, 10, 9.99]])).tolist() == [False]
    # A score of exactly the threshold counts, also one that float32 rounds down.
    for threshold in (0.5, 0.7):
        result = evaluate_detection([(PERSON, PERSON, np.array([threshold], np.float32))], threshold)
        assert result.recall == 1.0


def test_detection_of_empty_scenes():
    none, no_score = np.zeros((0, 4)), np.zeros(0)
    result = evaluate_detection([(PERSON, none, no_score), (PERSON, PERSON, np.array([0.9]))], 0.5)
    assert (result.recall, result.ap) == (0.5, 0.5)  # people without a detection lower the recall
    result = evaluate_detection([(none, PERSON, np.array([0.95])), (PERSON, PERSON, np.array([0.9]))], 0.5)
    assert (result.recall, result.ap) == (1.0, 0.5)  # a detection where nobody is ranks first and is wrong
    result = evaluate_detection([(PERSON, none, no_score)], 0.5)
    assert (result.recall, result.ap, result.rap) == (0.0, 0.0, 0.0)
    assert evaluate_detection([], 0.5).recall == 0.0


def test_similarities():
    embedding = np.array([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])
    np.testing.assert_allclose(unit_rows(embedding), [[0.6, 0.8], [0, 1], [0, 0]], atol=1e-15)
    score = np.array([0.5, 0.25, 1.0])
    np.testing.assert_allclose(
        gallery_features(embedding, score, "score_cosine"), [[0.3, 0.4], [0, 0.25], [0, 0]], atol=1e-15
    )
    np.testing.assert_allclose(gallery_features(embedding, score, "cosine"), unit_rows(embedding), atol=0)
    with pytest.raises(ConfigError, match="'dot' is unknown; choose one of cosine, score_cosine"):
        gallery_features(embedding, score, "dot")


def test_branches_weigh_the_same():
    # The first branch is a hundred times longer; both count half.
    row = unit_rows(np.array([[300.0, 400.0, 0.0, 1.0]]), branches=2)
    np.testing.assert_allclose(row, np.array([[0.6, 0.8, 0.0, 1.0]]) / np.sqrt(2), atol=1e-15)
    other = unit_rows(np.array([[400.0, -300.0, 0.0, 7.0]]), branches=2)
    assert (row @ other.T).item() == pytest.approx(0.5)  # cosines 0 and 1
    with pytest.raises(ValueError, match="branches: 3 do not divide an embedding of width 4"):
        unit_rows(np.zeros((1, 4)), branches=3)


def test_table():
    table = make_table(
        [
            (np.ones((2, 4)), np.array([0.9, 0.3]), np.ones((2, 3))),
            (np.zeros((0, 4)), np.zeros(0), np.zeros((0, 3))),
            (np.full((1, 4), 2.0), np.array([0.6]), np.zeros((1, 3))),
        ]
    )
    assert table.start.tolist() == [0, 2, 2, 3]
    cut = table.above(0.5)
    assert cut.start.tolist() == [0, 1, 1, 2]
    assert cut.score.tolist() == [0.9, 0.6]
    assert cut.box[cut.rows(2)].tolist() == [[2.0] * 4]
    assert empty_table(2).start.tolist() == [0, 0, 0]
