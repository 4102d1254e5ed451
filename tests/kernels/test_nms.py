"""Non-maximum suppression: against a plain loop, ties, padding, edges of the threshold, recompilation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels._implementation import only_form
from kernels.nms import batched_nms, nms, xla


@pytest.fixture(params=["greedy", "tiles", "small tiles"], autouse=True)
def form(request, monkeypatch):
    """All tests run with each form, whatever this platform would choose."""
    if request.param == "small tiles":
        monkeypatch.setattr(xla, "TILE", 10)
    with only_form(request.param.split()[-1]):
        yield request.param


def compiled(function):
    """Traced anew: jit shares what it has traced of one function, also with another form."""
    return jax.jit(
        lambda *arrays, **options: function(*arrays, **options), static_argnames=("iou_threshold", "max_kept")
    )


def brute_force(boxes, scores, classes, valid, threshold):
    """The definition, box by box, in float32 with the threshold in double precision."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    keep = np.zeros(len(boxes), bool)
    for i in np.argsort(-scores, kind="stable"):
        if not valid[i]:
            continue
        stands = True
        for j in np.flatnonzero(keep):
            low = np.maximum(boxes[i, :2], boxes[j, :2])
            size = np.maximum(np.minimum(boxes[i, 2:], boxes[j, 2:]) - low, np.float32(0))
            common = size[0] * size[1]
            union = areas[i] + areas[j] - common
            if classes[i] == classes[j] and union > 0 and float(common / union) > threshold:
                stands = False
        keep[i] = stands
    return keep


def problem(rng, count):
    """Boxes that overlap much, many equal scores, some equal boxes, some without area, some padding."""
    corner = rng.integers(0, 40, (count, 2)) / 4
    size = rng.integers(0, 60, (count, 2)) / 4
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    if rng.random() < 0.5:
        boxes *= np.float32(rng.uniform(0.5, 3))  # coordinates whose products are rounded
    boxes[rng.integers(count, size=count // 4)] = boxes[rng.integers(count, size=count // 4)]
    scores = (rng.integers(0, 8, count) / 8).astype(np.float32)
    return boxes, scores, rng.integers(0, 3, count).astype(np.int32), rng.random(count) < 0.85


def test_against_a_plain_loop():
    rng = np.random.default_rng(0)
    single, by_class = compiled(nms), compiled(batched_nms)
    kept = 0
    for trial in range(200):
        boxes, scores, classes, valid = problem(rng, (1, 7, 24)[trial % 3])
        threshold = (0.0, 0.25, 0.5, 0.7)[trial % 4]
        arrays = [jnp.asarray(array) for array in (boxes, scores, classes, valid)]
        keep = single(arrays[0], arrays[1], arrays[3], iou_threshold=threshold)
        expected = brute_force(boxes, scores, np.zeros_like(classes), valid, threshold)
        np.testing.assert_array_equal(keep, expected, err_msg=f"problem {trial}")
        keep = by_class(*arrays, iou_threshold=threshold)
        expected = brute_force(boxes, scores, classes, valid, threshold)
        np.testing.assert_array_equal(keep, expected, err_msg=f"problem {trial}, by class")
        kept += int(expected.sum())
    assert 500 < kept < 2000  # the problems are neither empty nor trivial


def test_a_chain_is_settled_from_the_top():
    # Each box overlaps only its neighbours, by 3/5: every second one stands, however long the chain.
    left = jnp.arange(101.0) * 2.5
    boxes = jnp.stack([left, jnp.zeros(101), left + 10, jnp.ones(101)], axis=1)
    keep = compiled(nms)(boxes, -left, jnp.ones(101, bool), iou_threshold=0.5)
    np.testing.assert_array_equal(np.flatnonzero(keep), np.arange(0, 101, 2))


def test_equal_scores_keep_the_lower_index():
    boxes = jnp.asarray([[0.0, 0.0, 10.0, 10.0]] * 4)
    scores = jnp.asarray([0.5, 0.9, 0.9, 0.9])
    np.testing.assert_array_equal(nms(boxes, scores, jnp.ones(4, bool), 0.5), [False, True, False, False])


def test_overlap_must_exceed_the_threshold():
    # Overlaps of exactly 1/2, and of 0.7 rounded up to float32 (7 of 10 columns).
    half = jnp.asarray([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]])
    scores, valid = jnp.asarray([0.9, 0.8]), jnp.ones(2, bool)
    np.testing.assert_array_equal(nms(half, scores, valid, 0.5), [True, True])
    np.testing.assert_array_equal(nms(half, scores, valid, 0.4999), [True, False])
    for tenths in range(1, 10):
        boxes = jnp.asarray([[0.0, 0.0, 10.0, 1.0], [0.0, 0.0, tenths, 1.0]])
        overlap = float(np.float32(tenths) / np.float32(10))
        keep = nms(boxes, scores, valid, tenths / 10)
        np.testing.assert_array_equal(keep, [True, not overlap > tenths / 10], err_msg=str(tenths))


def test_padding_suppresses_nothing_and_is_never_kept():
    rng = np.random.default_rng(1)
    boxes, scores, _, _ = problem(rng, 20)
    suppress = compiled(nms)
    expected = suppress(jnp.asarray(boxes), jnp.asarray(scores), jnp.ones(20, bool), iou_threshold=0.5)
    padded_boxes = jnp.asarray(np.concatenate([boxes, boxes, np.zeros((5, 4), np.float32)]))
    padded_scores = jnp.asarray(np.concatenate([scores, scores + 1, np.full(5, np.nan, np.float32)]))
    keep = suppress(padded_boxes, padded_scores, jnp.arange(45) < 20, iou_threshold=0.5)
    np.testing.assert_array_equal(keep[:20], expected)
    assert not bool(keep[20:].any())


def test_offsets_by_class_do_not_look_at_padding():
    boxes = jnp.asarray([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, jnp.inf, jnp.inf]])
    scores, classes = jnp.asarray([0.9, 0.8, 0.7]), jnp.asarray([0, 1, 1])
    keep = batched_nms(boxes, scores, classes, jnp.asarray([True, True, False]), 0.5, by_offset=True)
    np.testing.assert_array_equal(keep, [True, True, False])
    keep = batched_nms(boxes, scores, classes, jnp.zeros(3, bool), 0.5, by_offset=True)
    assert not bool(keep.any())


def test_the_best_so_many(form):
    rng = np.random.default_rng(4)
    suppress = functools.partial(compiled(batched_nms), iou_threshold=0.3)
    for trial in range(20):
        boxes, scores, classes, valid = problem(rng, 24)
        standing = brute_force(boxes, scores, classes, valid, 0.3)
        best_first = [i for i in np.argsort(-scores, kind="stable") if standing[i]]
        arrays = [jnp.asarray(array) for array in (boxes, scores, classes, valid)]
        for max_kept in (1, 3, 24):
            keep = suppress(*arrays, max_kept=max_kept)
            expected = sorted(best_first[:max_kept])
            np.testing.assert_array_equal(np.flatnonzero(keep), expected, err_msg=f"{trial}, {max_kept}")
    with pytest.raises(ValueError, match="max_kept is 0, wanted 1 or more"):
        nms(*arrays[:2], arrays[3], 0.5, max_kept=0)


def test_forms_agree_on_thousands_of_boxes(form):
    if form != "tiles":
        pytest.skip("compares the forms")
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 400, (4500, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 60, (4500, 2))], axis=1)
    arrays = [jnp.asarray(boxes, jnp.float32), jnp.zeros(4500, jnp.int32), jnp.ones(4500, bool)]
    keep = [
        jax.jit(lambda *a, f=suppress: f(*a, 0.4, 4500))(*arrays)
        for suppress in (xla.suppress_greedily, xla.suppress_by_tiles)
    ]
    assert 300 < int(keep[0].sum()) < 4000
    np.testing.assert_array_equal(*keep)


def test_no_boxes():
    nothing = jnp.zeros(0, bool)
    assert nms(jnp.zeros((0, 4)), jnp.zeros(0), nothing, 0.5).shape == (0,)
    keep = batched_nms(jnp.zeros((0, 4)), jnp.zeros(0), jnp.zeros(0, jnp.int32), nothing, 0.5, by_offset=True)
    assert keep.shape == (0,)


def test_vmap():
    rng = np.random.default_rng(2)
    rows = [problem(rng, 12) for _ in range(4)]
    boxes, scores, _, valid = (jnp.asarray(np.stack(arrays)) for arrays in zip(*rows, strict=True))
    for max_kept in (None, 2):
        suppress = functools.partial(compiled(nms), iou_threshold=0.3, max_kept=max_kept)
        together = jax.vmap(suppress)(boxes, scores, valid)
        for row in range(4):
            np.testing.assert_array_equal(together[row], suppress(boxes[row], scores[row], valid[row]))


def test_no_recompilation():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def suppress(boxes, scores, valid):
        return nms(boxes, scores, valid, 0.5)

    rng = np.random.default_rng(3)
    for _ in range(3):
        boxes, scores, classes, valid = problem(rng, 10)
        keep = suppress(jnp.asarray(boxes), jnp.asarray(scores), jnp.asarray(valid))
        np.testing.assert_array_equal(keep, brute_force(boxes, scores, 0 * classes, valid, 0.5))


def test_a_kernel_that_is_not_there_is_named():
    with pytest.raises(ValueError, match='nms: implementation="pallas" is not available'):
        nms(jnp.zeros((1, 4)), jnp.zeros(1), jnp.ones(1, bool), 0.5, implementation="pallas")
