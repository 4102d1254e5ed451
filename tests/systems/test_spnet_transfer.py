"""Which leaf of the next phase comes from where; every leaf of every tree holds a number of its own."""

import itertools

import jax
import numpy as np
import pytest
from flax import traverse_util
from tiny_spnet import LARGE, OPTIONS

from ps_jax.errors import CheckpointError
from ps_jax.systems import build_system
from ps_jax.training._leaves import check_same_leaves, describe


@pytest.fixture(params=["tiny", "mobilenet_v2"])  # without and with batch normalisation in the trunk
def build(request):
    if request.param == "tiny":
        return request.getfixturevalue("tiny")
    return lambda **changes: build_system("spnet", OPTIONS | {"trunk": request.param} | changes)


def _numbered(system, first):
    numbers = itertools.count(first)
    return jax.tree.map(lambda leaf: np.full(leaf.shape, next(numbers), leaf.dtype), system.template)


def _origins(before, after):
    """For every leaf that `after` begins with: the name of the leaf that it is a copy of."""
    pretrained, fresh = _numbered(before, 1), _numbered(after, 100_001)
    names = {}
    for phase, tree in (("pretrained", pretrained), ("fresh", fresh)):
        for path, leaf in traverse_util.flatten_dict(tree, sep="/").items():
            names[leaf.reshape(-1)[0].item()] = f"{phase}:{path}"
    result = after.transfer(pretrained, fresh, pretrained_by=before)
    check_same_leaves(describe(result), describe(fresh), "another model", "")
    result = jax.device_get(result)
    for leaf in jax.tree.leaves(result):
        assert np.all(leaf == leaf.reshape(-1)[0])
    return {
        path: names[leaf.reshape(-1)[0].item()]
        for path, leaf in traverse_util.flatten_dict(result, sep="/").items()
    }


def _expected(origins, sources):
    """The origin of each leaf by the first fitting rule: (prefix of a part, source phase, source's prefix)."""
    expected = {}
    for path in origins:
        collection, rest = path.split("/", 1)
        for prefix, phase, source in sources:
            if rest.startswith(prefix):
                expected[path] = f"{phase}:{collection}/{source}{rest.removeprefix(prefix)}"
                break
    return expected


KEPT = [
    *((f"{part}/", "pretrained", f"{part}/") for part in ("backbone", "fpn", "anchor_embedder")),
    ("regression_head_0/", "pretrained", "regression_head_0/"),
    ("box_embedder/last_stage/", "pretrained", "box_embedder/last_stage/"),
    ("", "fresh", ""),  # the rest, the memory too
]


def test_large_model_after_small_one(build):
    """PT: what was pre-trained, and the shared embedder in two places; the second head looks like the trunk."""
    origins = _origins(build(mode="qc"), build(**LARGE))
    expected = [
        ("location_embedder_1/last_stage/", "pretrained", "box_embedder/last_stage/"),
        ("location_embedder_2/last_stage/", "pretrained", "backbone/stage4/"),
        *KEPT,
    ]
    assert origins == _expected(origins, expected)
    assert origins["params/box_embedder/projector/deep_linear/kernel"].startswith("fresh")
    assert origins["params/bridge_0/linear/kernel"].startswith("fresh")
    assert origins["params/regression_head_2/deltas/bias"].startswith("fresh")


def test_large_model_after_small_one_with_replicated_stages(build):
    """PT-Rep: all stages from the first; projections without pre-trained weights stay their own."""
    origins = _origins(build(mode="qc"), build(**LARGE, replicate_stages=True))
    expected = [
        *((f"location_embedder_{t}/last_stage/", "pretrained", "box_embedder/last_stage/") for t in (1, 2)),
        *((f"regression_head_{t}/", "pretrained", "regression_head_0/") for t in (1, 2)),
        *KEPT,
    ]
    assert origins == _expected(origins, expected)
    assert origins["params/location_embedder_2/linear/kernel"].startswith("fresh")


def test_bridges_of_an_object_centric_phase_are_replicated_too(tiny):
    origins = _origins(tiny(), tiny(**LARGE, replicate_stages=True))
    for t in range(3):
        assert origins[f"params/bridge_{t}/linear/kernel"] == "pretrained:params/bridge_0/linear/kernel"


def test_shared_heads_keep_their_projection(tiny):
    """The cascade of a model with shared heads; normalised logits are a stage's, too."""
    before = tiny(logit_scale="batch")
    origins = _origins(before, tiny(num_cascade_steps=2, logit_scale="batch", replicate_stages=True))
    expected = [
        *((f"{part}_{t}/", "pretrained", f"{part}_0/") for part in STAGE_PARTS for t in (1, 2)),
        ("box_embedder/", "pretrained", "box_embedder/"),
        *((f"{part}_0/", "pretrained", f"{part}_0/") for part in STAGE_PARTS),
        *KEPT,
    ]
    assert origins == _expected(origins, expected)


STAGE_PARTS = ("bridge", "regression_head", "classification_head")


def test_location_heads_that_were_trained_are_kept_and_replicated_whole(tiny):
    before = tiny(separate_location_heads=True, reid_dim=32)
    for replicate, source in (
        (False, "fresh:params/location_embedder_2"),
        (True, "pretrained:params/location_embedder_1"),
    ):
        origins = _origins(before, tiny(**LARGE, replicate_stages=replicate))
        assert origins["params/location_embedder_1/linear/kernel"].startswith(
            "pretrained:params/location_embedder_1"
        )
        assert origins["params/location_embedder_2/linear/kernel"].startswith(source)
        assert origins["params/box_embedder/projector/deep_linear/bias"].startswith("pretrained")


def test_parts_that_do_not_fit_are_told_of(tiny):
    with pytest.raises(CheckpointError, match=r"location_embedder_1.*only in the checkpoint"):
        _origins(tiny(separate_location_heads=True), tiny())
    with pytest.raises(CheckpointError, match=r"bridge_1.*only in the checkpoint"):
        _origins(tiny(num_cascade_steps=1), tiny())
    with pytest.raises(CheckpointError, match=r"projector/deep_linear/bias: float32\[8\] in the checkpoint"):
        _origins(tiny(), tiny(reid_dim=32))


def test_copies_have_buffers_of_their_own(tiny):
    before, after = tiny(mode="qc"), tiny(**LARGE, replicate_stages=True)
    result = after.transfer(_numbered(before, 1), _numbered(after, 1), pretrained_by=before)
    heads = [
        result["params"][part]["last_stage"]
        for part in ("box_embedder", "location_embedder_1", "location_embedder_2")
    ]
    places = {
        np.asarray(leaf).__array_interface__["data"][0] for head in heads for leaf in jax.tree.leaves(head)
    }
    assert len(places) == 3 * len(jax.tree.leaves(heads[0]))
