import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import reader_layouts as layouts
from scipy import io

from input_pipeline.cuhk_sysu import read_cuhk_sysu, read_protocol
from input_pipeline.scenes import UNKNOWN, GalleryItem, Query
from ps_jax.errors import DataError

TRAIN_TEST = Path("annotation/test/train_test")


@pytest.fixture
def cuhk(tmp_path):
    return layouts.write_cuhk_sysu(tmp_path)


def test_train_scenes_are_those_outside_the_pool(cuhk, caplog):
    with caplog.at_level(logging.WARNING):
        split = read_cuhk_sysu(cuhk, "train")
    assert (split.dataset, split.partition, split.default_gallery) == ("cuhk_sysu", "train", None)
    assert [scene.name for scene in split.scenes] == ["s1.jpg", "s2.jpg", "s3.jpg"]
    assert [scene.identities.tolist() for scene in split.scenes] == [[1, UNKNOWN], [1, 2], [2]]
    # (x, y, w, h) -> corners; the box of s2 without width is left out, and said so
    assert split.scenes[1].boxes.tolist() == [[3, 4, 13, 24], [30, 4, 40, 24]]
    assert "1 boxes without area are left out" in caplog.text
    assert split.labels == {1: 0, 2: 1}
    assert len(split.galleries) == 0
    assert split.scenes[0].camera is None
    assert split.encoded(2) == (cuhk / "Image/SSM/s3.jpg").read_bytes()


def test_test_scenes_are_the_pool_in_file_order(cuhk):
    split = read_cuhk_sysu(cuhk, "test")
    assert [scene.name for scene in split.scenes] == layouts.CUHK_POOL
    identities = {scene.name: scene.identities.tolist() for scene in split.scenes}
    assert identities == {
        "s9.jpg": [UNKNOWN],
        "s4.jpg": [1, UNKNOWN],
        "s5.jpg": [1],
        "s6.jpg": [2, UNKNOWN],
        "s7.jpg": [2],
        "s8.jpg": [UNKNOWN],
    }
    assert split.scene("s9.jpg").people[0].box == (50, 30, 80, 60)  # over the border, as annotated


def test_galleries_keep_file_order_and_repeated_scenes(cuhk):
    split = read_cuhk_sysu(cuhk, "test")
    assert list(split.galleries) == ["TestG50", "TestG100"]
    assert split.default_gallery == "TestG100"
    gallery = split.galleries["TestG100"]
    assert gallery.name == "TestG100"
    assert gallery.queries == (Query("s4.jpg", (1, 1, 13, 25), 1), Query("s6.jpg", (3, 3, 15, 27), 2))
    person = GalleryItem("s7.jpg", (4, 4, 16, 28))
    assert gallery.items == (
        (GalleryItem("s5.jpg", (2, 2, 14, 26)), GalleryItem("s8.jpg"), GalleryItem("s7.jpg")),
        (person, person, GalleryItem("s9.jpg"), GalleryItem("s5.jpg")),
    )
    assert split.galleries["TestG100"] is gallery  # read once


def test_other_gallery_sizes_and_the_default_without_100(tmp_path):
    split = read_cuhk_sysu(layouts.write_cuhk_sysu(tmp_path, sizes=(2000, 4000, 7)), "test")
    assert list(split.galleries) == ["TestG7", "TestG2000", "TestG4000"]
    assert split.default_gallery == "TestG7"
    assert split.galleries["TestG4000"].queries[1].identity == 2
    assert split.scene("s7.jpg").identities.tolist() == [2]  # identities of the smallest


def test_queries_are_those_of_the_smallest_published_size(cuhk):
    changed = [(scene, (0, 0, 9, 9), items) for scene, _, items in layouts.CUHK_TEST]
    layouts.write_gallery(cuhk, 100, changed)
    layouts.write_gallery(cuhk, 7, changed)  # smaller than 50, but not the published list
    galleries = read_cuhk_sysu(cuhk, "test").galleries
    assert galleries["TestG100"].queries == galleries["TestG50"].queries
    assert galleries["TestG100"].queries[0].box == (1, 1, 13, 25)


def test_occlusion_and_resolution_have_their_own_queries(cuhk):
    occluded = [("s6.jpg", (3, 3, 12, 24), [("s7.jpg", (4, 4, 12, 24)), ("s5.jpg", None)])]
    small = [("s9.jpg", (2, 2, 5, 5), [("s4.jpg", None)])]
    layouts.write_subset(cuhk, "Occlusion", "Occlusion1", occluded)
    layouts.write_subset(cuhk, "Resolution", "Test_Size", small)
    split = read_cuhk_sysu(cuhk, "test")
    assert list(split.galleries) == ["TestG50", "TestG100", "Occlusion", "Resolution"]
    assert split.galleries["Occlusion"].queries == (Query("s6.jpg", (3, 3, 15, 27), 2),)
    assert split.galleries["Occlusion"].items == (
        (GalleryItem("s7.jpg", (4, 4, 16, 28)), GalleryItem("s5.jpg")),
    )
    # a query box that equals no annotated box belongs to nobody known; its gallery says where the person is
    assert split.galleries["Resolution"].queries == (Query("s9.jpg", (2, 2, 7, 7), UNKNOWN),)


def test_boxes_are_cut_to_whole_numbers_and_bytes_do_not_overflow(tmp_path):
    queries = [("s4.jpg", (1.9, 1.9, 12.9, 24.9), [("s5.jpg", (2.9, 2.2, 12.5, 24.9))])]
    io.savemat(tmp_path / "a.mat", {"a": layouts.protocol(queries, float)})
    record = next(read_protocol(tmp_path / "a.mat", "a"))
    assert (record.box, record.items) == ((1, 1, 12, 24), [("s5.jpg", (2, 2, 12, 24))])

    root = layouts.write_cuhk_sysu(tmp_path)
    for name in ("s4.jpg", "s5.jpg"):
        layouts.write_picture(root / "Image/SSM" / name, size=(500, 500))
    layouts.write_images(root, layouts.CUHK_BOXES | {"s4.jpg": [(200, 200, 100, 90)]})
    layouts.write_gallery(root, 50, [("s4.jpg", (200, 200, 100, 90), [("s5.jpg", (250, 2, 12, 24))])])
    gallery = read_cuhk_sysu(root, "test").galleries["TestG50"]
    assert gallery.queries[0].box == (200, 200, 300, 290)  # stored in bytes
    assert gallery.items[0][0].box == (250, 2, 262, 26)


def test_an_identity_goes_to_the_first_equal_box_and_the_later_claim_wins(tmp_path, caplog):
    root = layouts.write_cuhk_sysu(tmp_path)
    twice = [(1, 1, 12, 24), (1, 1, 12, 24), (40, 1, 12, 24)]
    layouts.write_images(root, layouts.CUHK_BOXES | {"s4.jpg": twice})
    layouts.write_gallery(
        root,
        50,
        [
            ("s4.jpg", (1, 1, 12, 24), [("s5.jpg", (2, 2, 12, 24))]),
            ("s6.jpg", (3, 3, 12, 24), [("s5.jpg", (2, 2, 12, 24)), ("s7.jpg", (9, 9, 9, 9))]),
        ],
    )
    with caplog.at_level(logging.WARNING):
        split = read_cuhk_sysu(root, "test")
    assert split.scene("s4.jpg").identities.tolist() == [1, UNKNOWN, UNKNOWN]
    assert split.scene("s5.jpg").identities.tolist() == [2]
    assert split.scene("s7.jpg").identities.tolist() == [UNKNOWN]
    assert (
        "1 boxes equal no box of Images.mat and name nobody; the first is (9, 9, 9, 9) in s7.jpg"
        in caplog.text
    )


def test_scene_without_boxes(cuhk):
    layouts.write_images(cuhk, layouts.CUHK_BOXES | {"s8.jpg": []})
    assert read_cuhk_sysu(cuhk, "test").scene("s8.jpg").people == ()


def test_one_query_with_one_gallery_scene(cuhk):
    layouts.write_gallery(cuhk, 50, [("s4.jpg", (1, 1, 12, 24), [("s5.jpg", (2, 2, 12, 24))])])
    gallery = read_cuhk_sysu(cuhk, "test").galleries["TestG50"]
    assert gallery.items == ((GalleryItem("s5.jpg", (2, 2, 14, 26)),),)


def test_a_split_can_be_sent_to_another_process(cuhk):
    split = read_cuhk_sysu(cuhk, "test")
    copy = pickle.loads(pickle.dumps(split))
    assert copy.galleries["TestG50"] == split.galleries["TestG50"]


def test_asking_for_a_gallery_whose_file_is_not_there(cuhk):
    galleries = read_cuhk_sysu(cuhk, "test").galleries
    with pytest.raises(
        DataError, match=r"no gallery 'TestG500' \(there are: TestG50, TestG100\)\. Put its file"
    ):
        galleries["TestG500"]


def test_missing_directory_shows_the_layout_its_source_and_how_to_do_without(tmp_path):
    with pytest.raises(DataError) as raised:
        read_cuhk_sysu(tmp_path / "nowhere", "test")
    message = str(raised.value)
    for part in (
        f"{tmp_path / 'nowhere'}: there is no such directory",
        "Image/SSM/s1.jpg",
        "annotation/test/train_test/TestG50.mat",
        "http://www.ee.cuhk.edu.hk/~xgwang/PS/dataset.html",
        "python train.py --config configs/spnet_qc.py",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("path", "partition"),
    [
        ("annotation/Images.mat", "test"),
        ("annotation/pool.mat", "train"),
        ("annotation/test/train_test/Train.mat", "train"),
    ],
)
def test_missing_matlab_file(cuhk, path, partition):
    (cuhk / path).unlink()
    with pytest.raises(DataError, match=rf"{path}: there is no such file\nCUHK-SYSU is expected as"):
        read_cuhk_sysu(cuhk, partition)


def test_no_gallery_file_at_all(tmp_path):
    root = layouts.write_cuhk_sysu(tmp_path, sizes=())
    assert len(read_cuhk_sysu(root, "train").scenes) == 3  # training needs none
    with pytest.raises(DataError, match=r"there is no TestG50\.mat or other gallery file"):
        read_cuhk_sysu(root, "test")


def test_missing_variable(cuhk):
    io.savemat(cuhk / "annotation/pool.mat", {"Pool": layouts.cells(["s4.jpg"])})
    with pytest.raises(DataError, match=r"pool.mat: has no variable 'pool' \(it has: Pool\)"):
        read_cuhk_sysu(cuhk, "test")


def test_missing_fields(cuhk):
    io.savemat(cuhk / TRAIN_TEST / "TestG50.mat", {"TestG50": layouts.structs(("Query",), [(1,), (2,)])})
    with pytest.raises(DataError, match=r"TestG50.mat: TestG50 has no field 'Gallery'"):
        read_cuhk_sysu(cuhk, "test")
    rows = [("s1.jpg", 1), ("s2.jpg", 1)]
    io.savemat(cuhk / "annotation/Images.mat", {"Img": layouts.structs(("imname", "nAppear"), rows)})
    with pytest.raises(DataError, match=r"Img has the fields imname, nAppear, wanted imname, nAppear, box"):
        read_cuhk_sysu(cuhk, "train")
    io.savemat(cuhk / "annotation/Images.mat", {"Img": np.ones((3, 3))})
    with pytest.raises(DataError, match=r"Images.mat: Img is no struct with the fields imname, nAppear, box"):
        read_cuhk_sysu(cuhk, "train")


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((64, 1, 5, 5), r"box 0 of scene s5.jpg, \(x1, y1, x2, y2\) = \(64, 1, 69, 6\), lies outside"),
        ((float("nan"), 1, 5, 5), r"box 0 of scene s5.jpg is \[nan, 1.0, 5.0, 5.0\], wanted 4 finite"),
        ((1, 1, 5), r"box 0 of scene s5.jpg is \[1.0, 1.0, 5.0\], wanted 4 finite numbers"),
    ],
)
def test_impossible_box_is_named(cuhk, box, message):
    layouts.write_images(cuhk, layouts.CUHK_BOXES | {"s5.jpg": [box]})
    with pytest.raises(DataError, match=f"Images.mat: {message}"):
        read_cuhk_sysu(cuhk, "test")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (("s99.jpg", (1, 1, 5, 5), [("s5.jpg", None)]), "query 0: the scene s99.jpg is not among the 6 test"),
        (("s4.jpg", (1, 1, 5, 5), [("s99.jpg", None)]), "gallery of query 0: the scene s99.jpg is not among"),
        (("s4.jpg", (1, 1, 5, 5), [("s1.jpg", (1, 1, 5, 5))]), "scene s1.jpg is not among"),  # of training
        (("s4.jpg", (1, 1, 0, 5), [("s5.jpg", None)]), "the box of query 0 in s4.jpg, .* is empty"),
        (("s4.jpg", (1, 60, 5, 5), [("s5.jpg", None)]), "the box of query 0 in s4.jpg, .* lies outside"),
        (
            ("s4.jpg", (1, 1, 5, 5), [("s5.jpg", (1, 1, 5, 0))]),
            "gallery scene s5.jpg of query 0, .* is empty",
        ),
        (("s4.jpg", (1, 1, 5), [("s5.jpg", None)]), r"the box of query 0 of Occlusion1 is \[1.0, 1.0, 5.0\]"),
    ],
)
def test_impossible_query_or_gallery_is_named(cuhk, query, message):
    layouts.write_subset(cuhk, "Occlusion", "Occlusion1", [query])
    galleries = read_cuhk_sysu(cuhk, "test").galleries
    with pytest.raises(DataError, match=rf"Occlusion.mat: .*{message}"):
        galleries["Occlusion"]


def test_labels_of_a_scene_that_does_not_exist(cuhk):
    layouts.write_gallery(cuhk, 50, [("s99.jpg", (1, 1, 5, 5), [("s5.jpg", None)])])
    with pytest.raises(
        DataError, match=r"TestG50.mat: identity 1 is in scene s99.jpg, which is not in Images"
    ):
        read_cuhk_sysu(cuhk, "test")


def test_pool_names_a_scene_without_annotation(cuhk):
    io.savemat(cuhk / "annotation/pool.mat", {"pool": layouts.cells([*layouts.CUHK_POOL, "s99.jpg"])})
    with pytest.raises(DataError, match=r"pool.mat: the scene s99.jpg is not in Images.mat"):
        read_cuhk_sysu(cuhk, "test")


def test_gallery_files_of_different_releases(cuhk):
    layouts.write_gallery(cuhk, 100, layouts.CUHK_TEST[::-1])
    with pytest.raises(DataError, match=r"TestG100.mat: query 0 is in scene s6.jpg, .* number in TestG50"):
        read_cuhk_sysu(cuhk, "test").galleries["TestG100"]
    layouts.write_gallery(cuhk, 100, layouts.CUHK_TEST[:1])
    with pytest.raises(DataError, match=r"TestG100.mat: has 1 queries, TestG50 has 2"):
        read_cuhk_sysu(cuhk, "test").galleries["TestG100"]


def test_truncated_picture(cuhk):
    path = cuhk / "Image/SSM/s5.jpg"
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(DataError, match=r"s5.jpg: cannot read the header of this picture"):
        read_cuhk_sysu(cuhk, "test")
    assert len(read_cuhk_sysu(cuhk, "train").scenes) == 3  # its pictures are whole


def test_a_protocol_file_of_the_evaluation_goldens(golden_dir):
    path = golden_dir / "evals_TestG100.mat"
    if not path.is_file():
        pytest.skip(f"{golden_dir} has no evals_TestG100.mat")
    records = list(read_protocol(path, "TestG100"))
    assert len(records) == 10
    assert (records[0].scene, records[0].box) == ("c2_005.jpg", (64, 56, 13, 23))
    assert records[0].items[0] == ("c3_000.jpg", (1, 284, 11, 31))
    assert records[0].items[6] == ("c1_008.jpg", None)
    assert [len(record.items) for record in records] == [14] * 10


@pytest.mark.real_data
def test_the_real_protocol_file():
    folder = os.environ.get("PS_JAX_REAL_DATA")
    path = Path(folder or "") / "cuhk_sysu_protocol" / "TestG100.mat"
    if not folder or not path.is_file():
        pytest.skip("PS_JAX_REAL_DATA does not name a folder with cuhk_sysu_protocol/TestG100.mat")
    records = list(read_protocol(path, "TestG100"))
    assert len(records) == 2900
    assert {len(record.items) for record in records} == {100}
    assert (records[0].scene, records[0].box) == ("s15538.jpg", (488, 90, 88, 250))
    assert records[0].items[0] == ("s15535.jpg", (430, 121, 93, 266))
    assert records[0].items[4] == ("s9732.jpg", None)
    assert sum(box is not None for record in records for _, box in record.items) == 5447
    # positives come first, and four galleries name a scene twice
    for record in records:
        boxed = [box is not None for _, box in record.items]
        assert boxed == sorted(boxed, reverse=True)
        assert boxed[0]
    assert sum(len({name for name, _ in record.items}) < 100 for record in records) == 4
    # in two galleries the query's own scene stands too, once with the query's own box
    own = [(record.box, box) for record in records for name, box in record.items if name == record.scene]
    assert own == [
        ((1, 82, 58, 269), (153, 111, 77, 266)),
        ((78, 101, 186, 496), (78, 101, 186, 496)),
    ]
