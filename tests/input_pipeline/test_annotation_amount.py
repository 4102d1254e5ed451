import itertools
import zlib

import numpy as np
import pytest
import reader_layouts as layouts
from ml_collections import ConfigDict

from input_pipeline.annotation_amount import with_annotation_amount
from input_pipeline.batches import Annotations
from input_pipeline.prepare import prepare
from input_pipeline.scenes import UNKNOWN, Person, Scene, Split
from input_pipeline.source import open_source
from ps_jax.errors import ConfigError

RUNGS = (20, 40, 60, 80, 100, 120, 140, 160, 180)
# crc32 of the whole pixels of all boxes, their identities and scenes
CHECKSUMS = {
    20: 312037123,
    40: 3830192306,
    60: 798216319,
    80: 1829038538,
    100: 464608740,
    120: 85838922,
    140: 3232349145,
    160: 2616685569,
    180: 612751696,
}


def crowd_split(scenes=40, most=12, least=2, partition="train"):
    """Scenes of several sizes with `least` to `most` people, each an identity of its own; no pictures."""
    rng = np.random.default_rng(5)
    records, identity = [], 1000
    for number in range(scenes):
        height, width = (480, 640) if number % 3 else (600, 400)
        people = []
        for _ in range(least + int(rng.random() * (most - least + 1))):
            x, y, w, h = rng.random(4) * (0.7 * width, 0.6 * height, 0.3 * width - 5, 0.4 * height - 5)
            w, h = w + 5, h + 5
            people.append(Person((x, y, x + w, y + h), identity))
            identity += 3
        records.append(Scene(f"{number}.jpg", f"nowhere/{number}.jpg", height, width, tuple(people)))
    return Split("crowd", partition, tuple(records))


def boxes_of(split):
    return [(scene.name, person) for scene in split.scenes for person in scene.people]


@pytest.fixture(scope="module")
def ladder():
    split = crowd_split()
    return split, {percent: with_annotation_amount(split, percent, 2) for percent in RUNGS}


def test_exact_counts(ladder):
    split, rungs = ladder
    assert (len(split.scenes), len(boxes_of(split))) == (40, 307)
    counts = {percent: len(boxes_of(rung)) for percent, rung in rungs.items()}
    assert counts == {20: 62, 40: 123, 60: 185, 80: 246, 100: 307, 120: 368, 140: 429, 160: 491, 180: 552}


def test_every_amount_holds_the_smaller_ones_in_the_same_scenes(ladder):
    split, rungs = ladder
    for smaller, larger in itertools.pairwise(RUNGS):
        few, many = boxes_of(rungs[smaller]), boxes_of(rungs[larger])
        assert set(few) < set(many)
        assert few == [box for box in many if box in set(few)]  # in the same order
    assert [scene.people for scene in rungs[100].scenes] == [scene.people for scene in split.scenes]
    for rung in rungs.values():
        assert [scene.name for scene in rung.scenes] == [scene.name for scene in split.scenes]
        assert all(scene.people for scene in rung.scenes)  # nobody's last box is taken away


def test_boxes_that_stay_are_drawn_evenly():
    # 300 scenes with 2 people and 100 with 12: each box of a scene is as likely to be the marked one, and each
    # of the others as likely to stay with it.
    scenes = crowd_split(300, 2, 2).scenes + crowd_split(100, 12, 12).scenes
    records = tuple(
        Scene(
            f"{n}",
            "",
            480,
            640,
            tuple(Person(person.box, 100 * n + k) for k, person in enumerate(scene.people)),
        )
        for n, scene in enumerate(scenes)
    )
    small, large = np.zeros(2), np.zeros(12)
    for seed in range(20):
        changed = with_annotation_amount(Split("crowd", "train", records), 50, seed=seed)
        for n, scene in enumerate(changed.scenes):
            np.add.at(small if n < 300 else large, scene.identities - 100 * n, 1)
    # Of 300 * 2 + 100 * 12 boxes 900 stay, 400 of them marked: 500 of the 300 + 1100 others.
    other = 500 / 1400
    np.testing.assert_allclose(small / (20 * 300), (1 + other) / 2, atol=0.03)
    np.testing.assert_allclose(large / (20 * 100), (1 + 11 * other) / 12, atol=0.05)


def test_the_same_boxes_on_every_machine(ladder):
    def checksum(split):
        boxes = [(*np.rint(person.box), person.identity, int(name[:-4])) for name, person in boxes_of(split)]
        return zlib.crc32(np.array(boxes, "<i4").tobytes())

    split, rungs = ladder
    assert checksum(split) == CHECKSUMS[100]
    assert {percent: checksum(rung) for percent, rung in rungs.items()} == CHECKSUMS
    again = with_annotation_amount(crowd_split(), 140, 2)
    assert again.scenes == rungs[140].scenes
    assert with_annotation_amount(split, 140, 2, seed=1).scenes != rungs[140].scenes
    assert with_annotation_amount(split, 60, 2, seed=1).scenes != rungs[60].scenes


def test_identities_that_lose_their_boxes_leave_the_numbering(ladder):
    split, rungs = ladder
    assert len(split.labels) == 307
    kept = sorted(person.identity for _, person in boxes_of(rungs[20]))
    assert rungs[20].labels == {identity: label for label, identity in enumerate(kept)}
    table = Annotations.of(rungs[20])
    assert sorted(table.identity.tolist()) == list(range(62))
    np.testing.assert_array_equal(table.person, table.identity)


def test_spurious_boxes_are_real_ones_in_other_pictures(ladder):
    split, rungs = ladder
    known = {person.identity for _, person in boxes_of(split)}
    shapes = {
        tuple(np.round(np.array(person.box) / np.tile([scene.width, scene.height], 2), 9))
        for scene in split.scenes
        for person in scene.people
    }
    spurious, overlap = [], 0
    for before, scene in zip(split.scenes, rungs[180].scenes, strict=True):
        assert scene.people[: len(before.people)] == before.people
        for person in scene.people[len(before.people) :]:
            x1, y1, x2, y2 = person.box
            assert 0 <= x1 < x2 <= scene.width and 0 <= y1 < y2 <= scene.height
            assert (
                tuple(np.round(np.array(person.box) / np.tile([scene.width, scene.height], 2), 9)) in shapes
            )
            spurious.append(person.identity)
            overlap += any(
                min(x2, u2) > max(x1, u1) and min(y2, v2) > max(y1, v1)
                for u1, v1, u2, v2 in (other.box for other in before.people)
            )
    assert sorted(spurious) == list(range(max(known) + 1, max(known) + 1 + 245))
    assert 0 < overlap < 245  # no rule keeps them off people, or on them
    assert len(rungs[180].labels) == 307 + 245
    assert {identity: rungs[180].labels[identity] for identity in known} == split.labels


def test_a_spurious_box_is_cut_at_the_border():
    over = Scene("over", "", 50, 100, (Person((-10, -5, 30, 60), UNKNOWN),))
    empty = Scene("empty", "", 200, 100)
    changed = with_annotation_amount(Split("two", "train", (over, empty)), 500)
    added = [person for scene in changed.scenes for person in scene.people if person.identity != UNKNOWN]
    assert [person.identity for person in added] != [] and len(added) == 4
    assert {person.box for person in changed.scenes[0].people[1:]} == {(0, 0, 30, 50)}
    assert {person.box for person in changed.scenes[1].people} == {(0, 0, 30, 200)}
    assert sorted(person.identity for person in added) == [0, 1, 2, 3]


def test_scenes_with_few_people_are_left_out_but_lend_their_boxes():
    lonely = Scene("lonely", "", 100, 100, (Person((1, 2, 51, 92), 4),))
    pair = Scene("pair", "", 100, 100, (Person((10, 10, 20, 30), 7), Person((50, 10, 60, 30), UNKNOWN)))
    split = Split("three", "train", (lonely, pair, Scene("empty", "", 100, 100)))
    assert with_annotation_amount(split, 100) is split
    assert [scene.name for scene in with_annotation_amount(split, 100, 1).scenes] == ["lonely", "pair"]
    two = with_annotation_amount(split, 100, 2)
    assert two.scenes == (pair,) and two.labels == {7: 0}
    more = with_annotation_amount(split, 1000, 2)  # 18 boxes, each one of the split's three
    assert {person.box for person in more.scenes[0].people} == {person.box for _, person in boxes_of(split)}
    few = with_annotation_amount(split, 67)  # 3 of 3; an empty scene stays as it is
    assert few.scenes == split.scenes


def test_amounts_that_are_not_possible():
    split = crowd_split(10, 3, 1)  # 22 boxes
    with pytest.raises(ConfigError, match=r"data.annotations is 0; wanted is a share above 0 percent"):
        with_annotation_amount(split, 0)
    with pytest.raises(ConfigError, match=r"data.least_people is -1; wanted is 0 or more"):
        with_annotation_amount(split, 100, -1)
    with pytest.raises(
        ConfigError, match=r"data.least_people is 4, but no scene of crowd train shows so many"
    ):
        with_annotation_amount(split, 100, 4)
    with pytest.raises(
        ConfigError, match=r"40; 9 of 22 boxes are fewer than one for each of the 10 .* least 41"
    ):
        with_annotation_amount(split, 40)
    assert len(boxes_of(with_annotation_amount(split, 41))) == 10
    with pytest.raises(ValueError, match="partition is 'test'; only training scenes are changed"):
        with_annotation_amount(crowd_split(partition="test"), 60)


@pytest.mark.parametrize("source", ["prw", "coco_json", "coco_persons", "prepared"])
def test_the_configuration_changes_training_scenes_alone(tmp_path, source):
    write = {"prw": layouts.write_prw, "coco_json": layouts.write_coco}.get(
        source, layouts.write_coco_persons
    )
    root = write(tmp_path)
    if source == "prepared":
        root = prepare("coco_persons", root, tmp_path / "prepared")
    data = {"source": source, "dir": str(root), "max_people": 8, "resize": (90, 160)}
    whole = open_source(ConfigDict(data))
    changed = open_source(ConfigDict(data | {"annotations": 200, "least_people": 1}))
    assert changed.split("test").scenes == whole.split("test").scenes
    assert dict(changed.split("test").galleries) == dict(whole.split("test").galleries)
    before = [scene for scene in whole.split("train").scenes if scene.people]
    train = changed.split("train")
    assert [scene.name for scene in train.scenes] == [scene.name for scene in before]
    assert len(boxes_of(train)) == 2 * sum(len(scene.people) for scene in before)
    for position, scene in enumerate(train.scenes):  # pictures follow their scenes
        original = whole.split("train").positions[scene.name]
        assert train.encoded(position) == whole.split("train").encoded(original)


def test_prepared_scenes_are_changed_as_the_original_ones(tmp_path):
    original = layouts.write_coco_persons(tmp_path)
    data = {"max_people": 8, "resize": (90, 160), "annotations": 60, "least_people": 2}
    prepared = prepare("coco_persons", original, tmp_path / "prepared")
    one, two = (
        open_source(ConfigDict(data | {"source": source, "dir": str(directory)})).split("train")
        for source, directory in (("coco_persons", original), ("prepared", prepared))
    )
    assert [(scene.name, scene.people) for scene in one.scenes] == [
        (scene.name, scene.people) for scene in two.scenes
    ]
    assert [scene.name for scene in one.scenes] == ["000000000139.jpg", "000000000785.jpg"]
    assert len(boxes_of(one)) == 3  # of five
    assert one.encoded(1) == two.encoded(1)
