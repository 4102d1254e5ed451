"""The recipe of the golden numbers: its checksums, and the comparison that all golden tests use."""

import json
import zlib

import golden_recipe as recipe
import jax
import jax.numpy as jnp
import numpy as np
import pytest

MADE = {
    "conv weight": (
        lambda: recipe.det_tensor(0, "backbone.layer1.0.conv1.weight", (64, 64, 1, 1)),
        0x050A4D12,
        [0.025917, -0.053411, 0.103287],
    ),
    "running variance": (
        lambda: recipe.det_tensor(0, "backbone.bn1.running_var", (64,)),
        0xB16BE35A,
        [1.418873, 1.448523, 0.906106],
    ),
    "table of unit rows": (
        lambda: recipe.det_tensor(7, "roi_heads.reid_loss.lut", (482, 256)),
        0x87F8ECC3,
        [0.050716, 0.021544, -0.012332],
    ),
    "bias": (
        lambda: recipe.det_tensor(0, "head.feature_head.emb_pred.bias", (1152,)),
        0x03BAAFDE,
        [-0.025426, 0.023611, -0.00036],
    ),
    "image": (
        lambda: recipe.det_image(0, "seqnet.image", 224, 320),
        0x16A21C52,
        [0.555634, 0.678834, 0.471156],
    ),
    "boxes": (
        lambda: recipe.det_boxes(7, "spnet.train.boxes0", 4, 256, 192, 28.0, 0.6),
        0x55B4BCA1,
        [96.0, 85.25, 134.25],
    ),
    "permutation": (lambda: recipe.golden_perm(1000), 0x39EA0CC4, [0.0, 619.0, 238.0]),
}


@pytest.mark.parametrize("name", MADE)
def test_checksums(name):
    make, crc, first = MADE[name]
    value = make()
    np.testing.assert_allclose(value.ravel()[:3], first, atol=6e-7)
    assert zlib.crc32(value.tobytes()) == crc


def test_factor_is_applied_before_rounding_to_float32():
    meta = {"seed": 3, "params": [["a.weight", [4, 5]]], "overrides": {"a.weight": 0.161}}
    z = recipe.stream(3, "a.weight").standard_normal(size=(4, 5))
    np.testing.assert_array_equal(
        recipe.fill_params(meta)["a.weight"], (z / np.sqrt(5) * 0.161).astype(np.float32)
    )


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 59, 60])
def test_golden_order_is_golden_perm_of_the_candidates(count):
    rng = np.random.default_rng(count)
    mask = np.zeros(60, bool)
    mask[rng.permutation(60)[:count]] = True
    order = np.asarray(jax.jit(recipe.golden_order)(jax.random.key(0), jnp.asarray(mask)))
    assert np.isinf(order[~mask]).all()
    drawn = np.argsort(order, kind="stable")[:count]
    np.testing.assert_array_equal(drawn, np.flatnonzero(mask)[recipe.golden_perm(count)])
    np.testing.assert_array_equal(np.sort(order[mask]), np.arange(count))


def test_golden_order_under_vmap():
    masks = jnp.asarray(np.random.default_rng(0).random((3, 25)) < 0.5)
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(recipe.golden_order)(keys, masks)
    for row in range(3):
        np.testing.assert_array_equal(together[row], recipe.golden_order(keys[row], masks[row]))


@pytest.fixture
def small_file(tmp_path):
    value = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5) / 10
    meta = {"item": "small", "seed": 5, "slices": {"big": {"shape": [2, 3, 4, 5], "stride": 7}}}
    meta["f32_vs_f64"] = {"noisy": 0.5}
    image = recipe.normalised(recipe.det_image(5, "x", 9, 11))
    meta["inputs"] = {
        "image": {
            "recipe": 'normalised det_image(5,"x",9,11)',
            "shape": [1, 3, 9, 11],
            "crc32": hex(zlib.crc32(image.tobytes())),
        }
    }
    stats = np.array([value.mean(), value.std(), value.max(), np.linalg.norm(value)], np.float32)
    arrays = {"whole": value, "big@slice": value.ravel()[::7], "big@stats": stats, "noisy": value}
    np.savez(tmp_path / "small.npz", meta=np.array(json.dumps(meta)), **arrays)
    return recipe.load_golden(tmp_path, "small"), value, image


def test_check_accepts_the_stored_value_in_our_layout(small_file):
    golden, value, _ = small_file
    assert golden.names == ["whole", "big", "noisy"]
    for name in golden.names:
        golden.check(name, value.transpose(0, 2, 3, 1), relative=1e-6)
        golden.check(name, value, relative=1e-6, layout=None)
    golden.check("noisy", value + 0.49, relative=1e-6, layout=None)
    np.testing.assert_array_equal(golden.array("whole", layout="NCHW"), value.transpose(0, 2, 3, 1))


def test_check_names_measured_and_allowed_difference(small_file):
    golden, value, _ = small_file
    wrong = value.copy()
    wrong[0, 0, 0, 0] += 0.3
    with pytest.raises(
        AssertionError, match=r"small: whole: a value differs by 3\.000e-01, allowed 1\.190e-04"
    ):
        golden.check("whole", wrong, relative=1e-5, layout=None)
    with pytest.raises(AssertionError, match="a value of the slice differs"):
        golden.check("big", wrong, relative=1e-5, layout=None)
    wrong = value.copy()
    wrong[0, 0, 0, 1] += 0.3  # not in the slice: only the statistics see it
    with pytest.raises(AssertionError, match="the mean differs"):
        golden.check("big", wrong, relative=1e-5, layout=None)
    with pytest.raises(AssertionError, match="shape"):
        golden.check("whole", value[:1], relative=1.0, layout=None)
    wrong[0, 0, 0, 1] = np.nan
    with pytest.raises(AssertionError, match="nan"):
        golden.check("whole", wrong, relative=1.0, layout=None)
    with pytest.raises(AssertionError, match="differs"):
        golden.check("noisy", value + 0.51, relative=1e-6, layout=None)


def test_input_follows_the_recipe_and_its_checksum(small_file):
    golden, _, image = small_file
    np.testing.assert_array_equal(golden.input("image"), image[None])
    assert golden.input("image", layout="NCHW").shape == (1, 9, 11, 3)
    golden.meta["inputs"]["image"]["crc32"] = "0x1"
    with pytest.raises(AssertionError, match="another checksum"):
        golden.input("image")


def test_missing_file_is_skipped_only_in_a_custom_folder(tmp_path):
    with pytest.raises(pytest.skip.Exception, match=r"nothing\.npz does not exist"):
        recipe.load_golden(tmp_path, "nothing")
    with pytest.raises(FileNotFoundError):
        recipe.load_golden(recipe.DEFAULT_GOLDEN_DIR, "nothing")
