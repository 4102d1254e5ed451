"""Faster R-CNN and RetinaNet against torchvision, whole model: evaluation stage by stage, one training step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden_recipe import golden_order, load_golden, normalised
from spnet_cases import padded_scenes
from test_golden_seqnet import LOSS, MODEL, _check_anchors, _in_stored_order, _per_anchor, _same_set, _seen

from ps_jax.interface import People
from ps_jax.porting.rules import match_rules
from ps_jax.porting.torchvision_detectors import detector_rules, port_detector
from ps_jax.systems import FasterRCNN, RetinaNet, faster_rcnn

TRAINABLE = {"frozen_stages": -1, "freeze_norms": False}
TERMS = {
    "loss_classifier": "classification",
    "loss_box_reg": "regression",
    "loss_objectness": "proposal_classification",
    "loss_rpn_box_reg": "proposal_regression",
    "classification": "classification",
    "bbox_regression": "regression",
}


def _variables(golden, module):
    template = jax.eval_shape(lambda: module.init(jax.random.key(0), method="initialise"))
    return port_detector(golden.params(), module, template)


def _find(golden, module):
    """What the module finds in the file's scene, and what was seen on the way."""
    scenes = padded_scenes([normalised(golden.input("image"))])
    golden.check("input_batch", scenes.image, relative=1e-5)

    def detect(module):
        looked = module.look(scenes, train=False)
        return module.detect(looked, scenes), looked

    @jax.jit
    def find(variables):
        (found, looked), seen = module.apply(variables, method=detect, mutable=["intermediates"])
        return found, looked, seen

    found, looked, seen = find(_variables(golden, module))
    for stored, level in zip(
        (name for name in golden.names if name.startswith("fpn:")), looked.pyramid, strict=True
    ):
        golden.check(stored, looked.pyramid[level], relative=1e-4)
    golden.check("anchors", looked.anchors, relative=1e-6, layout=None)
    return found, looked, _seen(seen)


def _check_per_anchor(stored, ours):
    np.testing.assert_allclose(
        np.asarray(ours).reshape(stored.shape), stored, rtol=0, atol=1e-4 * np.abs(stored).max()
    )


@pytest.mark.slow
def test_faster_rcnn_evaluation(golden_dir):
    golden = load_golden(golden_dir, "frcnn_fpn_eval")
    config = golden.meta["config"]
    module = FasterRCNN(
        **TRAINABLE,
        test_proposals=(config["rpn_pre_nms"], config["rpn_post_nms"]),
        proposal_nms_threshold=config["rpn_nms"],
        score_threshold=config["score_thresh"],
        nms_threshold=config["nms"],
        detections_per_scene=config["detections"],
    )
    found, looked, seen = _find(golden, module)
    assert list(looked.levels) == golden.meta["num_anchors_per_level"]
    start = 0
    for level, count in enumerate(looked.levels):
        for name, ours, numbers in (
            ("rpn_objectness", looked.objectness, 1),
            ("rpn_deltas", looked.deltas, 4),
        ):
            if f"{name}{level}" in golden.names and f"{name}{level}@slice" not in golden._arrays:
                _check_per_anchor(
                    _per_anchor(golden.array(f"{name}{level}"), numbers), ours[0, start : start + count]
                )
        start += count
    place = _same_set(np.asarray(seen["proposals"][0]), golden.array("proposals"))
    golden.check("roi_features", np.asarray(seen["pooled"])[place], relative=MODEL)
    golden.check("fc7", np.asarray(seen["hidden"])[place], relative=MODEL, layout=None)
    golden.check("cls_logits", seen["logits"][0][place], relative=MODEL, layout=None)
    stored = golden.array("box_regression")[:, 4:]
    np.testing.assert_allclose(seen["deltas"][0][place], stored, rtol=0, atol=MODEL * np.abs(stored).max())
    valid = np.asarray(found.valid[0])
    place = _same_set(np.asarray(found.box[0])[valid], golden.array("det_boxes"))
    golden.check("det_scores", np.asarray(found.score[0])[valid][place], relative=MODEL, layout=None)


@pytest.mark.slow
def test_retinanet_evaluation(golden_dir):
    golden = load_golden(golden_dir, "retinanet_fpn_eval")
    module = RetinaNet(**TRAINABLE, classes=2)
    found, looked, seen = _find(golden, module)
    assert list(looked.levels) == golden.meta["num_anchors_per_level"]
    golden.check("cls_logits", looked.logits, relative=MODEL, layout=None)
    golden.check("box_regression", looked.deltas, relative=MODEL, layout=None)
    box, score, label, kept = (np.asarray(x[0]) for x in seen["found"])
    place = _same_set(box[kept], golden.array("det_boxes"))
    golden.check("det_scores", score[kept][place], relative=MODEL, layout=None)
    np.testing.assert_array_equal(label[kept][place], golden.array("det_labels"))
    people = golden.array("det_labels") == 1
    assert np.asarray(found.valid[0]).sum() == people.sum() > 0


def _step(golden, module):
    sizes = golden.meta["sizes"]
    scenes = padded_scenes([normalised(golden.input(f"image{i}")) for i in range(len(sizes))])
    golden.check("input_batch", scenes.image, relative=1e-5)
    slots = max(len(golden.array(f"boxes{i}")) for i in range(len(sizes))) + 1
    box, valid = np.zeros((len(sizes), slots, 4), np.float32), np.zeros((len(sizes), slots), bool)
    for i in range(len(sizes)):
        stored = golden.array(f"boxes{i}")
        box[i, : len(stored)], valid[i, : len(stored)] = stored, True
    nobody = jnp.full(valid.shape, -1)
    people = People(jnp.asarray(box), nobody, nobody, jnp.asarray(valid))
    variables = _variables(golden, module)

    def train(module):
        looked = module.look(scenes, train=True)
        return *module.losses(looked, scenes, people, jax.random.key(0)), looked

    def total(params, statistics):
        (terms, candidates, looked), changed = module.apply(
            {"params": params, "batch_stats": statistics},
            method=train,
            mutable=["batch_stats", "intermediates"],
        )
        return sum(terms.values()), (terms, candidates, looked, changed)

    gradients, seen = jax.jit(jax.grad(total, has_aux=True))(variables["params"], variables["batch_stats"])
    return gradients, *seen


def _check_step(golden, module, gradients, terms, statistics):
    for name, value in golden.meta["losses"].items():
        np.testing.assert_allclose(terms[TERMS[name]], value, rtol=LOSS, err_msg=name)
    flat = traverse_util.flatten_dict(gradients, sep="/")
    rules = match_rules(golden.meta["grad_l2"], detector_rules(module))
    assert len(rules) == len(golden.meta["grad_l2"]) > 50
    for name, norm in golden.meta["grad_l2"].items():
        ours = np.asarray(flat[rules[name].ours.removeprefix("params/")])
        np.testing.assert_allclose(np.linalg.norm(ours), norm, rtol=1e-2, atol=1e-6, err_msg=name)
    flat = traverse_util.flatten_dict(statistics, sep="/")
    after = [name for name in golden.names if name.startswith("after:")]
    for name, rule in match_rules(
        [name.removeprefix("after:") for name in after], detector_rules(module)
    ).items():
        golden.check(
            f"after:{name}", flat[rule.ours.removeprefix("batch_stats/")], relative=MODEL, layout=None
        )


@pytest.mark.slow
def test_faster_rcnn_training(golden_dir, monkeypatch):
    golden = load_golden(golden_dir, "frcnn_fpn_train")
    config = golden.meta["config"]
    module = FasterRCNN(
        **TRAINABLE,
        train_proposals=(2000, config["rpn_post_nms_top_n_train"]),
        samples_per_image=config["box_batch_size_per_image"],
        order=golden_order,
    )
    monkeypatch.setattr(
        faster_rcnn, "choose_proposals", _in_stored_order(golden, faster_rcnn.choose_proposals)
    )
    gradients, terms, candidates, _, changed = _step(golden, module)
    seen = _seen(changed)
    for i in range(len(golden.meta["sizes"])):
        _check_anchors(golden, seen, i)
        sampled = jax.tree.map(lambda x, i=i: np.asarray(x[i]), seen["sampled"])
        golden.check(f"roi_boxes{i}", sampled.box, relative=MODEL, layout=None)
        positive = golden.array(f"roi_labels{i}") == 1
        np.testing.assert_array_equal(sampled.positive, positive)
        np.testing.assert_array_equal(sampled.person[positive], golden.array(f"roi_matched{i}")[positive])
        np.testing.assert_array_equal(candidates.valid[i], positive)
    for stored in ("cls_logits", "box_regression"):
        ours = seen["logits" if stored == "cls_logits" else "deltas"]
        wanted = golden.array(stored)[:, -ours.shape[-1] :]
        np.testing.assert_allclose(
            np.asarray(ours).reshape(wanted.shape),
            wanted,
            rtol=0,
            atol=MODEL * np.abs(golden.array(stored)).max(),
        )
    _check_step(golden, module, gradients, terms, changed["batch_stats"])


@pytest.mark.slow
def test_retinanet_training(golden_dir):
    golden = load_golden(golden_dir, "retinanet_fpn_train")
    module = RetinaNet(**TRAINABLE, classes=2)
    gradients, terms, candidates, looked, changed = _step(golden, module)
    matched = np.asarray(_seen(changed)["matched"])
    for i in range(len(golden.meta["sizes"])):
        np.testing.assert_array_equal(matched[i], golden.array(f"matched_idxs{i}"))
        assert candidates.valid[i].sum() == min((matched[i] >= 0).sum(), module.candidates)
    golden.check("cls_logits", looked.logits, relative=MODEL, layout=None)
    golden.check("box_regression", looked.deltas, relative=MODEL, layout=None)
    _check_step(golden, module, gradients, terms, changed["batch_stats"])
