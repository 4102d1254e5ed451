"""RDLR: which boxes are refined, by which losses, what stays as it is, and crops of the original picture."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_recipe import golden_order
from tiny_rdlr import OPTIONS, batch
from tiny_training import first_state, trainer

from kernels.roi_transform import roi_transform
from ps_jax.boxes import pairwise_iou
from ps_jax.errors import ConfigError
from ps_jax.interface import People
from ps_jax.systems import RDLRSystem
from ps_jax.systems._detector import Candidates, Found
from ps_jax.systems._rdlr_training import choose_boxes, label_detections
from ps_jax.systems.rdlr import CROP_MEAN, CROP_STD

DETECTION = {"classification", "proposal_classification", "proposal_regression"}
# Untrained detectors are unsure, and their detections far off.
ANYTHING = {"boxes_from": "test_mode", "match_iou": 0.1, "score_threshold": 0.0}


def _equal(one, other):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), one, other)))


def _predictors(detector):
    """What the last layers of a detector have of coordinates, [..., 4], and of classification."""
    if "head" in detector:
        kernel = detector["head"]["regression"]["kernel"]
        return kernel.reshape(*kernel.shape[:-1], -1, 4), detector["head"]["classification"]["kernel"]
    head = detector["box_predictor"]
    return head["deltas"]["kernel"][:, 4:], head["classification"]["kernel"]  # behind the background's


@pytest.mark.slow
@pytest.mark.parametrize("boxes", [{}, ANYTHING], ids=["samples", "test_mode"])
@pytest.mark.parametrize("detector", ["faster_rcnn", "retinanet"])
def test_refinement_replaces_the_box_loss_and_keeps_the_others(tiny_rdlr, detector, boxes):
    scenes, people = batch()
    order = {"order": golden_order} if detector == "faster_rcnn" else {}
    kept = DETECTION if detector == "faster_rcnn" else {"classification"}
    system = tiny_rdlr(detector, order, **boxes)
    variables = system.init(jax.random.key(0), scenes, people)

    def reid_loss(params):
        terms, changed = system.losses({**variables, "params": params}, scenes, people, jax.random.key(1))
        return terms["softmax"] + terms["proxy_triplet"], (terms, changed)

    gradient, (terms, changed) = jax.jit(jax.grad(reid_loss, has_aux=True))(variables["params"])
    assert set(terms) == kept | {"softmax", "proxy_triplet"}
    deltas, classification = map(np.asarray, _predictors(gradient["detector"]))
    assert np.all(np.any(deltas.reshape(-1, 4) != 0, axis=0))  # x, y, width and height
    assert not np.any(classification)  # boxes are chosen by the score, not moved by it
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["detector"].get("rpn", {})))
    assert all(np.isfinite(float(term)) for term in terms.values())
    assert terms["proxy_triplet"] == 0  # nobody has a proxy yet
    known = np.unique(np.asarray(people.identity)[np.asarray(people.valid)])
    assert not np.any(np.asarray(changed["memory"]["proxies_written"])[np.setdiff1d(np.arange(6), known)])
    alone = tiny_rdlr(detector, order, stage="detector")
    own, _ = jax.jit(alone.losses)({**variables, "memory": {}}, scenes, people, jax.random.key(1))
    assert set(own) == kept | {"regression"}
    for name in kept:
        np.testing.assert_allclose(own[name], terms[name], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "present"),
    [
        ({"softmax": False}, DETECTION | {"proxy_triplet"}),
        ({"proxy_triplet": False, "freeze_proposals": True}, {"classification", "softmax"}),
        (
            {"detector": "retinanet", "boxes_from": "test_mode"},
            {"classification", "softmax", "proxy_triplet"},
        ),
    ],
)
def test_losses_are_chosen(tiny_rdlr, options, present):
    scenes, people = batch()
    system = tiny_rdlr(**options)
    terms = jax.eval_shape(
        lambda key: system.losses(system.init(key, scenes, people), scenes, people, key)[0], jax.random.key(0)
    )
    assert set(terms) == present


@pytest.mark.slow
@pytest.mark.parametrize("boxes", [{}, ANYTHING])
@pytest.mark.parametrize("detector", ["faster_rcnn", "retinanet"])
def test_the_reid_network_stays_bit_for_bit_while_the_detector_moves(tiny_rdlr, detector, boxes):
    scenes, people = batch()
    system = tiny_rdlr(detector, **boxes)
    start = system.init(jax.random.key(0), scenes, people)
    start = jax.tree.map(jnp.copy, start)
    state = trainer(system)(first_state(system, jax.tree.map(jnp.copy, start)), [(scenes, people)] * 3)
    assert _equal(state.params["reid"], start["params"]["reid"])
    assert _equal(state.batch_stats["reid"], start["batch_stats"]["reid"])
    before, after = start["params"]["detector"], state.params["detector"]
    for old, new in zip(_predictors(before), _predictors(after), strict=True):
        assert np.any(np.asarray(old != new))
    trained = system.trainable(start["params"])
    for name in ("stem_conv", "stem"):
        if name in trained["detector"]["backbone"]:
            assert not any(jax.tree.leaves(trained["detector"]["backbone"][name]))
    assert int(np.sum(state.memory["proxies_written"])) > 0


@pytest.mark.slow
def test_only_the_reid_network_is_trained_on_crops(tiny_rdlr):
    rng = np.random.default_rng(0)
    system = tiny_rdlr(stage="reid")
    size = OPTIONS["crop_size"]
    image = rng.integers(0, 256, (8, *size, 3), dtype=np.uint8)
    identity = np.repeat(np.arange(4), 2)[:, None]
    whole = np.tile(np.array([0, 0, size[1], size[0]], np.float32), (8, 1, 1))
    scenes = batch()[0]._replace(
        image=jnp.asarray(image), size=jnp.tile(jnp.array(size), (8, 1)), raw=None, raw_size=None
    )
    people = People(*map(jnp.asarray, (whole, identity, identity, np.ones((8, 1), bool))))
    variables = system.init(jax.random.key(0), scenes, people)
    terms, _ = jax.jit(system.losses)(variables, scenes, people, jax.random.key(1))
    assert set(terms) == {"softmax", "triplet"}
    np.testing.assert_allclose(
        terms["softmax"], np.log(OPTIONS["num_identities"]), rtol=0.02
    )  # small first weights
    normal = (image / np.float32(255) - np.float32(CROP_MEAN)) / np.float32(CROP_STD)
    again, _ = jax.jit(system.losses)(
        variables, scenes._replace(image=jnp.asarray(normal)), people, jax.random.key(1)
    )
    np.testing.assert_allclose(again["triplet"], terms["triplet"], rtol=1e-4)  # as a crop of a scene comes
    trained = system.trainable(variables["params"])
    assert not any(jax.tree.leaves(trained["detector"])) and trained["reid"]["classifier"]["kernel"]
    assert trained["reid"]["bottleneck"] == {"scale": True, "bias": False}


def test_gradients_of_crops_to_all_four_corners_are_those_of_differences_in_float64(tiny_rdlr):
    module = tiny_rdlr(stage="detector").module
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        scenes = batch()[0]._replace(
            raw=jnp.asarray(rng.uniform(0, 255, (2, 120, 100, 3))),
            raw_size=jnp.array([[120, 100], [110, 90]]),
        )
        weight = jnp.asarray(rng.normal(size=(*OPTIONS["crop_size"], 3)))

        @jax.jit
        def seen(box):
            crops = module.apply({}, scenes, box, jnp.arange(2), method="crops")
            return jnp.sum(crops * weight, axis=(1, 2, 3))

        box = jnp.array(
            [[10.3, 8.2, 33.1, 55.7], [-2.9, 5.5, 41.2, 70.3]]
        )  # the second reaches over the border
        gradient = jax.jacobian(seen)(box)
        for row in range(2):
            assert np.all(np.abs(gradient[row, row]) > 1e-2) and not np.any(gradient[row, 1 - row])
            for corner in range(4):
                step = jnp.zeros((2, 4)).at[row, corner].set(1e-7)
                difference = (seen(box + step) - seen(box - step))[row] / 2e-7
                np.testing.assert_allclose(gradient[row, row, corner], difference, rtol=1e-5, atol=1e-5)


def test_crops_are_of_the_original_picture(tiny_rdlr):
    scenes, _ = batch()
    scenes = scenes._replace(
        raw_size=jnp.array([[128, 128], [120, 100]])
    )  # the second is padded, and stretched
    module = tiny_rdlr(stage="detector").module
    box = jnp.array([[4.0, 8.0, 36.0, 60.0], [20.0, 10.0, 64.0, 64.0]])
    ours = module.apply({}, scenes, box, jnp.arange(2), method="crops")
    ratio = jnp.array([[2.0, 2.0, 2.0, 2.0], [100 / 64, 120 / 64, 100 / 64, 120 / 64]])
    pixels = roi_transform(
        scenes.raw,
        box * ratio,
        jnp.arange(2),
        output_size=OPTIONS["crop_size"],
        image_size=scenes.raw_size,
        outside=255 * jnp.asarray(CROP_MEAN),
    )
    np.testing.assert_allclose(
        ours, (pixels / 255 - jnp.asarray(CROP_MEAN)) / jnp.asarray(CROP_STD), atol=1e-5
    )
    with pytest.raises(ConfigError, match=r"config\.data\.raw=True"):
        module.apply({}, scenes._replace(raw=None), box, jnp.arange(2), method="crops")


@pytest.mark.slow
def test_a_detection_is_embedded_as_a_given_box_is(tiny_rdlr):
    scenes, people = batch()
    system = tiny_rdlr(score_threshold=0.0)
    variables = system.init(jax.random.key(0), scenes, people)
    found = jax.jit(system.detect)(variables, scenes)
    assert np.any(found.valid)
    again = jax.jit(system.embed)(variables, scenes, found.box)
    valid = np.asarray(found.valid)
    np.testing.assert_allclose(np.asarray(found.embedding)[valid], np.asarray(again)[valid], atol=2e-5)
    assert not np.any(np.asarray(found.embedding)[~valid]) and not np.any(np.asarray(found.box)[~valid])


def _candidates(rng, people, count):
    """Boxes around random people of each scene, some far off."""
    scenes, slots = people.valid.shape
    person = rng.integers(0, slots, (scenes, count))
    box = np.take_along_axis(np.asarray(people.box), person[..., None], axis=1)
    box = box + rng.normal(0, 4, box.shape).astype(np.float32)
    valid = np.take_along_axis(np.asarray(people.valid), person, axis=1) & (rng.random((scenes, count)) < 0.9)
    return Candidates(*map(jnp.asarray, (box, rng.random((scenes, count)).astype(np.float32), person, valid)))


@pytest.mark.parametrize(("per_person", "per_scene"), [(1, 4), (2, 8), (3, 3)])
def test_of_each_known_person_the_best_scored_boxes_are_refined(per_person, per_scene):
    rng = np.random.default_rng(per_person)
    _, people = batch((4, 3), slots=5)
    candidates = _candidates(rng, people, 40)
    box, person, valid = (
        np.asarray(x)
        for x in jax.jit(choose_boxes, static_argnums=(2, 3, 4))(
            candidates, people, 0.5, per_person, per_scene
        )
    )
    assert box.shape == (2, min(per_scene, 5 * per_person), 4)
    for scene in range(2):
        iou = np.asarray(pairwise_iou(candidates.box[scene], people.box[scene]))
        expected = []
        for who in range(5):
            if people.valid[scene, who] and people.identity[scene, who] >= 0:
                mine = [
                    (float(candidates.score[scene, i]), i)
                    for i in range(40)
                    if candidates.person[scene, i] == who
                    and candidates.valid[scene, i]
                    and iou[i, who] >= 0.5
                ]
                expected += [(*entry, who) for entry in sorted(mine, reverse=True)[:per_person]]
        expected = sorted(expected, reverse=True)[:per_scene]
        assert valid[scene].sum() == len(expected)
        for slot, (_, index, who) in enumerate(expected):
            np.testing.assert_array_equal(box[scene, slot], candidates.box[scene, index])
            assert person[scene, slot] == who


def test_detections_stand_for_the_person_they_overlap_most():
    _, people = batch((2, 0))
    box = jnp.stack([people.box[0, 1] + 1.0, people.box[0, 0] - 1.0])[None].repeat(2, axis=0)
    found = Found(box, jnp.ones((2, 2)), jnp.array([[True, True], [True, True]]))
    labelled = label_detections(found, people)
    np.testing.assert_array_equal(labelled.person[0], [1, 0])
    np.testing.assert_array_equal(labelled.valid, [[True, True], [False, False]])


def test_what_contradicts_itself_is_told(tiny_rdlr):
    scenes, people = batch()

    def make(**options):
        system = tiny_rdlr(**options)
        return jax.eval_shape(system.init, jax.random.key(0), scenes, people)

    for options, words in (
        ({"classifier": False}, "softmax=False"),
        ({"softmax": False, "proxy_triplet": False}, "needs a loss"),
        ({"stage": "test"}, "stage is 'test'"),
        ({"detector": "retinanet", "freeze_proposals": True}, "no proposals to freeze"),
        ({"options": {"head_width": 8, "gamma": 2}}, "faster_rcnn has no option 'gamma'"),
        ({"stage": "reid", "classifier": False}, "classifier=True"),
    ):
        with pytest.raises(ConfigError, match=words):
            make(**options)


@pytest.mark.slow
def test_the_next_phase_takes_both_networks(tiny_rdlr):
    scenes, people = batch()
    detector = tiny_rdlr(stage="detector")
    trained = detector.init(jax.random.key(0), scenes, people)
    refine = tiny_rdlr(classifier=False, softmax=False)
    fresh = refine.init(jax.random.key(1), scenes, people)
    carried = refine.transfer(trained, fresh, pretrained_by=detector)
    assert jax.tree.structure(carried) == jax.tree.structure(fresh)
    assert _equal(carried["params"]["detector"], trained["params"]["detector"])
    assert "classifier" not in carried["params"]["reid"]
    other = refine.reid_network(fresh)
    both = refine.with_reid_network(carried, other)
    assert _equal(both["params"]["reid"], fresh["params"]["reid"])
    assert _equal(both["params"]["detector"], trained["params"]["detector"])
    other["params"]["bottleneck"] = {"scale": jnp.ones(3), "bias": jnp.ones(3)}
    with pytest.raises(ConfigError, match=r"another bottleneck"):
        refine.with_reid_network(carried, other)


def test_pixels_are_what_the_detectors_weights_want():
    system = RDLRSystem({"num_identities": 1, "detector_options": {"trunk": "resnet50_caffe"}})
    scenes, _ = batch()
    pixels = np.asarray(scenes.image[0], np.float32) - np.array([122.7717, 115.9465, 102.9801], np.float32)
    np.testing.assert_allclose(system.normalise(scenes).image[0], pixels, atol=1e-4)


@pytest.mark.parametrize(
    ("trained", "options", "words"),
    [
        ({}, {}, r"a detector that was never trained: .* --config\.pretrained=WORKDIR"),
        ({"detector": "us"}, {}, r"network that was never trained: .* --config\.reid_weights="),
        ({"detector": "us", "reid": ""}, {}, r"a classifier of the people .* model\.softmax=False"),
        ({"detector": "us", "reid": "them", "classifier": "them"}, {}, "a classifier of the people"),
        ({"detector": "us", "reid": "us", "classifier": "us"}, {}, None),
        ({"detector": "us", "reid": ""}, {"softmax": False}, None),
        ({"detector": "them", "reid": "them"}, {"softmax": False, "classifier": False}, None),
        ({}, {"stage": "reid"}, None),
        ({}, {"stage": "detector"}, None),
    ],
)
def test_the_refinement_starts_from_trained_networks(tiny_rdlr, trained, options, words):
    system = tiny_rdlr(**options)
    with pytest.raises(ConfigError, match=words) if words else contextlib.nullcontext():
        system.check_start(trained, "us")
