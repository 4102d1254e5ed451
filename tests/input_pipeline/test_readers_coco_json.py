import json

import pytest
import reader_layouts as layouts

from input_pipeline.coco_json import first_and_last, read_coco_json
from input_pipeline.scenes import UNKNOWN, Query
from ps_jax.errors import DataError


@pytest.fixture
def coco(tmp_path):
    return layouts.write_coco(tmp_path)


def test_scenes_of_both_splits(coco):
    train, test = read_coco_json(coco, "train"), read_coco_json(coco / "coco.json", "test")
    assert (train.dataset, train.partition, train.default_gallery) == ("coco_json", "train", None)
    assert [scene.name for scene in train.scenes] == ["c1s1_000010.jpg", "c1s1_000020.jpg"]
    assert [scene.identities.tolist() for scene in train.scenes] == [[0], [UNKNOWN]]  # 0 is an identity
    assert train.labels == {0: 0}
    assert [scene.name for scene in test.scenes] == [
        "c6s1_000050.jpg",
        "c6s1_000030.jpg",
        "plain.jpg",
        "c6s1_000040.jpg",
        "zebra.jpg",
    ]
    assert test.scenes[0].people[0].box == (1, 2, 11.5, 22)  # fractions stay
    assert test.scenes[4].people == ()
    assert [(s.camera, s.sequence, s.frame) for s in test.scenes[1:3]] == [
        (6, "c6s1", 30),
        (None, None, None),
    ]


def test_rule_for_queries_without_a_list(coco):
    split = read_coco_json(coco, "test")
    assert split.default_gallery == "all"
    assert split.galleries["all"].items is None
    # identity 3 is in four scenes: first and last by name; 4 in two: the first alone; 5 in one: not at all
    assert split.galleries["all"].queries == (
        Query("c6s1_000030.jpg", (2, 2, 12, 22), 3),
        Query("plain.jpg", (3, 2, 13, 22), 3),
        Query("c6s1_000030.jpg", (20, 2, 30, 22), 4),
    )
    assert first_and_last(split.scenes[::-1]) == split.galleries["all"].queries


def test_listed_queries_come_first(coco):
    content = layouts.coco_content()
    content["queries"] = [
        {"annotation_id": 8},
        {"image_id": 12, "bbox": [1, 2, 9, 20], "person_id": 3},
    ]
    layouts.write_coco(coco, content)
    assert read_coco_json(coco, "test").galleries["all"].queries == (
        Query("c6s1_000040.jpg", (35, 2, 45, 22), 5),
        Query("c6s1_000050.jpg", (1, 2, 10, 22), 3),
    )


def test_image_fields_go_before_the_name(coco):
    content = layouts.coco_content()
    content["images"][2] |= {"camera": 9, "sequence": "evening", "frame": 4}
    content["images"][4] |= {"camera": 2}
    layouts.write_coco(coco, content)
    scenes = read_coco_json(coco, "test").scenes
    assert [(s.camera, s.sequence, s.frame) for s in (scenes[0], scenes[2])] == [
        (9, "evening", 4),
        (2, None, None),
    ]


def test_crowds_and_other_categories_are_left_out(coco):
    content = layouts.coco_content()
    content["categories"].append({"id": 2, "name": "dog"})
    content["annotations"][2]["iscrowd"] = 1
    content["annotations"][3]["category_id"] = 2
    layouts.write_coco(coco, content)
    scenes = read_coco_json(coco, "test").scenes
    assert [scene.identities.tolist() for scene in scenes[:2]] == [[], [4]]


def test_persons_without_an_identity_and_of_prw_style(coco):
    content = layouts.coco_content()
    del content["annotations"][0]["person_id"]
    content["annotations"][1]["person_id"] = -2
    layouts.write_coco(coco, content)
    assert [s.identities.tolist() for s in read_coco_json(coco, "train").scenes] == [[UNKNOWN], [UNKNOWN]]


def test_one_file_a_partition_and_pictures_elsewhere(tmp_path):
    content = layouts.coco_content()
    for image in content["images"]:
        del image["split"]
    root = layouts.write_coco(tmp_path, content, folder="elsewhere/pictures")
    (root / "coco.json").rename(root / "test.json")
    split = read_coco_json(root, "test", images_dir=root / "elsewhere" / "pictures")
    assert len(split.scenes) == 7
    assert split.encoded(0) == (root / "elsewhere/pictures/c1s1_000010.jpg").read_bytes()
    with pytest.raises(DataError, match=r"there is neither coco.json nor train.json in this directory"):
        read_coco_json(root, "train")


@pytest.mark.parametrize("folder", ["images", "."])
def test_where_pictures_are_looked_for(tmp_path, folder):
    assert len(read_coco_json(layouts.write_coco(tmp_path, folder=folder), "train").scenes) == 2


def test_missing_file_shows_the_layout_and_how_to_do_without(tmp_path):
    with pytest.raises(DataError) as raised:
        read_coco_json(tmp_path / "nowhere.json", "test")
    assert "nowhere.json: there is no such file" in str(raised.value)
    assert '"bbox": [x, y, w, h]' in str(raised.value)
    assert "python train.py --config configs/spnet_qc.py" in str(raised.value)


def _remove(entry, key):
    del entry[key]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: _remove(c, "annotations"), "has no list 'annotations'"),
        (lambda c: _remove(c["images"][3], "file_name"), "image 3 has no field 'file_name'"),
        (lambda c: _remove(c["images"][3], "id"), "image c6s1_000030.jpg has no field 'id'"),
        (
            lambda c: _remove(c["annotations"][3], "bbox"),
            "box 0 of scene c6s1_000030.jpg has no field 'bbox'",
        ),
        (
            lambda c: c["annotations"][3].update(bbox=[1, 2, 3]),
            r"the bbox of box 0 .* is \[1, 2, 3\], wanted",
        ),
        (
            lambda c: c["annotations"][4].update(bbox=[64, 2, 3, 9]),
            "box 1 of scene .*lies outside the picture",
        ),
        (lambda c: c["annotations"][4].update(bbox=[1, 2, 0, 9]), "box 1 of scene .* is empty"),
        (lambda c: c["annotations"][4].update(bbox=[1, 2, float("nan"), 9]), "not a finite number"),
        (
            lambda c: c["annotations"][4].update(person_id="ann"),
            "person_id of box 1 .* is 'ann', wanted a whole",
        ),
        (
            lambda c: c["annotations"][4].update(image_id=99),
            "annotation 4 belongs to image 99, which is not in",
        ),
        (
            lambda c: c["images"][3].update(file_name="plain.jpg"),
            "two images of the test split are named plain",
        ),
        (lambda c: [i.update(split="val") for i in c["images"]], r"has the split 'test' \(splits .*: val\)"),
        (lambda c: c.update(queries=[{"annotation_id": 99}]), "query 0 is annotation 99, which is not in"),
        (
            lambda c: c.update(queries=[{"annotation_id": 0}]),
            "query 0 is in image 10, which is not in the test",
        ),
        (
            lambda c: c.update(queries=[{"image_id": 12, "bbox": [1, 2, 3, 4]}]),
            "query 0 has no field 'person_id'",
        ),
        (
            lambda c: c.update(queries=[{"image_id": 12, "bbox": [1, 2, 3, 4], "person_id": -1}]),
            "query 0 has no known person_id",
        ),
        (
            lambda c: c.update(queries=[{"image_id": 12, "bbox": [99, 2, 3, 4], "person_id": 3}]),
            "the box of query 0 in c6s1_000050.jpg, .* lies outside",
        ),
    ],
)
def test_malformed_content_is_named(coco, change, message):
    content = layouts.coco_content()
    change(content)
    (coco / "coco.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"coco.json: .*{message}"):
        read_coco_json(coco, "test")


def test_no_json_and_a_missing_picture(coco):
    (coco / "frames" / "plain.jpg").unlink()
    with pytest.raises(DataError, match=r"plain.jpg: this picture is missing"):
        read_coco_json(coco, "test")
    (coco / "coco.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"coco.json: cannot read this JSON file"):
        read_coco_json(coco, "test")
