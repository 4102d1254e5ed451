import os
from pathlib import Path

import numpy as np
import pytest
import reader_layouts as layouts
from ml_collections import ConfigDict
from scipy import io

from input_pipeline import open_source
from input_pipeline.annotation_amount import with_annotation_amount
from input_pipeline.batches import Annotations
from input_pipeline.coco_json import read_coco_json
from input_pipeline.prw import parse_frame_name, read_prw
from input_pipeline.scenes import UNKNOWN, Query
from ps_jax.errors import ConfigError, DataError


@pytest.fixture
def prw(tmp_path):
    return layouts.write_prw(tmp_path)


def test_train_scenes_identities_and_cameras(prw):
    split = read_prw(prw, "train")
    assert (split.dataset, split.partition, split.default_gallery) == ("prw", "train", None)
    assert len(split.galleries) == 0
    assert [scene.name for scene in split.scenes] == [f"{name}.jpg" for name in layouts.PRW_TRAIN]
    assert [(s.camera, s.sequence, s.frame) for s in split.scenes] == [
        (1, "c1s1", 151),
        (2, "c2s1", 176),
        (6, "c6s2", 201),
    ]
    assert all((s.height, s.width) == (layouts.HEIGHT, layouts.WIDTH) for s in split.scenes)
    assert [s.identities.tolist() for s in split.scenes] == [[1, UNKNOWN], [932], []]
    assert split.scenes[0].boxes.tolist() == [[5, 6, 15, 26], [30, 6, 40, 26]]
    assert split.scenes[2].boxes.shape == (0, 4)
    assert split.labels == {1: 0, 932: 1}
    assert split.encoded(1) == (prw / "frames" / "c2s1_000176.jpg").read_bytes()


def test_identities_as_the_released_code_numbers_them(prw):
    split = read_prw(prw, "train", released_labels=True)
    assert split.labels == {1: 0, 932: 931} and split.num_identities == 482
    assert read_prw(prw, "train").num_identities == 2
    fewer = with_annotation_amount(split, 50)
    assert fewer.num_identities == 482 and fewer.labels.items() <= split.labels.items()
    table = Annotations.of(split)
    assert table.identity.tolist() == [0, -1, 931]
    assert table.person.tolist() == [0, 932 + 1, 931]  # nobody unknown has the number of somebody known


def test_released_numbers_leave_none_for_spurious_boxes(prw):
    data = ConfigDict(
        {
            "source": "prw",
            "dir": str(prw),
            "resize": (240, 320),
            "max_people": 4,
            "annotations": 140,
            "released_labels": True,
        }
    )
    with pytest.raises(ConfigError, match=r"no numbers for the spurious boxes of data\.annotations=140"):
        open_source(data)


@pytest.mark.parametrize("source", ["cuhk_sysu", "arrays", "streets"])
def test_released_numbers_are_prws_alone(source):
    data = ConfigDict({"source": source, "dir": "anywhere", "released_labels": True})
    with pytest.raises(ConfigError, match=f"as PRW does, but data.source is '{source}'"):
        open_source(data)


def test_boxes_are_clipped_before_the_extent_is_added_then_cut(prw):
    split = read_prw(prw, "test")
    # (2.9, 3.9, 10.2, 20.2) -> corners 2.9, 3.9, 13.1, 24.1
    assert split.scene("c1s1_000301.jpg").people[0].box == (2, 3, 13, 24)
    # (-3.7, 4, 10.2, 20) -> x becomes 0 first, so x2 = 10.2, not 6.5
    assert split.scene("c3s2_000326.jpg").people[0].box == (0, 4, 10, 24)
    # A box may reach over the border: it stays as annotated.
    assert split.scene("c6s1_004576.jpg").people[0].box == (50, 30, 70, 60)


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
def test_query_corners_are_cut_before_they_are_clipped(tmp_path, ending):
    split = read_prw(layouts.write_prw(tmp_path, ending), "test")
    assert split.default_gallery == "all"
    gallery = split.galleries["all"]
    assert gallery.items is None
    # -3.7 + 10.2 = 6.5 is cut to 6: the query box differs from the gallery's box of the same row.
    assert gallery.queries == (
        Query("c1s1_000301.jpg", (2, 3, 13, 24), 7),
        Query("c3s2_000326.jpg", (0, 4, 6, 24), 7),
    )


def test_empty_lines_at_the_end_of_the_queries_do_not_count(prw):
    layouts.write_prw_queries(prw, [*layouts.PRW_QUERIES, "", " "], "\n")
    assert len(read_prw(prw, "test").galleries["all"].queries) == 2


def test_variable_names_of_older_annotation_files(prw):
    old, older = [(3, 1, 1, 5, 5)], [(4, 2, 2, 6, 6)]
    layouts.write_prw_boxes(prw, "c1s1_000151", anno_previous=older)
    layouts.write_prw_boxes(prw, "c2s1_000176", anno_file=old, anno_previous=older)
    layouts.write_prw_boxes(prw, "c6s2_000201", box_new=[(5, 3, 3, 7, 7)], anno_file=old)
    scenes = read_prw(prw, "train").scenes
    assert [scene.identities.tolist() for scene in scenes] == [[4], [3], [5]]
    assert [scene.boxes.tolist() for scene in scenes] == [[[2, 2, 8, 8]], [[1, 1, 6, 6]], [[3, 3, 10, 10]]]


def test_frame_names():
    assert parse_frame_name("c6s1_004576.jpg") == (6, "c6s1", 4576)
    assert parse_frame_name("c12s3_000001") == (12, "c12s3", 1)
    assert parse_frame_name("s123.jpg") is None
    assert parse_frame_name("xc6s1_004576.jpg") is None


def test_a_gallery_that_is_not_there(prw):
    galleries = read_prw(prw, "test").galleries
    with pytest.raises(DataError, match=r"prw test: there is no gallery 'TestG100' \(there are: all\)"):
        galleries["TestG100"]
    assert "TestG100" not in galleries
    assert galleries.get("TestG100") is None
    assert list(galleries) == ["all"]


def test_missing_directory_shows_the_layout_its_source_and_how_to_do_without(tmp_path):
    with pytest.raises(DataError) as raised:
        read_prw(tmp_path / "nowhere", "train")
    message = str(raised.value)
    assert f"{tmp_path / 'nowhere'}: there is no such directory" in message
    assert "annotations/c1s1_000151.jpg.mat" in message
    assert "https://github.com/liangzheng06/PRW-baseline" in message
    assert "python train.py --config configs/spnet_qc.py" in message


def test_unknown_partition_is_a_programming_error(prw):
    with pytest.raises(ValueError, match="partition is 'val', wanted one of"):
        read_prw(prw, "val")


@pytest.mark.parametrize("name", ["frame_test.mat", "query_info.txt"])
def test_missing_top_level_file(prw, name):
    (prw / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: there is no such file\nPRW is expected as"):
        read_prw(prw, "test")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("annotations/c1s1_000301.jpg.mat", "this MATLAB file is missing; copy it there"),
        ("frames/c1s1_000301.jpg", "this picture is missing; copy it there"),
    ],
)
def test_missing_file_of_a_frame(prw, path, message):
    (prw / path).unlink()
    with pytest.raises(DataError, match=f"{Path(path).name}: {message}"):
        read_prw(prw, "test")


@pytest.mark.parametrize("length", [0, 7, 20])
def test_truncated_picture(prw, length):
    path = prw / "frames" / "c1s1_000301.jpg"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"c1s1_000301.jpg: cannot read the header .* copy it again"):
        read_prw(prw, "test")


def test_picture_of_another_format(prw):
    path = prw / "frames" / "c1s1_000301.jpg"
    from PIL import Image

    Image.new("RGB", (9, 9)).save(path, "BMP")
    with pytest.raises(DataError, match=r"c1s1_000301.jpg: this picture is a BMP file; convert it to JPEG"):
        read_prw(prw, "test")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((7, 64, 5, 10, 10), "lies outside the picture of 64 x 48 pixels; mend or remove it"),
        ((7, 5, 48.5, 10, 10), "lies outside the picture"),
        ((7, 5, 5, 0.5, 10), r"\(5, 5, 5, 15\), is empty"),
        ((7, 5, 5, 10, -4), "is empty"),
        ((7, float("nan"), 5, 10, 10), "has a number that is not finite"),
        ((7, 5, 5, float("inf"), 10), "has a number that is not finite"),
    ],
)
def test_impossible_box_is_named(prw, row, message):
    layouts.write_prw_boxes(prw, "c3s2_000326", box_new=[(1, 1, 1, 9, 9), row])
    with pytest.raises(DataError, match=rf"326.jpg.mat: box 1 of scene c3s2_000326.jpg, .*{message}"):
        read_prw(prw, "test")


def test_annotation_file_without_a_known_variable(prw):
    io.savemat(prw / "annotations/c1s1_000301.jpg.mat", {"boxes": np.ones((1, 5))}, appendmat=False)
    with pytest.raises(DataError, match=r"no variable 'box_new' or 'anno_file' or 'anno_previous' .*boxes"):
        read_prw(prw, "test")


def test_annotation_file_of_another_shape(prw):
    io.savemat(prw / "annotations/c1s1_000301.jpg.mat", {"box_new": np.ones((2, 4))}, appendmat=False)
    with pytest.raises(DataError, match=r"the boxes have shape \(2, 4\), wanted one row \(id, x, y, w, h\)"):
        read_prw(prw, "test")


@pytest.mark.parametrize("content", [b"", b"no matlab file at all, just text" * 20])
def test_damaged_matlab_file(prw, content):
    (prw / "frame_test.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"frame_test.mat: cannot read this MATLAB file"):
        read_prw(prw, "test")


def test_matlab_file_cut_short(prw):
    path = prw / "frame_test.mat"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"frame_test.mat: cannot read this MATLAB file"):
        read_prw(prw, "test")


def test_frame_of_a_foreign_name(prw):
    io.savemat(prw / "frame_test.mat", {"img_index_test": layouts.cells(["s123"])})
    with pytest.raises(DataError, match=r"'s123.jpg' is no name of a PRW frame"):
        read_prw(prw, "test")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7 1 2 10 20 c9s9_000001", "the query's scene c9s9_000001.jpg is not among the 3 frames"),
        ("7 1 2 10 20 c1s1_000151", "c1s1_000151.jpg is not among"),  # a training frame
        ("7 1 2 10 c1s1_000301", r"wanted an id, x, y, w, h and the name of a frame"),
        ("7 x 2 10 20 c1s1_000301", r"wanted an id, x, y, w, h and the name of a frame"),
        ("7 nan 2 10 20 c1s1_000301", "has a number that is not finite"),
        ("7 -30 2 10 20 c1s1_000301", "the query box in c1s1_000301.jpg, .* is empty"),
        ("7 70 2 10 20 c1s1_000301", "lies outside the picture"),
    ],
)
def test_impossible_query_is_named(prw, line, message):
    layouts.write_prw_queries(prw, [layouts.PRW_QUERIES[0], line])
    with pytest.raises(DataError, match=rf"query_info.txt, line 2: .*{message}"):
        read_prw(prw, "test")


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("PS_JAX_REAL_DATA")
    if not folder or not (Path(folder) / "prw_c6s1").is_dir():
        pytest.skip("PS_JAX_REAL_DATA does not name a folder with prw_c6s1/")
    return Path(folder) / "prw_c6s1"


@pytest.mark.real_data
def test_counts_of_a_real_session(real):
    train, test = read_prw(real, "train"), read_prw(real, "test")
    assert (len(train.scenes), len(test.scenes)) == (927, 319)
    # 176 people are boxed by name in the training frames; 8 of them are also in test frames and set unknown.
    assert len(train.labels) == 176 - 8
    assert len(test.labels) == 59
    assert not set(train.labels) & set(test.labels)
    assert (sum(len(s.people) for s in train.scenes), sum(len(s.people) for s in test.scenes)) == (2128, 576)
    queries = test.galleries["all"].queries
    assert len(queries) == 100
    assert len({query.identity for query in queries}) == 55
    for query in queries:
        boxes = {p.box for p in test.scene(query.scene).people if p.identity == query.identity}
        assert query.box in boxes
    assert {s.camera for s in train.scenes + test.scenes} == {6}
    assert {(s.height, s.width) for s in train.scenes + test.scenes} == {(576, 720)}


@pytest.mark.real_data
@pytest.mark.parametrize("partition", ["train", "test"])
def test_real_session_agrees_with_its_coco_file(real, partition):
    prw, coco = read_prw(real, partition), read_coco_json(real, partition)
    assert prw.scenes == coco.scenes
    if partition == "test":  # the file has no list of queries: the rule finds the published ones
        assert coco.galleries["all"] == prw.galleries["all"]
