"""Boxes, operations and losses against the numbers that torchvision computes, forward and backward.

How many cases a file has, and their settings, is read from its keys and its `meta`.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_recipe import Golden, det_normal, load_golden

from kernels.deform_conv import deform_conv
from kernels.nms import batched_nms, nms
from kernels.roi_align import assign_levels, multiscale_roi_align, roi_align
from kernels.roi_transform import grid_sample
from ps_jax import boxes as bx
from ps_jax.layers import BatchNorm
from ps_jax.layers.pooling import adaptive_average_pool, adaptive_max_pool, max_pool
from ps_jax.layers.resize import resize_bilinear, resize_nearest
from ps_jax.losses import giou_loss, sigmoid_focal_loss, smooth_l1

TOLERANCE = 1e-5

every_implementation = pytest.mark.parametrize(
    "implementation", ["xla", pytest.param("interpreted", marks=pytest.mark.slow), "gpu"], indirect=True
)


def matching(golden: Golden, pattern: str) -> list[re.Match]:
    """Matches of the array names that a pattern describes; at least one, so that a test cannot pass idly."""
    found = [match for name in golden.names if (match := re.fullmatch(pattern, name))]
    assert found, f"{golden.item} has no array like {pattern}"
    return found


def on_device(golden: Golden, name: str, layout: str | None = None) -> jax.Array:
    return jnp.asarray(golden.array(name, layout))


@pytest.fixture
def misc(golden_dir):
    return load_golden(golden_dir, "ops_misc")


def test_anchors(golden_dir):
    golden = load_golden(golden_dir, "ops_anchors")
    ratios = (0.5, 1.0, 2.0)
    seqnet_sizes = (32, 64, 128, 256, 512)
    image_size = tuple(golden.meta["image_hw"])
    np.testing.assert_array_equal(bx.cell_anchors(seqnet_sizes, ratios), golden.array("seqnet_cell"))
    stride = 16
    feature_size = (image_size[0] // stride, image_size[1] // stride)
    anchors = bx.pyramid_anchors(image_size, [feature_size], [seqnet_sizes], ratios)
    np.testing.assert_array_equal(anchors, golden.array("seqnet"))

    sizes = golden.meta["spnet_sizes"]
    for match in matching(golden, r"spnet_cell(\d+)"):
        cell = bx.cell_anchors(sizes[int(match[1])], ratios)
        np.testing.assert_array_equal(cell, golden.array(match[0]))
    feature_sizes = [tuple(size) for size in golden.meta["spnet_feature_hw"]]
    anchors = bx.pyramid_anchors(image_size, feature_sizes, sizes, ratios)
    np.testing.assert_array_equal(anchors, golden.array("spnet"))


@every_implementation
def test_roi_align(golden_dir, implementation):
    golden = load_golden(golden_dir, "ops_roi_align")
    features = on_device(golden, "feat", "NCHW")
    rois = golden.array("rois")
    boxes, batch_index = jnp.asarray(rois[:, 1:]), jnp.asarray(rois[:, 0].astype(np.int32))
    scale = golden.meta["spatial_scale"]
    # More samples than any bin of any box can have.
    bound = int(np.ceil(max(1, np.ptp(rois[:, 1:]) * scale)))
    for match in matching(golden, r"s(\d+)x(\d+)_al(\d)_sr(\d+)_out"):
        height, width, aligned, sampling_ratio = (int(text) for text in match.groups())

        # The boxes are an argument: the compiler would spend minutes sorting constants.
        @jax.jit
        def pool(
            *arrays, height=height, width=width, aligned=aligned, sampling_ratio=sampling_ratio, bound=bound
        ):
            features, boxes = arrays
            return roi_align(
                features,
                boxes,
                batch_index,
                output_size=(height, width),
                spatial_scale=scale,
                sampling_ratio=sampling_ratio,
                aligned=bool(aligned),
                max_sampling=-(-bound // min(height, width)) if sampling_ratio == 0 else None,
                implementation=implementation,
            )

        pooled, vjp = jax.vjp(lambda features, pool=pool: pool(features, boxes), features)
        golden.check(match[0], pooled, relative=TOLERANCE)
        shape = golden.array(match[0]).shape
        cotangent = det_normal(golden.seed, f"ops.roi_align.g.{height}.{width}", shape)
        (gradient,) = vjp(jnp.asarray(cotangent.transpose(0, 2, 3, 1)))
        golden.check(match[0].replace("_out", "_gradfeat"), gradient, relative=TOLERANCE)


@every_implementation
def test_multiscale_roi_align(golden_dir, implementation):
    golden = load_golden(golden_dir, "ops_roi_align")
    features = [on_device(golden, match[0], "NCHW") for match in matching(golden, r"ms_feat\d")]
    boxes = on_device(golden, "ms_boxes")
    scales = golden.meta["ms_scales"]
    np.testing.assert_array_equal(assign_levels(boxes, scales), golden.array("ms_levels"))
    pooled = multiscale_roi_align(
        features,
        boxes,
        jnp.zeros(boxes.shape[0], jnp.int32),
        output_size=golden.array("ms_out").shape[2:],
        spatial_scales=scales,
        sampling_ratio=2,
        aligned=False,
        implementation=implementation,
    )
    golden.check("ms_out", pooled, relative=TOLERANCE)


def test_nms(golden_dir):
    golden = load_golden(golden_dir, "ops_nms")
    for match in matching(golden, r"c(\d+)_boxes"):
        case = f"c{match[1]}"
        boxes, scores, labels = (
            on_device(golden, f"{case}_{name}") for name in ("boxes", "scores", "labels")
        )
        valid = jnp.ones(boxes.shape[0], bool)
        threshold = golden.meta[f"thr{match[1]}"]

        def by_score(keep, scores=scores):
            kept = np.flatnonzero(keep)
            return kept[np.argsort(-np.asarray(scores)[kept], kind="stable")]

        suppress = jax.jit(nms, static_argnums=3)
        suppress_by_class = jax.jit(batched_nms, static_argnums=(4, 5))
        keep = by_score(suppress(boxes, scores, valid, threshold))
        np.testing.assert_array_equal(keep, golden.array(f"{case}_keep"))
        keep = by_score(suppress_by_class(boxes, scores, labels, valid, threshold, True))
        np.testing.assert_array_equal(keep, golden.array(f"{case}_bkeep"))
        # The loop over classes sorts its result without care for equal scores: the same boxes, any order.
        keep = np.flatnonzero(suppress_by_class(boxes, scores, labels, valid, threshold, False))
        np.testing.assert_array_equal(keep, np.sort(golden.array(f"{case}_bkeep_loop")))

    boxes, scores = on_device(golden, "edge_boxes"), on_device(golden, "edge_scores")
    for match in matching(golden, r"edge_keep_thr(.+)"):
        keep = nms(boxes, scores, jnp.ones(boxes.shape[0], bool), float(match[1]))
        np.testing.assert_array_equal(np.flatnonzero(keep), golden.array(match[0]))
    keep = nms(jnp.zeros((0, 4)), jnp.zeros(0), jnp.zeros(0, bool), 0.5)
    np.testing.assert_array_equal(np.flatnonzero(keep), golden.array("empty_keep"))


@every_implementation
def test_deform_conv(golden_dir, implementation):
    golden = load_golden(golden_dir, "ops_deform_conv")
    for match in matching(golden, r"c(\d+)_v([12])_out"):
        case = f"c{match[1]}"
        setting = golden.meta[f"case{match[1]}"]
        arguments = {
            "x": on_device(golden, f"{case}_x", "NCHW"),
            "off": on_device(golden, f"{case}_off", "NCHW"),
            "w": on_device(golden, f"{case}_w", "OIHW"),
            "b": on_device(golden, f"{case}_b"),
        }
        if match[2] == "2":
            arguments["mask"] = on_device(golden, f"{case}_mask", "NCHW")

        def convolve(arguments, setting=setting):
            return deform_conv(
                arguments["x"],
                arguments["off"],
                arguments["w"],
                arguments["b"],
                arguments.get("mask"),
                stride=tuple(setting["st"]),
                padding=tuple(setting["pa"]),
                dilation=tuple(setting["di"]),
                implementation=implementation,
            )

        result, vjp = jax.vjp(jax.jit(convolve), arguments)
        golden.check(match[0], result, relative=TOLERANCE)
        (gradients,) = vjp(on_device(golden, f"{case}_g", "NCHW"))
        for name, gradient in gradients.items():
            layout = "OIHW" if name == "w" else "NCHW"
            golden.check(f"{case}_v{match[2]}_grad_{name}", gradient, relative=TOLERANCE, layout=layout)


@every_implementation
def test_grid_sample(misc, implementation):
    image, grid = on_device(misc, "gs_x", "NCHW"), on_device(misc, "gs_grid")
    for match in matching(misc, r"gs_out_ac([01])"):
        align_corners = match[1] == "1"

        def sample(image, grid, align_corners=align_corners):
            return grid_sample(image, grid, align_corners=align_corners, implementation=implementation)

        sampled, vjp = jax.vjp(jax.jit(sample), image, grid)
        misc.check(match[0], sampled, relative=TOLERANCE)
        cotangent = det_normal(misc.seed, "gs.g", misc.array(match[0]).shape)
        gradient_image, gradient_grid = vjp(jnp.asarray(cotangent.transpose(0, 2, 3, 1)))
        misc.check(f"gs_gradx_ac{match[1]}", gradient_image, relative=TOLERANCE)
        misc.check(f"gs_gradgrid_ac{match[1]}", gradient_grid, relative=TOLERANCE, layout=None)


def test_frozen_batch_norm(misc):
    variables = {
        "params": {"scale": on_device(misc, "fbn_weight"), "bias": on_device(misc, "fbn_bias")},
        "batch_stats": {
            "mean": on_device(misc, "fbn_running_mean"),
            "var": on_device(misc, "fbn_running_var"),
        },
    }
    x = on_device(misc, "fbn_x", "NCHW")
    normalised = BatchNorm().apply(variables, x, use_running_average=True)
    misc.check("fbn_out", normalised, relative=TOLERANCE)


def test_coder(misc):
    anchors, boxes, deltas = (on_device(misc, name) for name in ("bc_anchors", "bc_ref", "bc_deltas"))
    weights = ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0))
    for match in matching(misc, r"bc_encode_w(\d)"):
        encoded = bx.encode(boxes, anchors, weights[int(match[1])])
        misc.check(match[0], encoded, relative=TOLERANCE)
        decoded = bx.decode(deltas, anchors, weights[int(match[1])])
        misc.check(f"bc_decode_w{match[1]}", decoded, relative=TOLERANCE)


def test_overlap(misc):
    a, b = on_device(misc, "iou_a"), on_device(misc, "iou_b")
    misc.check("iou", bx.pairwise_iou(a, b), relative=TOLERANCE)
    misc.check("giou", bx.pairwise_giou(a, b), relative=TOLERANCE)
    b = b[: a.shape[0]]
    np.testing.assert_array_equal(bx.elementwise_iou(a, b), jnp.diagonal(bx.pairwise_iou(a, b)))
    misc.check("giou_loss", giou_loss(a, b), relative=TOLERANCE)
    gradient = jax.grad(lambda a: giou_loss(a, b).sum())(a)
    misc.check("giou_loss_grad_a", gradient, relative=TOLERANCE)


def test_focal_loss(misc):
    logits, targets = on_device(misc, "fl_logits"), on_device(misc, "fl_targets")
    for match in matching(misc, r"fl_a([-.\d]+)_g([.\d]+)"):
        alpha, gamma = float(match[1]), float(match[2])
        misc.check(match[0], sigmoid_focal_loss(logits, targets, alpha, gamma), relative=TOLERANCE)
        gradient = jax.grad(
            lambda logits, alpha=alpha, gamma=gamma: sigmoid_focal_loss(logits, targets, alpha, gamma).sum()
        )(logits)
        misc.check(match[0].replace("fl_", "fl_grad_"), gradient, relative=TOLERANCE)


def test_matching(misc):
    boxes, anchors = on_device(misc, "match_gt"), on_device(misc, "match_anchors")
    iou = bx.pairwise_iou(boxes, anchors)
    for match in matching(misc, r"match_hi([.\d]+)_lo([.\d]+)_lq([01])"):
        valid = jnp.ones(boxes.shape[0], bool)
        matched = bx.match_anchors(iou, valid, float(match[1]), float(match[2]), match[3] == "1")
        np.testing.assert_array_equal(matched, misc.array(match[0]))


def test_limits_of_boxes(misc):
    height, width = re.search(r"size \((\d+),(\d+)\)", misc.meta["doc"]["clip_out"]).groups()
    clipped = bx.clip_boxes(on_device(misc, "clip_in"), jnp.asarray([int(height), int(width)]))
    np.testing.assert_array_equal(clipped, misc.array("clip_out"))
    # The file does not say which size was asked for: it is the side of the smallest box kept or less.
    sides = np.minimum(*(np.asarray(clipped)[:, 2:] - np.asarray(clipped)[:, :2]).T)
    min_size = float(sides[misc.array("small_keep")].min())
    keep = bx.large_enough(clipped, min_size)
    np.testing.assert_array_equal(np.flatnonzero(keep), misc.array("small_keep"))


def test_smooth_l1(misc):
    x, y = on_device(misc, "sl1_x"), on_device(misc, "sl1_y")
    for match in matching(misc, r"sl1_b([.\d]+)"):
        beta = 1 / round(1 / float(match[1]))  # the name gives four digits: 0.1111 is 1/9
        misc.check(match[0], smooth_l1(x, y, beta), relative=TOLERANCE)


def test_resize_and_pooling(misc):
    x = on_device(misc, "ip_x", "NCHW")
    for match in matching(misc, r"ip_nearest_(\d+)x(\d+)"):
        resized = resize_nearest(x, (int(match[1]), int(match[2])))
        misc.check(match[0], resized, relative=0.0)
    for match in matching(misc, r"ip_bilinear_ac([01])_(\d+)x(\d+)"):
        resized = resize_bilinear(x, (int(match[2]), int(match[3])), align_corners=match[1] == "1")
        misc.check(match[0], resized, relative=TOLERANCE)
    for match in matching(misc, r"ip_adapt(max|avg)_(\d+)x(\d+)"):
        pool = adaptive_max_pool if match[1] == "max" else adaptive_average_pool
        misc.check(match[0], pool(x, (int(match[2]), int(match[3]))), relative=TOLERANCE)
    for match in matching(misc, r"ip_maxpool_k(\d)s(\d)p(\d)"):
        misc.check(match[0], max_pool(x, int(match[1]), int(match[2]), int(match[3])), relative=0.0)
