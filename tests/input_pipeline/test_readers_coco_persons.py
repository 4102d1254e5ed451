import json
import logging

import pytest
import reader_layouts as layouts
from ml_collections import ConfigDict

from input_pipeline.coco_persons import read_coco_persons
from input_pipeline.source import open_source
from ps_jax.errors import DataError
from ps_jax.evaluation import check_evaluation


@pytest.fixture
def coco(tmp_path):
    return layouts.write_coco_persons(tmp_path)


def test_people_who_are_no_crowd_are_kept_each_as_an_identity(coco, caplog):
    with caplog.at_level(logging.WARNING):
        split = read_coco_persons(coco, "train")
    assert (split.dataset, split.partition, split.default_gallery) == ("coco_persons", "train", None)
    assert [scene.name for scene in split.scenes] == [
        "000000000139.jpg",
        "000000000776.jpg",
        "000000000785.jpg",
    ]
    assert [(scene.height, scene.width) for scene in split.scenes] == [(48, 64), (64, 48), (48, 64)]
    assert [scene.identities.tolist() for scene in split.scenes] == [[2001, 1001], [3001], [3002, 3003, 12]]
    assert [person.box for person in split.scenes[0].people] == [
        (4.25, 5.5, 14.25, 25.5),
        (40, 30, 41, 31.5),
    ]
    assert split.scenes[1].people[0].box == (20, 10, 48.03, 50)  # as annotated
    assert split.labels == {12: 0, 1001: 1, 2001: 2, 3001: 3, 3002: 4, 3003: 5}
    assert split.encoded(1) == (coco / "train2017" / "000000000776.jpg").read_bytes()
    assert "instances_train2017.json: 1 boxes without area are left out" in caplog.text


def test_there_is_nobody_to_search_for(coco):
    config = ConfigDict({"source": "coco_persons", "dir": str(coco), "max_people": 8, "resize": (90, 160)})
    source = open_source(config)
    assert source.split("test").scenes == ()
    assert not source.split("test").galleries
    assert len(source.split("train").scenes) == 3
    with pytest.raises(DataError, match="coco_persons test: this partition has no queries"):
        check_evaluation(source, {})
    with pytest.raises(DataError, match="coco_persons test: there are no scenes"):
        next(source.scene_batches("test"))


def test_missing_files_show_the_layout_and_how_to_do_without(coco):
    with pytest.raises(DataError) as raised:
        read_coco_persons(coco / "nowhere", "train")
    message = str(raised.value)
    assert "nowhere: there is no such directory\nCOCOPersons (MS-COCO 2017) is expected as\n" in message
    assert "  annotations/instances_train2017.json\n  train2017/000000000009.jpg" in message
    assert "https://cocodataset.org/#download" in message
    assert "python train.py --config configs/spnet_qc.py" in message
    with pytest.raises(DataError, match=r"no directory is named; give one with --config.data.dir=PATH"):
        read_coco_persons("", "test")
    (coco / "train2017" / "000000000785.jpg").unlink()
    with pytest.raises(DataError, match=r"train2017/000000000785.jpg: this picture is missing"):
        read_coco_persons(coco, "train")
    (coco / "train2017").rename(coco / "train2014")
    with pytest.raises(DataError, match="train2017: there is no such directory\nCOCOPersons"):
        read_coco_persons(coco, "train")
    (coco / "annotations" / "instances_train2017.json").unlink()
    with pytest.raises(DataError, match=r"instances_train2017.json: there is no such file\nCOCOPersons"):
        read_coco_persons(coco, "train")


def _remove(entry, key):
    del entry[key]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: _remove(c, "annotations"), "has no list 'annotations'"),
        (lambda c: c.update(images={}), "has no list 'images'"),
        (lambda c: _remove(c, "categories"), "0 categories are named 'person', wanted one"),
        (lambda c: c["categories"][1].update(name="person"), "2 categories are named 'person', wanted one"),
        (lambda c: _remove(c["categories"][0], "id"), "category 'person' has no field 'id'"),
        (lambda c: _remove(c["images"][0], "file_name"), "image 0 has no field 'file_name'"),
        (lambda c: _remove(c["images"][0], "id"), "image 000000000139.jpg has no field 'id'"),
        (lambda c: _remove(c["images"][0], "width"), "image 000000000139.jpg has no field 'width'"),
        (lambda c: c["images"][1].update(id=139), "two images have the id 139"),
        (
            lambda c: c["images"][1].update(file_name="000000000139.jpg"),
            "images .* are named 000000000139.jpg",
        ),
        (lambda c: c["annotations"].insert(0, 5), "annotation 0 has no field 'category_id'"),
        (lambda c: _remove(c["annotations"][1], "category_id"), "annotation 1 has no field 'category_id'"),
        (lambda c: _remove(c["annotations"][3], "iscrowd"), "annotation 3 has no field 'iscrowd'"),
        (
            lambda c: c["annotations"][3].update(iscrowd="no"),
            "iscrowd of annotation 3 is 'no', wanted 0 or 1",
        ),
        (lambda c: _remove(c["annotations"][3], "image_id"), "annotation 3 has no field 'image_id'"),
        (
            lambda c: c["annotations"][3].update(image_id=140),
            "annotation 3 belongs to image 140, which is not",
        ),
        (lambda c: _remove(c["annotations"][3], "id"), "annotation 3 has no field 'id'"),
        (
            lambda c: c["annotations"][3].update(id="7"),
            "the id of annotation 3 is '7', wanted a whole number",
        ),
        (lambda c: c["annotations"][3].update(id=-1), "the id of annotation 3 is -1, wanted a whole number"),
        (lambda c: c["annotations"][3].update(id=2001), "two annotations have the id 2001"),
        (lambda c: _remove(c["annotations"][3], "bbox"), "annotation 3 has no field 'bbox'"),
        (
            lambda c: c["annotations"][3].update(bbox=[1, 2, 3]),
            r"bbox of annotation 3 is \[1, 2, 3\], wanted",
        ),
        (
            lambda c: c["annotations"][3].update(bbox=[1, 2, -3, 4]),
            "box 1001 of scene 0.*139.jpg, .* is empty",
        ),
        (
            lambda c: c["annotations"][3].update(bbox=[64, 2, 3, 4]),
            "box 1001 of scene .* outside the picture",
        ),
        (
            lambda c: c["annotations"][3].update(bbox=[1, 2, float("nan"), 0]),
            "box 1001 .* not a finite number",
        ),
        (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "there are no people in it"),
    ],
)
def test_malformed_content_is_named(coco, change, message):
    content = layouts.coco_persons_content()
    change(content)
    layouts.write_coco_persons(coco, content)
    with pytest.raises(DataError, match=rf"^\S*instances_train2017.json: .*{message}") as raised:
        read_coco_persons(coco, "train")
    assert "\n" not in str(raised.value)


def test_what_does_not_concern_people_is_not_looked_at(coco):
    content = layouts.coco_persons_content()
    content["annotations"][1] = {"category_id": 62}
    content["annotations"][2] |= {"bbox": None, "id": None}
    for image in content["images"][1:4]:
        _remove(image, "width")
    layouts.write_coco_persons(coco, content)
    assert len(read_coco_persons(coco, "train").scenes) == 3


def test_a_picture_of_another_size_does_not_fit_its_boxes(coco):
    layouts.write_picture(coco / "train2017" / "000000000776.jpg", size=(50, 64))
    with pytest.raises(DataError, match=r"776.jpg: this picture has 50 x 64 pixels, but .* one of 48 x 64"):
        read_coco_persons(coco, "train")


def test_an_unreadable_file(coco):
    (coco / "annotations" / "instances_train2017.json").write_text(json.dumps({})[:-1])
    with pytest.raises(DataError, match=r"instances_train2017.json: cannot read this JSON file"):
        read_coco_persons(coco, "train")
    with pytest.raises(ValueError, match="partition is 'val'"):
        read_coco_persons(coco, "val")
