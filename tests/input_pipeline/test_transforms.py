import numpy as np
import pytest
from ml_collections import ConfigDict
from painted_scenes import COLOURS, found_box, paint

from input_pipeline.lazy_tensorflow import tensorflow
from input_pipeline.resampling import View, render, resize_array, resize_picture, window_size
from input_pipeline.transforms import Augmentation, focused_crop, jitter, move_boxes, safe_crop
from ps_jax.errors import ConfigError

RESIZE = (90, 150)
BOXES = ((20, 30, 44, 90), (60, 20, 76, 60), (100, 35, 130, 95))


def augment(augmentation, image, boxes, seed, identified=None):
    """Image, boxes and visibility as numpy arrays."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    identified = np.ones(len(boxes), bool) if identified is None else np.array(identified)
    size = window_size(*image.shape[:2], RESIZE)
    result = augmentation(image, boxes, identified, size, np.array([seed, 7], np.int64))
    return [part.numpy() for part in result]


def reference_resize(image, size):
    """Bilinear with half-pixel centres, in float64, by hand."""

    def taps(length, new):
        position = np.clip((np.arange(new) + 0.5) * length / new - 0.5, 0, length - 1)
        low = np.floor(position).astype(int)
        return low, np.minimum(low + 1, length - 1), position - low

    image = image.astype(np.float64)
    low, high, weight = taps(image.shape[0], size[0])
    image = image[low] * (1 - weight)[:, None, None] + image[high] * weight[:, None, None]
    low, high, weight = taps(image.shape[1], size[1])
    return image[:, low] * (1 - weight)[None, :, None] + image[:, high] * weight[None, :, None]


def step_by_step(image, view, crop, fill):
    """What `render` promises: resize, pad, cut, resize, flip, one after the other."""
    margin = 400
    picture = resize_picture(image, view.scaled).numpy()
    canvas = np.empty((picture.shape[0] + 2 * margin, picture.shape[1] + 2 * margin, 3), np.uint8)
    canvas[:] = fill
    canvas[margin:-margin, margin:-margin] = picture
    top, left = view.origin + margin
    cut = canvas[top : top + view.window[0], left : left + view.window[1]]
    result = resize_picture(cut, crop).numpy()
    return result[:, ::-1] if view.flip else result


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (1080, 1920, (844, 1500)),  # PRW
        (576, 720, (900, 1125)),
        (600, 800, (900, 1200)),  # CUHK-SYSU
        (800, 600, (1200, 900)),
        (1920, 1080, (1500, 844)),
        (333, 777, (643, 1500)),
        (900, 1500, (900, 1500)),
    ],
)
def test_window_size(height, width, expected):
    np.testing.assert_array_equal(window_size(height, width, (900, 1500)), expected)


def test_window_size_takes_arrays():
    assert window_size(np.array([576, 600]), np.array([720, 800]), (900, 1500)).tolist() == [
        [900, 1125],
        [900, 1200],
    ]


@pytest.mark.parametrize("size", [(31, 17), (90, 111), (5, 300)])
def test_resize_is_bilinear_with_half_pixel_centres(size):
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    difference = resize_picture(image, size).numpy() - reference_resize(image, size)
    assert np.abs(difference).max() <= 0.5 + 1e-3  # rounding to u8 and nothing else


def test_render_equals_the_steps_one_after_the_other():
    generator = np.random.default_rng(1)
    fill = np.array([124, 116, 104], np.uint8)
    for _ in range(60):
        image = generator.integers(0, 256, (*generator.integers(3, 80, 2), 3), dtype=np.uint8)
        crop = tuple(generator.integers(4, 60, 2).tolist())
        window = crop if generator.random() < 0.3 else generator.integers(2, 180, 2)
        view = View(
            generator.integers(4, 220, 2).astype(np.int32),
            generator.integers(-90, 120, 2).astype(np.int32),
            np.array(window, np.int32),
            bool(generator.random() < 0.5),
        )
        np.testing.assert_array_equal(render(image, view, crop, fill), step_by_step(image, view, crop, fill))


@pytest.mark.parametrize("crop", [64, (96, 48)])
@pytest.mark.parametrize("name", ["rrc2", "rrc_scale", "window"])
def test_boxes_follow_pixels(name, crop):
    image = paint(108, 160, BOXES)
    augmentation = Augmentation.from_phase(ConfigDict({"augmentation": name, "crop": crop}))
    checked, flipped = 0, set()
    for seed in range(40):
        result, boxes, visible = augment(augmentation, image, BOXES, seed)
        assert result.dtype == np.uint8
        assert result.shape[:2] == ((90, 133) if name == "window" else augmentation.crop)
        for box, colour in zip(boxes[visible], np.array(COLOURS[:3])[visible], strict=True):
            if min(box[2:] - box[:2]) < 3:
                continue  # less than three pixels wide, a colour may vanish between two samples
            np.testing.assert_allclose(found_box(result, tuple(colour.tolist())), box, atol=1.5)
            checked += 1
        centre = (boxes[:, 0] + boxes[:, 2]) / 2
        if visible[[0, 2]].all():
            flipped.add(bool(centre[0] > centre[2]))
    assert checked >= 25
    assert flipped == {False, True}


def test_flip_mirrors_picture_and_boxes():
    image = paint(108, 160, BOXES)
    augmentation = Augmentation("window", ())
    by_flip = {}
    for seed in range(20):
        result, boxes, _ = augment(augmentation, image, BOXES, seed)
        by_flip[bool(boxes[0, 0] > boxes[2, 0])] = result, boxes
    straight, mirrored = by_flip[False], by_flip[True]
    np.testing.assert_array_equal(straight[0], mirrored[0][:, ::-1])
    np.testing.assert_allclose(straight[1][:, [0, 2]], 133 - mirrored[1][:, [2, 0]], atol=1e-4)
    np.testing.assert_allclose(straight[1], np.array(BOXES) * np.tile([133 / 160, 90 / 108], 2), rtol=1e-6)


def test_visibility_rule():
    view = View(np.array([100, 100]), np.array([0, 50]), np.array([100, 50]), False)
    boxes = [
        (0, 0, 100, 10),
        (11, 0, 76, 10),
        (10, 0, 75, 10),
        (0, 0, 50, 10),
        (60, 20, 60, 40),
        (60, 20, 70, 40),
    ]
    moved, visible = move_boxes(np.array(boxes, np.float32), np.array([100, 100]), view, np.array([100, 50]))
    # Shares left of: 50/100, 26/65 (just 40 %), 25/65, nothing, an empty box, all.
    assert visible.numpy().tolist() == [True, True, False, False, False, True]
    np.testing.assert_array_equal(moved[0], [0, 0, 50, 10])
    np.testing.assert_array_equal(moved[5], [10, 20, 20, 40])


def test_boxes_reaching_out_of_the_picture_are_clipped_first():
    image = paint(90, 150, [])
    _, boxes, visible = augment(Augmentation("window", ()), image, [(-60, 10, 20, 50), (140, 20, 190, 60)], 3)
    assert visible.all()
    assert boxes[:, 0].min() >= 0 and boxes[:, 2].max() <= 150
    assert sorted((boxes[:, 2] - boxes[:, 0]).tolist()) == [10, 20]


@pytest.mark.parametrize("name", ["rrc2", "rrc_scale", "window"])
def test_same_seed_same_sample(name):
    image = np.random.default_rng(2).integers(0, 256, (108, 160, 3), dtype=np.uint8)
    augmentation = Augmentation(name, (64, 64), photometric=0.3)
    first, again, other = (augment(augmentation, image, BOXES, seed) for seed in (5, 5, 6))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert (first[0] != other[0]).any()


def test_focused_crop_contains_an_identified_person():
    boxes = np.array([(30.5, 40.2, 50.1, 90.9), (200, 100, 220, 150), (250, 10, 262, 48)], np.float32)
    identified = np.array([True, False, True])
    chosen, corners = set(), []
    for draw in np.random.default_rng(3).random((60, 3), np.float32):
        origin, window = focused_crop(boxes, identified, np.array([192, 288]), (64, 64), draw)
        assert window.numpy().tolist() == [64, 64]
        (y, x), (height, width) = origin.numpy(), window.numpy()
        assert y >= 0 and x >= 0 and y + height <= 192 and x + width <= 288
        inside = (boxes >= [x, y, x, y]).all(1) & (boxes <= [x + width, y + height] * 2).all(1)
        assert inside[identified].any()
        chosen |= set(np.flatnonzero(inside & identified).tolist())
        corners.append((y, x))
    assert chosen == {0, 2}
    assert len(set(corners)) > 30


def test_focused_crop_takes_anyone_where_nobody_is_identified():
    boxes = np.array([(30, 40, 50, 90), (200, 100, 220, 150)], np.float32)
    reached = set()
    for draw in np.random.default_rng(4).random((20, 3), np.float32):
        (_, x), _ = focused_crop(boxes, np.zeros(2, bool), np.array([192, 288]), (64, 64), draw)
        reached.add(bool(x.numpy() > 100))
    assert reached == {False, True}


def test_focused_crop_grows_with_the_person():
    box = np.array([(100.0, 20.0, 140.0, 180.0)], np.float32)
    for draw in np.random.default_rng(5).random((10, 3), np.float32):
        (y, x), window = focused_crop(box, np.ones(1, bool), np.array([192, 288]), (64, 64), draw)
        assert window.numpy().tolist() == [160, 160] and y.numpy() == 20 and 0 <= x.numpy() <= 100
        (y, _), window = focused_crop(box, np.ones(1, bool), np.array([192, 288]), (64, 32), draw)
        assert window.numpy().tolist() == [160, 80] and y.numpy() == 20


def test_focused_crop_larger_than_the_canvas_contains_the_canvas():
    box = np.array([(10.0, 100.0, 290.0, 150.0)], np.float32)
    for draw in np.random.default_rng(6).random((10, 3), np.float32):
        (y, x), window = focused_crop(box, np.ones(1, bool), np.array([192, 300]), (64, 64), draw)
        assert window.numpy().tolist() == [280, 280]
        assert -88 <= y.numpy() <= 0 and x.numpy() == 10


def test_safe_crop_keeps_all_but_a_tenth_of_everybody():
    boxes = np.array([(60, 40, 100, 120), (150, 60, 190, 140)], np.float32)
    areas, cut = [], 0
    for draw in np.random.default_rng(7).random((80, 4), np.float32):
        origin, window = safe_crop(boxes, np.array([192, 288]), draw)
        (y, x), (height, width) = origin.numpy(), window.numpy()
        assert y >= 0 and x >= 0 and y + height <= 192 and x + width <= 288
        # Eroded union: x 64 .. 186, y 48 .. 132; whole pixels may cost two more.
        assert x <= 64 and y <= 48 and x + width >= 184 and y + height >= 130
        cut += x > 60 or y > 40 or x + width < 190 or y + height < 140
        areas.append(height / width)
    assert cut > 5
    assert np.std(areas) > 0.1  # height and width are independent


def test_crops_without_people():
    nobody, none = np.zeros((0, 4), np.float32), np.zeros(0, bool)
    corners = set()
    for draw in np.random.default_rng(8).random((20, 4), np.float32):
        origin, window = focused_crop(nobody, none, np.array([192, 288]), (64, 64), draw[:3])
        assert window.numpy().tolist() == [64, 64]
        assert (origin.numpy() >= 0).all() and (origin.numpy() <= [128, 224]).all()
        corners.add(tuple(origin.numpy().tolist()))
        origin, window = safe_crop(nobody, np.array([192, 288]), draw)
        assert 171 <= window[0].numpy() <= 192 and abs(window[1].numpy() / window[0].numpy() - 1.5) < 0.01
        assert (origin.numpy() + window.numpy() <= [192, 288]).all()
    assert len(corners) > 15
    for name in ("rrc2", "rrc_scale", "window"):
        image, boxes, visible = augment(Augmentation(name, (64, 64)), paint(108, 160, []), [], 0)
        assert image.size and boxes.shape == (0, 4) and visible.shape == (0,)


def views(augmentation, boxes, size, count):
    """The views of `count` seeds, as numpy arrays."""
    tf = tensorflow()

    @tf.function
    def view(seed):
        draw = tf.random.stateless_uniform([12], seed, alg="philox")
        everybody = tf.ones([len(boxes)], tf.bool)
        return augmentation._crop_view(
            tf.constant(boxes, tf.float32), everybody, tf.constant(size), tf.constant(size), draw
        )

    return [View(*(part.numpy() for part in view(tf.constant([seed, 1], tf.int64)))) for seed in range(count)]


def test_focused_and_safe_crop_are_equally_likely():
    seen = views(Augmentation("rrc2", (64, 64)), BOXES, (108, 160), 300)
    focused = sum((view.window == 64).all() for view in seen)
    assert 120 < focused < 180  # 150 expected, 3.5 standard deviations
    assert 110 < sum(bool(view.flip) for view in seen) < 190


def test_canvas_is_three_crops_and_centred():
    # Windows of the safe crop reach over the whole canvas of 192 x 192 around a scene of 108 x 160.
    seen = views(Augmentation("rrc2", (64, 64)), [(70, 40, 90, 70)], (108, 160), 400)
    first = np.stack([view.origin for view in seen])
    last = np.stack([view.origin + view.window for view in seen])
    np.testing.assert_array_equal(first.min(0), [-42, -16])
    assert (last <= [150, 176]).all() and (last.max(0) >= [148, 173]).all()  # sizes are rounded down


@pytest.mark.parametrize("scale_range", [(1.5, 3.0), (0.5, 2.0)])
def test_random_scale_is_uniform_over_its_range(scale_range):
    # The whole picture is one box, which the safe crop and a grown focused crop show completely.
    image = paint(60, 60, [])
    augmentation = Augmentation("rrc_scale", (240, 240), scale_range=scale_range)
    factors = []
    for seed in range(100):
        _, boxes, _ = augment(augmentation, image, [(0, 0, 60, 60)], seed)
        draw = tensorflow().random.stateless_uniform([12], [seed, 7], alg="philox").numpy()
        if draw[1] < 0.5:  # focused: a window of the crop's own size, so the box shows the scale
            factors.append(int(boxes[0, 2] - boxes[0, 0]) / 60)
    factors = np.array(factors)
    assert len(factors) > 30
    assert scale_range[0] - 0.02 <= factors.min() < scale_range[0] + 0.15
    assert scale_range[1] - 0.15 < factors.max() <= scale_range[1]
    assert abs(factors.mean() - np.mean(scale_range)) < 0.15


def test_padding_colours():
    image = np.full((60, 60, 3), (200, 150, 90), np.uint8)
    image[5, 5] = (40, 60, 50)
    mean = Augmentation("rrc2", (64, 64))._fill(image).numpy()
    assert mean.tolist() == [124, 116, 104]
    # (40 / 255 - 0.485) / 0.229 = -1.4329 is the least; at that value green is 34.4, blue 21.3.
    darkest = Augmentation("rrc2", (64, 64), pad="minimum")._fill(image).numpy()
    assert darkest.tolist() == [40, 34, 21]


def test_padding_is_drawn_around_small_scenes():
    image = paint(30, 30, [])
    result, _, _ = augment(Augmentation("rrc2", (64, 64)), image, [], 0)
    padding = (result == [124, 116, 104]).all(-1).mean()
    assert 0.1 < padding < 1


def test_jitter():
    image = np.array([[[100, 50, 200], [20, 220, 60]]], np.uint8)
    np.testing.assert_array_equal(jitter(image, np.ones(3, np.float32)), image)
    np.testing.assert_array_equal(jitter(image, np.array([1.2, 1, 1], np.float32))[0, 0], [120, 60, 240])
    grey = jitter(image, np.array([1, 1, 0], np.float32)).numpy()[0]
    # 0.2989 R + 0.587 G + 0.114 B, the weights of tf.image
    np.testing.assert_array_equal(grey, [[82, 82, 82], [142, 142, 142]])
    flat = jitter(image, np.array([1, 0, 1], np.float32)).numpy()
    assert (flat == 112).all()


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ({"augmentation": "rrc3", "crop": 64}, "augmentation is 'rrc3'; known are rrc2, rrc_scale, window"),
        ({"augmentation": "rrc2", "crop": 0}, "crop"),
        ({"augmentation": "rrc2", "crop": 64, "pad": "zero"}, "pad is 'zero'; known are mean, minimum"),
        ({"augmentation": "rrc_scale", "crop": 64, "scale_range": (2.0, 1.0)}, "scale_range is"),
        ({"augmentation": "rrc2", "crop": 64, "photometric": 1.5}, "photometric is 1.5"),
    ],
)
def test_config_errors(phase, words):
    with pytest.raises(ConfigError, match=words):
        Augmentation.from_phase(ConfigDict(phase))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((120, 160), (240, 320)),
        ((576, 720), (240, 300)),
        ((7, 5), (31, 64)),
        ((48, 64), (48, 64)),
        ((1, 1), (9, 3)),
    ],
)
def test_resizing_without_tensorflow_gives_the_same_bits(before, after):
    image = np.random.default_rng(0).integers(0, 256, (*before, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_array(image, after), resize_picture(image, after).numpy())
