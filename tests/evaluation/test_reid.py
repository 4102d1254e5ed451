"""The protocol of Market-1501 against a plain loop."""

import numpy as np

from ps_jax.evaluation.reid import Pictures, rank_gallery


def _pictures(rng, count, people, cameras):
    feature = rng.normal(size=(count, 6))
    feature /= np.linalg.norm(feature, axis=1, keepdims=True)
    return Pictures(feature, rng.integers(-1, people, count), rng.integers(1, cameras + 1, count))


def test_ranking_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    gallery = _pictures(rng, 60, 5, 3)
    queries = _pictures(rng, 12, 5, 3)
    queries = queries._replace(identity=np.where(queries.identity < 1, 1, queries.identity))
    precisions, hits = rank_gallery(queries, gallery)
    for number in range(12):
        ranked = sorted(range(60), key=lambda i: -gallery.feature[i] @ queries.feature[number])
        right, precision, seen, first = 0, [], 0, None
        for i in ranked:
            same = gallery.identity[i] == queries.identity[number]
            if gallery.identity[i] == -1 or (same and gallery.camera[i] == queries.camera[number]):
                continue  # junk, or the same picture all but once more
            seen += 1
            if same:
                right += 1
                precision.append(right / seen)
                first = first or seen
        np.testing.assert_allclose(precisions[number], np.mean(precision) if precision else 0.0)
        np.testing.assert_array_equal(hits[number], [bool(first) and first <= k for k in (1, 5, 10)])


def test_distractors_count_as_wrong_answers():
    feature = np.array([[1.0, 0.0], [0.8, 0.6]])
    gallery = Pictures(feature, np.array([0, 7]), np.array([2, 2]))
    queries = Pictures(feature[:1], np.array([7]), np.array([1]))
    precisions, hits = rank_gallery(queries, gallery)
    assert precisions.tolist() == [0.5] and hits.tolist() == [[False, True, True]]
