"""Sparse R-CNN's head against its released code: stages, dynamic convolutions, matching, losses and gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden_recipe import Golden, det_normal, load_golden

from kernels.roi_align import multiscale_roi_align
from ps_jax.heads import DynamicInteraction, ProposalStage
from ps_jax.losses import SetWeights, match_predictions, set_losses
from ps_jax.porting import match_rules, port_tensors, proposal_stage_rules
from ps_jax.porting.sparse_rcnn import RELEASE

MODEL, LOSS = 1e-3, 1e-4
# Single elements of a gradient: features that change by 1e-6 of themselves move them by 1.2 %, as activations near
# the kink of a ReLU change sides. Directions and norms are compared more closely.
ELEMENT, DIRECTION = 3e-2, 1e-4
LEVELS = (2, 3, 4, 5)
RULES = proposal_stage_rules(RELEASE._replace(stage="head_series.{stage}."), "stage{stage}/")


def _levels(golden: Golden) -> list[jax.Array]:
    """The pyramid, as the recipe in `meta["features"]` makes it."""
    recipe = golden.meta["features"]
    (prefix,) = re.findall(r'det_normal\(seed,"(.*)<i>"', recipe)
    height, width = golden.meta["hw"]
    channels = golden.meta["config"]["HIDDEN_DIM"]
    levels = []
    for i in LEVELS:
        shape = (golden.meta["B"], channels, height // 2**i, width // 2**i)
        levels.append(jnp.asarray(det_normal(golden.seed, f"{prefix}{i}", shape).transpose(0, 2, 3, 1)))
    return levels


def _people(golden: Golden, spare_slots: int = 2) -> tuple[jax.Array, jax.Array]:
    scenes = [golden.array(f"gt_boxes{i}") for i in range(golden.meta["B"])]
    slots = max(map(len, scenes)) + spare_slots
    box = np.zeros((len(scenes), slots, 4), np.float32)
    for row, boxes in enumerate(scenes):
        box[row, : len(boxes)] = boxes
    return jnp.asarray(box), jnp.asarray(np.any(box != 0, axis=-1))


def _head(golden: Golden):
    """The module of one stage, and the parameters of all."""
    config = golden.meta["config"]
    stage = ProposalStage(
        config["NHEADS"], config["DIM_DYNAMIC"], config["DIM_FEEDFORWARD"], config["NUM_REG"]
    )
    channels = config["HIDDEN_DIM"]
    arguments = (jnp.zeros((1, 2, channels)), jnp.zeros((1, 2, 4)), jnp.zeros((1, 2, 49, channels)))
    template = jax.eval_shape(lambda: stage.init(jax.random.key(0), *arguments))["params"]
    names = {f"stage{index}": template for index in range(config["NUM_HEADS"])}
    return stage, port_tensors(golden.params(), RULES, {"params": names})["params"]


def _pool(levels, box):
    index = jnp.repeat(jnp.arange(box.shape[0]), box.shape[1])
    scales = [2.0**-i for i in LEVELS]
    pooled = multiscale_roi_align(
        *(levels, box.reshape(-1, 4), index),
        output_size=(7, 7),
        spatial_scales=scales,
        sampling_ratio=2,
        aligned=True,
    )
    return pooled.reshape(*box.shape[:2], 49, -1)


@pytest.mark.slow
def test_the_head_its_matching_and_its_losses_are_the_releases(golden_dir):
    golden = load_golden(golden_dir, "sparse_rcnn_head")
    config = golden.meta["config"]
    stage, params = _head(golden)
    levels, (person, valid) = _levels(golden), _people(golden)
    size = jnp.tile(jnp.asarray(golden.meta["hw"]), (golden.meta["B"], 1))
    weights = SetWeights(config["CLASS_WEIGHT"], config["L1_WEIGHT"], config["GIOU_WEIGHT"])

    def total(params, features, levels):
        features = jnp.broadcast_to(features, (golden.meta["B"], *features.shape))
        box, terms, seen = jnp.asarray(golden.array("init_boxes")), [], []
        for name in sorted(params):
            pooled = _pool(levels, box)
            output, collections = stage.apply(
                {"params": params[name]},
                *(features, box, pooled),
                capture_intermediates=lambda module, _: isinstance(module, DynamicInteraction),
            )
            matched = match_predictions(output.logit, output.box, person, valid, size, weights)
            losses = set_losses(output.logit, output.box, person, matched, size)
            losses = jax.tree.map(lambda x: x / jnp.sum(valid), losses)
            interaction = collections["intermediates"]["interaction"]["__call__"][0]
            seen.append((output, pooled, interaction, matched))
            terms.append(losses)
            features, box = output.features, jax.lax.stop_gradient(output.box)
        objective = sum(
            weight * part for losses in terms for weight, part in zip(weights, losses, strict=True)
        )
        return objective, (terms, seen)

    features = jnp.asarray(golden.array("init_features"))
    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
    (of_params, of_features, of_levels), (terms, seen) = gradient(params, features, levels)

    noise = golden.meta["f32_vs_f64"]
    for name, ours, bound in (
        ("class_logits", np.stack([output.logit[..., None] for output, *_ in seen]), noise["logits"]),
        ("pred_boxes", np.stack([output.box for output, *_ in seen]), noise["boxes"]),
    ):
        golden.check(name, ours, relative=MODEL, layout=None, noise=bound)
    output, pooled, interaction, _ = seen[0]
    rows = golden.meta["B"] * golden.meta["N"]
    golden.check("dynconv_pro_in", output.attended.reshape(1, rows, -1), relative=MODEL, layout=None)
    cells = np.asarray(pooled).reshape(rows, 49, -1).transpose(1, 0, 2)
    golden.check("dynconv_roi_in", cells, relative=1e-5, layout=None)
    golden.check("dynconv_out", interaction.reshape(rows, -1), relative=MODEL, layout=None)

    for scene, own in enumerate(np.asarray(valid)):
        order = np.argsort(golden.array(f"match_gt{scene}"))
        expected = golden.array(f"match_pred{scene}")[order]
        matched = np.asarray(seen[-1][3])[scene]
        np.testing.assert_array_equal(matched[own], expected)
        assert np.all(matched[~own] == -1)
    stages = len(terms)
    for index, losses in enumerate(terms):
        suffix = "" if index == stages - 1 else f"_{index}"
        for name, value in zip(("ce", "bbox", "giou"), losses, strict=True):
            stored = golden.meta["losses"][f"loss_{name}{suffix}"]
            np.testing.assert_allclose(value, stored, rtol=LOSS, err_msg=f"{name}{suffix}")

    golden.check("grad_init_features", of_features, relative=ELEMENT, layout=None)
    golden.check("grad_p3", of_levels[1], relative=ELEMENT)
    stored, ours = golden.array("grad_init_features").ravel(), np.asarray(of_features).ravel()
    lengths = np.linalg.norm(stored), np.linalg.norm(ours)
    np.testing.assert_allclose(*lengths, rtol=1e-3)
    assert stored @ ours > (1 - DIRECTION) * lengths[0] * lengths[1]
    flat = traverse_util.flatten_dict({"params": of_params}, sep="/")
    norms = golden.meta["grad_l2"]
    placed = match_rules(norms, RULES)
    assert set(placed) == set(norms) and len(flat) == len(norms)
    for name, norm in norms.items():
        np.testing.assert_allclose(np.linalg.norm(flat[placed[name].ours]), norm, rtol=1e-3, err_msg=name)
