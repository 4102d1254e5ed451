import io
import itertools

import numpy as np
import pytest
from ml_collections import ConfigDict
from painted_scenes import COLOURS, found_box, write_split
from PIL import Image

from input_pipeline.batches import Annotations, pad_people, scene_batches, train_batches
from input_pipeline.decoding import decode_picture
from input_pipeline.plan import TrainPlan, scene_plan, steps_per_epoch
from input_pipeline.resampling import window_size
from input_pipeline.scenes import UNKNOWN, Person, Scene, Split
from input_pipeline.source import open_source
from ps_jax.errors import ConfigError, DataError

RESIZE = (90, 150)
LANDSCAPE, UPRIGHT, SQUARE = (60, 100), (100, 60), (70, 71)
FEW = [((10, 10, 22, 40), 31), ((30, 5, 42, 45), UNKNOWN), ((44, 20, 56, 52), 12)]
SIZES = [LANDSCAPE] * 4 + [UPRIGHT] * 3 + [SQUARE] * 2
PEOPLE = [FEW, [], FEW[:1], FEW[1:2], FEW[::-1], FEW, [], FEW[:2], FEW]


def phase(**changes):
    settings = {"augmentation": "rrc2", "crop": 48, "views": 1, "batch_size": 4, "epochs": 1.0}
    return ConfigDict(settings | changes)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return write_split(tmp_path_factory.mktemp("scenes"), SIZES, PEOPLE)


def stream(split, settings, steps, seed=0, max_people=4, **place):
    batches = train_batches(split, settings, resize=RESIZE, max_people=max_people, seed=seed, **place)
    return list(itertools.islice(batches, steps))


def leaves(batch):
    return [batch.scenes.image, batch.scenes.size, *batch.people, batch.index]


def assert_same(one, two):
    for first, second in zip(leaves(one), leaves(two), strict=True):
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)


def test_types_and_shapes(split):
    (batch,) = stream(split, phase(crop=(32, 48)), 1)
    kinds = [(leaf.dtype.name, leaf.shape) for leaf in leaves(batch)]
    assert kinds == [
        ("uint8", (4, 32, 48, 3)),
        ("int32", (4, 2)),
        ("float32", (4, 4, 4)),
        ("int32", (4, 4)),
        ("int32", (4, 4)),
        ("bool", (4, 4)),
        ("int32", (4,)),
    ]
    np.testing.assert_array_equal(batch.scenes.size, [[32, 48]] * 4)
    assert batch.scenes.raw is None and batch.scenes.raw_size is None


def test_annotations_number_people(split):
    annotations = Annotations.of(split)
    assert annotations.identity[:3].tolist() == [1, -1, 0]  # identities 31 and 12 are labels 1 and 0
    assert annotations.person[:6].tolist() == [1, 2 + 1, 0, 1, 2 + 4, 0]
    unknown = annotations.person[annotations.identity < 0]
    assert len(set(unknown.tolist())) == len(unknown) and unknown.min() >= 2
    assert annotations.start.tolist() == [0, 3, 3, 4, 5, 8, 11, 11, 13, 16]
    assert annotations.most == 8


@pytest.mark.parametrize("name", ["rrc2", "rrc_scale", "window"])
def test_boxes_of_batches_follow_pixels(split, name):
    checked = 0
    for batch in stream(split, phase(augmentation=name, batch_size=3, crop=96), 12):
        for row, position in enumerate(batch.index):
            scene = split.scenes[position]
            colours = {
                split.labels.get(person.identity, UNKNOWN): colour
                for person, colour in zip(scene.people, COLOURS, strict=False)
            }
            for box, identity, valid in zip(
                *(column[row] for column in batch.people[:2]), batch.people.valid[row], strict=True
            ):
                if valid and min(box[2:] - box[:2]) >= 4:
                    found = found_box(batch.scenes.image[row], colours[int(identity)])
                    np.testing.assert_allclose(found, box, atol=1.6)
                    checked += 1
    assert checked > 25


def test_epoch_holds_every_scene_once_and_is_shuffled_anew(split):
    batches = stream(split, phase(batch_size=3), 6)
    first, second = (np.concatenate([batch.index for batch in half]) for half in (batches[:3], batches[3:]))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(9))
    assert first.tolist() != second.tolist() != list(range(9))
    other = np.concatenate([batch.index for batch in stream(split, phase(batch_size=3), 3, seed=1)])
    assert other.tolist() != first.tolist()


def test_last_incomplete_batch_is_dropped(split):
    assert steps_per_epoch(9, phase(batch_size=4)) == 2
    assert steps_per_epoch(9, phase(batch_size=8, views=2)) == 2
    assert steps_per_epoch(5704, phase(batch_size=8)) == 713  # PRW, as published
    assert steps_per_epoch(11206, phase(batch_size=8)) == 1400  # CUHK-SYSU, as published


@pytest.mark.parametrize("name", ["rrc_scale", "window"])
def test_stream_is_reproducible_and_resumes_anywhere(split, name):
    settings = phase(augmentation=name, views=2, photometric=0.2)
    whole = stream(split, settings, 7)
    for one, two in zip(whole, stream(split, settings, 7), strict=True):
        assert_same(one, two)
    for start in (1, 5):
        assert_same(whole[start], stream(split, settings, 1, start_step=start)[0])
    assert (whole[0].scenes.image != stream(split, settings, 1, seed=1)[0].scenes.image).any()


@pytest.mark.parametrize("name", ["rrc_scale", "window"])
def test_hosts_together_make_the_global_batch(split, name):
    settings = phase(augmentation=name, views=2)
    whole = stream(split, settings, 4)
    shares = [stream(split, settings, 4, process_index=host, process_count=2) for host in range(2)]
    for step, batch in enumerate(whole):
        for leaf, *parts in zip(leaves(batch), *(leaves(share[step]) for share in shares), strict=True):
            np.testing.assert_array_equal(leaf, np.concatenate(parts))


def test_query_centric_batches_repeat_scenes(split):
    differ = 0
    for batch in stream(split, phase(views=2, batch_size=4, augmentation="rrc_scale"), 8):
        assert batch.index[0] == batch.index[1] and batch.index[2] == batch.index[3]
        assert batch.index[0] != batch.index[2]
        differ += (batch.scenes.image[0] != batch.scenes.image[1]).any()
        for first in (0, 2):
            # Whoever is seen in a view is one of the scene's people, under the same number in every view.
            start, stop = Annotations.of(split).start[[batch.index[first], batch.index[first] + 1]]
            persons = Annotations.of(split).person[start:stop].tolist()
            for row in (first, first + 1):
                people = batch.people.person[row][batch.people.valid[row]].tolist()
                assert people == [person for person in persons if person in people]
    assert differ > 4  # a window that holds nothing but one painted colour looks like another one
    plan = TrainPlan(np.array([[[90, 150]] * 10]), (64, 64), 4, 2, seed=(0,))
    seeds = np.concatenate([plan.samples(step).seed for step in range(8)])
    assert len(np.unique(seeds, axis=0)) == 32  # every view of every scene draws its own numbers


def test_padding_and_masks(split):
    for batch in stream(split, phase(augmentation="window", batch_size=2), 8):
        people = batch.people
        assert not people.box[~people.valid].any()
        assert (people.identity[~people.valid] == -1).all() and (people.person[~people.valid] == -1).all()
        assert (people.person[people.valid] >= 0).all()
        for row, position in enumerate(batch.index):
            height, width = batch.scenes.size[row]
            assert people.valid[row].sum() == len(split.scenes[position].people)
            assert not batch.scenes.image[row, height:].any() and not batch.scenes.image[row, :, width:].any()
            assert batch.scenes.image[row, :height, :width].reshape(-1, 3).max(1).min() > 100


@pytest.mark.parametrize("name", ["rrc2", "rrc_scale", "window"])
def test_odd_sizes(tmp_path, name):
    sizes = [(37, 53), (1, 200), (301, 9), (9, 301), (2, 2)]
    people = [[((5, 3, 20, 33), 1)], [], [((0, 100, 9, 250), UNKNOWN)], [], [((0, 0, 2, 2), 2)]]
    odd = write_split(tmp_path, sizes, people)
    for batch in stream(odd, phase(augmentation=name, crop=(31, 17), batch_size=5), 3):
        assert sorted(batch.index.tolist()) == [0, 1, 2, 3, 4]
        shape = (160, 160) if name == "window" else (31, 17)
        assert batch.scenes.image.shape == (5, *shape, 3)
        box, height, width = batch.people.box, *batch.scenes.size.T[..., None]
        assert (box >= 0).all() and (box[..., 2] <= width).all() and (box[..., 3] <= height).all()
        assert (box[batch.people.valid][:, 2:] > box[batch.people.valid][:, :2]).all()
    scenes = {int(batch.index[0]): batch.scenes.size[0].tolist() for batch in scene_batches(odd, RESIZE, 1)}
    assert scenes == {0: [90, 129], 1: [1, 150], 2: [150, 4], 3: [4, 150], 4: [90, 90]}


def test_whole_scenes_come_in_few_sizes(split):
    plan = TrainPlan(np.array([[[90, 150]] * 10 + [[150, 90]] * 5 + [[90, 91]] * 2]), None, 4, 1, seed=(0,))
    seen = [plan.samples(step) for step in range(8)]
    assert sorted(tuple(sample.size[0].tolist()) for sample in seen[:4]) == [
        (96, 160),
        (96, 160),
        (96, 160),
        (160, 96),
    ]
    assert len(np.unique(np.concatenate([sample.position for sample in seen[:4]]))) == 16
    mixed = TrainPlan(np.array([[[90, 150]] * 2 + [[150, 90]] * 2]), None, 4, 1, seed=(0,)).samples(0)
    assert mixed.size[0].tolist() == [160, 160]
    sizes = {
        batch.scenes.image.shape[1:3]
        for batch in stream(split, phase(augmentation="window", batch_size=2), 12)
    }
    assert sizes == {(96, 160), (160, 96)}


SCALES = ((30, 50), (60, 100), (90, 150))
# Padded sizes of lying and of upright scenes of `SIZES` at each scale; none of the squares is left over alone.
CANVASES = {32: ((32, 64), (64, 32)), 64: ((64, 128), (128, 64)), 96: ((96, 160), (160, 96))}


def test_every_batch_is_resized_to_a_scale_of_its_own(split):
    settings = phase(augmentation="window", batch_size=2, scales=SCALES)
    batches = stream(split, settings, 24)
    shorts = []
    for batch in batches:
        canvas = batch.scenes.image.shape[1:3]
        (scale,) = {scale for scale in SCALES if canvas in CANVASES[-(-scale[0] // 32) * 32]}
        shorts.append(scale[0])
        for size, position in zip(batch.scenes.size, batch.index, strict=True):
            height, width = split.scenes[position].height, split.scenes[position].width
            factor = min(scale[0] / min(height, width), scale[1] / max(height, width))
            np.testing.assert_allclose(size, np.array([height, width]) * factor, atol=0.5)
    # 24 draws of one in three; the scene numbers are those of the stream with one scale.
    assert {short: shorts.count(short) for short in (30, 60, 90)} == {30: 11, 60: 7, 90: 6}
    one_scale = stream(split, phase(augmentation="window", batch_size=2), 24)
    for batch, other in zip(batches, one_scale, strict=True):
        np.testing.assert_array_equal(batch.index, other.index)
    # Where 90 x 150 is drawn, all is as if there were no other scale.
    largest = shorts.index(90)
    assert_same(batches[largest], one_scale[largest])


def test_a_stream_of_several_scales_resumes_anywhere_on_any_number_of_hosts(split):
    settings = phase(augmentation="window", batch_size=2, scales=SCALES)
    whole = stream(split, settings, 7)
    for start in (1, 5):
        for one, two in zip(whole[start:], stream(split, settings, 7 - start, start_step=start), strict=True):
            assert_same(one, two)
    shares = [stream(split, settings, 7, process_index=host, process_count=2) for host in range(2)]
    for step, batch in enumerate(whole):
        for leaf, *parts in zip(leaves(batch), *(leaves(share[step]) for share in shares), strict=True):
            np.testing.assert_array_equal(leaf, np.concatenate(parts))
    shapes = [batch.scenes.image.shape for batch in whole]
    assert shapes != [batch.scenes.image.shape for batch in stream(split, settings, 7, seed=1)]


def test_scales_have_no_more_padded_sizes_than_they_need():
    """The six of AlignPS's release, on PRW's two kinds of frames and some upright pictures."""
    scales = ((400, 667), (600, 1000), (800, 1333), (900, 1500), (1000, 1666), (1200, 2000))
    height, width = np.array([1080, 576, 1000] * 40), np.array([1920, 720, 600] * 40)
    sizes = np.stack([window_size(height, width, scale) for scale in scales])
    plan = TrainPlan(sizes, None, 4, 1, seed=(0,))
    seen = {tuple(plan.samples(step).size[0].tolist()) for step in range(400)}
    assert seen == {
        *((416, 672), (608, 1024), (800, 1344), (928, 1504), (1024, 1696), (1216, 2016)),
        *((672, 416), (1024, 608), (1344, 800), (1504, 928), (1696, 1024), (2016, 1216)),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": "rrc_scale", "scales": SCALES}, "rrc_scale draws from scale_range; leave them out"),
        ({"augmentation": "window", "scales": ((150, 90),)}, r"scales has \(150, 90\); wanted are pairs"),
    ],
)
def test_wrong_scales_are_refused(split, changes, message):
    with pytest.raises(ConfigError, match=message):
        stream(split, phase(**changes), 1)


def test_scenes_with_too_many_people_keep_the_identified():
    identity = np.array([-1, 4, -1, 7, 5, 6], np.int32)
    keep = np.array([True, True, True, True, False, True])
    box = np.arange(24, dtype=np.float32).reshape(6, 4)
    people = pad_people(box, identity, np.arange(6, dtype=np.int32), keep, 4)
    assert people.person.numpy().tolist() == [0, 1, 3, 5]
    np.testing.assert_array_equal(people.box, box[[0, 1, 3, 5]])
    assert pad_people(box, identity, identity, keep, 2).identity.numpy().tolist() == [4, 7]
    roomy = pad_people(box, identity, identity, keep, 7)
    assert roomy.identity.numpy().tolist() == [-1, 4, -1, 7, 6, -1, -1]
    assert roomy.valid.numpy().tolist() == [True] * 5 + [False] * 2


def test_scene_batches(split):
    batches = list(scene_batches(split, RESIZE, 2))
    assert [batch.scenes.image.shape[1:3] for batch in batches] == [(96, 96)] + [(96, 160)] * 2 + [
        (160, 96)
    ] * 2
    assert np.concatenate([batch.index for batch in batches]).tolist() == [7, 8, 0, 1, 2, 3, 4, 5, 6, -1]
    checked = 0
    for batch in batches:
        assert batch.people.box.shape == (2, 8, 4)
        for row, position in enumerate(batch.index):
            if position < 0:
                assert not batch.scenes.image[row].any() and not batch.people.valid[row].any()
                np.testing.assert_array_equal(batch.scenes.size[row], batch.scenes.image.shape[1:3])
                continue
            scene = split.scenes[position]
            count = len(scene.people)
            assert batch.people.valid[row].tolist() == [True] * count + [False] * (8 - count)
            assert batch.people.identity[row, :count].tolist() == [
                split.labels.get(person.identity, UNKNOWN) for person in scene.people
            ]
            height, width = batch.scenes.size[row]
            boxes = scene.boxes * np.tile([width / scene.width, height / scene.height], 2)
            np.testing.assert_allclose(batch.people.box[row, :count], boxes, rtol=1e-6)
            for box, colour in zip(boxes, COLOURS, strict=False):
                np.testing.assert_allclose(found_box(batch.scenes.image[row], colour), box, atol=1)
                checked += 1
    assert checked == 16


def test_a_scene_does_not_depend_on_its_batch(split):
    def by_scene(batch_size):
        batches = scene_batches(split, RESIZE, batch_size)
        rows = ((batch, row) for batch in batches for row in range(batch_size))
        return {int(batch.index[row]): [leaf[row] for leaf in leaves(batch)] for batch, row in rows}

    alone, together = by_scene(1), by_scene(3)
    for position in range(9):
        for one, two in zip(alone[position], together[position], strict=True):
            np.testing.assert_array_equal(one, two)


def test_scene_plan_order():
    batches = scene_plan(np.array([[90, 150], [90, 120], [60, 150], [91, 151]]), 2)
    assert [batch.position.tolist() for batch in batches] == [[2, -1], [1, -1], [0, 3]]
    assert [batch.size[0].tolist() for batch in batches] == [[64, 160], [96, 128], [96, 160]]


def encoded(image, form, mode="RGB"):
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, form, **({"quality": 95} if form == "JPEG" else {}))
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("shape", [(37, 53), (1, 1), (64, 7)])
def test_jpeg_gives_the_pixels_pil_gives(mode, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    data = encoded(image, "JPEG", mode)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.mode == mode
        expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(decode_picture(data, "x.jpg"), expected)


@pytest.mark.parametrize("form", ["PNG", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_lossless_formats(form, mode):
    image = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).convert(mode).convert("RGB"))
    np.testing.assert_array_equal(decode_picture(encoded(image, form, mode), "x"), expected)


def damaged(tmp_path, change):
    """A split of three JPEGs, the second of them changed on disk."""
    image = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    scenes = []
    for number in range(3):
        path = tmp_path / f"s{number}.jpg"
        path.write_bytes(encoded(image, "JPEG"))
        scenes.append(Scene(path.name, str(path), 60, 100, (Person((10.0, 10.0, 30.0, 50.0), 1),)))
    change(tmp_path / "s1.jpg")
    return Split("damaged", "train", tuple(scenes))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "truncated or broken"),
        (lambda path: path.write_bytes(b""), "truncated or broken"),
        (lambda path: path.write_bytes(b"no picture"), "truncated or broken"),
        (lambda path: path.write_bytes(b"\x89PNG no picture"), "truncated or broken"),
        (lambda path: path.unlink(), "cannot read this picture"),
        (lambda path: Image.new("RGB", (100, 61)).save(path), "is 61x100 .* its record says 60x100"),
    ],
)
def test_broken_pictures_are_named(tmp_path, change, words, capfd):
    split = damaged(tmp_path, change)
    with pytest.raises(DataError, match=f"s1.jpg.*{words}"):
        list(scene_batches(split, RESIZE, 1))
    with pytest.raises(DataError, match=f"s1.jpg.*{words}"):
        stream(split, phase(batch_size=3), 1)
    assert "Traceback" not in capfd.readouterr().err


def test_scenes_before_a_broken_one_are_served(tmp_path):
    split = damaged(tmp_path, lambda path: path.write_bytes(b""))
    batches = scene_batches(split, RESIZE, 1)
    assert next(batches).index.tolist() == [0]
    with pytest.raises(DataError, match=r"s1\.jpg"):
        next(batches)


def test_config_errors(split):
    for settings, place, words in [
        (phase(batch_size=5, views=2), {}, "batch_size is 5"),
        (phase(batch_size=4), {"process_count": 3}, "multiple of the 3 hosts"),
        (phase(batch_size=16), {}, "16 scenes .* only 9"),
        (phase(), {"max_people": 0}, "max_people is 0"),
        (phase(augmentation="zoom"), {}, "known are"),
    ]:
        with pytest.raises(ConfigError, match=words):
            stream(split, settings, 0, **place)
    with pytest.raises(ValueError, match="start_step is -1"):
        stream(split, phase(), 0, start_step=-1)
    with pytest.raises(ValueError, match="process_index is 2"):
        stream(split, phase(), 0, process_index=2, process_count=2)


def test_unknown_source_lists_the_known():
    data = ConfigDict({"source": "market", "dir": "nowhere", "max_people": 4, "resize": RESIZE})
    with pytest.raises(
        ConfigError,
        match="'market'; known are streets, prw, cuhk_sysu, coco_json, coco_persons, market1501, prepared, arrays",
    ):
        open_source(data)


@pytest.mark.parametrize("source", ["prw", "cuhk_sysu", "coco_json", "prepared", "arrays"])
def test_missing_directory(tmp_path, source):
    data = ConfigDict({"source": source, "dir": str(tmp_path / "nowhere"), "max_people": 4, "resize": RESIZE})
    with pytest.raises(DataError, match="nowhere"):
        open_source(data).split("train")


def test_streets_are_drawn_when_they_are_not_there(tmp_path):
    options = {
        "height": 96,
        "width": 128,
        "train_scenes": 8,
        "test_scenes": 8,
        "train_identities": 3,
        "test_identities": 3,
        "cameras": 2,
    }
    data = ConfigDict(
        {
            "source": "streets",
            "dir": str(tmp_path / "streets"),
            "max_people": 8,
            "resize": (96, 160),
            "streets": options,
        }
    )
    source = open_source(data)
    assert len(source.split("train").scenes) == 8 and source.split("train") is source.split("train")
    assert source.steps_per_epoch(phase(batch_size=4, views=2)) == 4
    batch = next(source.train_batches(phase(batch_size=4, views=2), 0))
    assert batch.scenes.image.shape == (4, 48, 48, 3)
    (scene, *_) = source.scene_batches("test")
    assert scene.scenes.size.tolist() == [[96, 128]]
    assert len(open_source(data).split("test").scenes) == 8
    with pytest.raises(ConfigError, match=r"data.streets.colour is unknown; the options are layout, seed"):
        open_source(ConfigDict(data.to_dict() | {"streets": {"colour": 1}}))


def test_original_pictures_come_along_and_are_mirrored_with_the_scene(split):
    settings = phase(augmentation="window")
    batches = train_batches(split, settings, resize=RESIZE, max_people=4, seed=0, raw=True)
    mirrored = 0
    for batch in itertools.islice(batches, 4):
        assert batch.scenes.raw.shape == (4, 100, 100, 3)  # all pictures of the split fit into it
        for row, position in enumerate(batch.index):
            scene = split.scenes[position]
            size = batch.scenes.raw_size[row]
            np.testing.assert_array_equal(size, (scene.height, scene.width))
            original = decode_picture(split.encoded(int(position)), scene.name)
            raw = batch.scenes.raw[row, : size[0], : size[1]]
            flipped = not np.array_equal(raw, original)
            mirrored += flipped
            np.testing.assert_array_equal(raw, original[:, ::-1] if flipped else original)
            assert (
                not batch.scenes.raw[row, size[0] :].any() and not batch.scenes.raw[row, :, size[1] :].any()
            )
            ratio = np.tile(size / batch.scenes.size[row], 2)[[1, 0, 1, 0]]
            for box, identity in zip(batch.people.box[row] * ratio, batch.people.identity[row], strict=True):
                if identity == 0:  # 12, the third colour of the scene where there are three
                    x, y = ((box[:2] + box[2:]) / 2).astype(int)
                    colours = [COLOURS[k] for k, (_, who) in enumerate(PEOPLE[position]) if who == 12]
                    assert tuple(raw[y, x]) in colours
    assert 0 < mirrored < 16


def test_original_pictures_of_an_evaluation(split):
    for batch in scene_batches(split, RESIZE, 2, raw=True):
        for row, position in enumerate(batch.index):
            if position < 0:
                continue
            scene = split.scenes[position]
            original = decode_picture(split.encoded(int(position)), scene.name)
            np.testing.assert_array_equal(batch.scenes.raw[row, : scene.height, : scene.width], original)


def test_original_pictures_go_with_whole_scenes(split):
    with pytest.raises(ConfigError, match="window"):
        train_batches(split, phase(), resize=RESIZE, max_people=4, seed=0, raw=True)
