"""Market-1501's layout: names, junk, distractors, what is missing."""

import numpy as np
import pytest
from PIL import Image

from input_pipeline.market1501 import read_market1501
from input_pipeline.prepare import prepare
from input_pipeline.prepared import read_prepared
from input_pipeline.scenes import UNKNOWN
from ps_jax.errors import DataError

FILES = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c3s2_000001_01.jpg", "0007_c2s3_071052_01.jpg"],
    "bounding_box_test": [
        "-1_c1s1_000401_03.jpg",
        "0000_c1s1_000151_01.jpg",
        "0001_c2s1_001051_03.jpg",
    ],
    "query": ["0001_c1s1_001051_00.jpg"],
}


@pytest.fixture
def directory(tmp_path):
    rng = np.random.default_rng(0)
    for folder, names in FILES.items():
        (tmp_path / folder).mkdir()
        for name in names:
            pixels = rng.integers(0, 256, (128, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / name)
    (tmp_path / "query" / "Thumbs.db").write_bytes(b"")
    return tmp_path


def test_every_picture_is_a_scene_of_one_person(directory):
    split = read_market1501(directory, "train")
    assert (
        split.dataset == "market1501"
        and split.is_cut_out
        and split.num_identities == 2
        and not split.galleries
    )
    scene = split.scenes[1]
    assert scene.name == "bounding_box_train/0002_c3s2_000001_01.jpg"
    assert (scene.height, scene.width, scene.camera, scene.sequence, scene.frame) == (128, 64, 3, "c3s2", 1)
    assert scene.people[0].box == (0, 0, 64, 128) and scene.people[0].identity == 2


def test_the_test_set_has_queries_junk_and_distractors(directory):
    split = read_market1501(directory, "test")
    assert [scene.people[0].identity for scene in split.scenes] == [1, UNKNOWN, 0, 1]
    (query,) = split.galleries[split.default_gallery].queries
    assert (query.scene, query.identity) == ("query/0001_c1s1_001051_00.jpg", 1)


def test_it_can_be_prepared(directory, tmp_path):
    out = tmp_path / "prepared"
    prepare("market1501", directory, out)
    for partition in ("train", "test"):
        original, prepared = read_market1501(directory, partition), read_prepared(out, partition)
        assert prepared.is_cut_out and prepared.labels == original.labels
        assert [scene.people for scene in prepared.scenes] == [scene.people for scene in original.scenes]
        assert prepared.encoded(0) == original.encoded(0)


def test_what_is_wrong_is_told(directory):
    (directory / "query" / FILES["query"][0]).unlink()
    with pytest.raises(DataError, match=r"query: there are no pictures[\s\S]*bounding_box_test/"):
        read_market1501(directory, "test")
    (directory / "bounding_box_train" / FILES["bounding_box_train"][0]).rename(
        directory / "bounding_box_train" / "person.jpg"
    )
    with pytest.raises(DataError, match=r"person\.jpg: this is no name"):
        read_market1501(directory, "train")
    with pytest.raises(DataError, match="no such directory"):
        read_market1501(directory / "elsewhere", "train")
