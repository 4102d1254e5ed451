import jax
import jax.numpy as jnp
import numpy as np

from ps_jax.boxes import decode, encode, pairwise_iou
from ps_jax.heads import choose_proposals, proposal_losses


def _anchors(count=40, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(5, 40, (count, 2))], axis=1).astype(np.float32)


def _greedy(box, score, threshold):
    """Non-maximum suppression, one box after the other."""
    kept = []
    for index in np.argsort(-score, kind="stable"):
        overlaps = np.asarray(pairwise_iou(jnp.asarray(box[[index]]), jnp.asarray(box[kept])))
        if not kept or overlaps.max() <= threshold:
            kept.append(index)
    return kept


def test_proposals_are_the_best_boxes_that_do_not_overlap():
    rng = np.random.default_rng(1)
    anchors, size = _anchors(), np.array([[50, 64], [64, 40]])
    score = rng.permutation(80).reshape(2, 40).astype(np.float32)
    deltas = rng.normal(0, 0.2, (2, 40, 4)).astype(np.float32)
    box, valid = choose_proposals(
        *map(jnp.asarray, (score, deltas, anchors, size)), before_nms=30, after_nms=6, nms_threshold=0.5
    )
    assert box.shape == (2, 6, 4)
    for row in range(2):
        best = np.argsort(-score[row], kind="stable")[:30]
        decoded = np.asarray(decode(jnp.asarray(deltas[row]), jnp.asarray(anchors)))[best]
        limit = np.tile(size[row][::-1], 2)
        clipped = np.clip(decoded, 0, limit).astype(np.float32)
        there = np.all(clipped[:, 2:] - clipped[:, :2] >= 1e-3, axis=1)
        expected = clipped[there][_greedy(clipped[there], score[row][best][there], 0.5)][:6]
        np.testing.assert_array_equal(valid[row], np.arange(6) < len(expected))
        np.testing.assert_allclose(box[row][: len(expected)], expected, rtol=1e-5, atol=1e-4)
        assert not np.any(box[row][len(expected) :])


def test_no_gradient_passes_the_choice():
    anchors = jnp.asarray(_anchors())

    def total(deltas):
        box, _ = choose_proposals(
            jnp.arange(40.0)[None], deltas, anchors, jnp.array([[64, 64]]), 40, 10, nms_threshold=0.7
        )
        return jnp.sum(box)

    assert not np.any(jax.grad(total)(jnp.zeros((1, 40, 4))))


def test_losses_of_proposals():
    anchors = jnp.asarray(_anchors(3))
    target = jnp.asarray(_anchors(3, seed=4))[None]
    objectness = jnp.array([[2.0, -1.0, 5.0]])
    positive, negative = jnp.array([[True, False, False]]), jnp.array([[False, True, False]])
    deltas = encode(target, anchors) + jnp.array([0.5, 0.05, 0.0, -0.2])
    for beta, expected in ((0.0, 0.75), (1 / 9, (0.5 - 1 / 18) + 0.05**2 * 4.5 + (0.2 - 1 / 18))):
        classification, regression = proposal_losses(
            objectness, deltas, anchors, target, positive, negative, beta
        )
        np.testing.assert_allclose(classification, np.log1p(np.exp(-2)) + np.log1p(np.exp(-1)), rtol=1e-6)
        np.testing.assert_allclose(regression, expected, rtol=1e-4)


def test_levels_are_chosen_from_and_suppressed_apart():
    rng = np.random.default_rng(2)
    anchors = _anchors(30)
    score = rng.permutation(30).astype(np.float32)
    levels, before, after = (18, 12), 10, 7
    box, valid = choose_proposals(
        *(jnp.asarray(score[None]), jnp.zeros((1, 30, 4)), jnp.asarray(anchors), jnp.array([[100, 100]])),
        *(before, after),
        nms_threshold=0.3,
        levels=levels,
    )
    kept, start = [], 0
    for length in levels:
        best = start + np.argsort(-score[start : start + length], kind="stable")[:before]
        kept += best[_greedy(anchors[best], score[best], 0.3)].tolist()
        start += length
    expected = sorted(kept, key=lambda index: -score[index])[:after]
    assert int(valid.sum()) == len(expected)
    np.testing.assert_allclose(box[0, : len(expected)], anchors[expected], rtol=1e-5, atol=1e-4)
