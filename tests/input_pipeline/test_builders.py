import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reader_layouts as layouts

from input_pipeline.coco_json import read_coco_json
from input_pipeline.coco_persons import read_coco_persons
from input_pipeline.cuhk_sysu import read_cuhk_sysu
from input_pipeline.prepare import main, prepare
from input_pipeline.prepared import read_prepared
from input_pipeline.prw import read_prw
from ps_jax.errors import DataError

ROOT = Path(__file__).parents[2]

DATASETS = {
    "prw": (layouts.write_prw, read_prw),
    "cuhk_sysu": (layouts.write_cuhk_sysu, read_cuhk_sysu),
    "coco_json": (layouts.write_coco, read_coco_json),
    "coco_persons": (layouts.write_coco_persons, read_coco_persons),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """For each data set the folder of the original and that of the prepared data."""
    folders = {}
    for name, (write, _) in DATASETS.items():
        original = write(tmp_path_factory.mktemp(name))
        if name == "cuhk_sysu":
            occluded = [("s6.jpg", (3, 3, 12, 24), [("s7.jpg", (4, 4, 12, 24)), ("s5.jpg", None)])]
            layouts.write_subset(original, "Occlusion", "Occlusion1", occluded)
        out = tmp_path_factory.mktemp(f"{name}_prepared")
        assert prepare(name, original, out) == out / name / "1.0.0"
        folders[name] = (original, out)
    return folders


@pytest.mark.parametrize("partition", ["train", "test"])
@pytest.mark.parametrize("name", DATASETS)
def test_prepared_split_is_the_original_one(prepared, name, partition):
    original, out = prepared[name]
    expected = DATASETS[name][1](original, partition)
    split = read_prepared(out, partition)
    assert (split.dataset, split.partition) == (name, partition)
    assert [dataclasses.replace(scene, path="") for scene in split.scenes] == [
        dataclasses.replace(scene, path="") for scene in expected.scenes
    ]
    assert split.labels == expected.labels
    for position in reversed(range(len(split.scenes))):  # the bytes of the file, not encoded again
        assert split.encoded(position) == expected.encoded(position)
    assert split.default_gallery == expected.default_gallery
    assert list(split.galleries) == list(expected.galleries)
    for gallery in expected.galleries:
        assert split.galleries[gallery] == expected.galleries[gallery]


def test_records_carry_everything(prepared):
    import tensorflow_datasets as tfds

    _, out = prepared["prw"]
    builder = tfds.builder_from_directory(out / "prw" / "1.0.0")
    assert dict(builder.info.metadata) == {"dataset": "prw", "galleries": ["all"], "default_gallery": "all"}
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {
        "train": 3,
        "test": 3,
    }
    source = builder.as_data_source("test", decoders={"image": tfds.decode.SkipDecoding()})
    record = source[0]
    assert record["name"] == b"c1s1_000301.jpg"
    np.testing.assert_array_equal(record["boxes"], [[2, 3, 13, 24], [40, 2, 49, 11]])
    assert record["boxes"].dtype == np.float32
    np.testing.assert_array_equal(record["identities"], [7, -1])
    assert (record["height"], record["width"]) == (layouts.HEIGHT, layouts.WIDTH)
    assert (record["camera"], record["sequence"], record["frame"]) == (1, b"c1s1", 301)
    _, out = prepared["cuhk_sysu"]
    records = tfds.builder_from_directory(out / "cuhk_sysu" / "1.0.0").as_data_source("train")
    assert (records[0]["camera"], records[0]["sequence"], records[0]["frame"]) == (-1, b"", -1)
    assert records[0]["image"].shape == (layouts.HEIGHT, layouts.WIDTH, 3)


def test_a_partition_without_scenes_has_no_records(prepared):
    import tensorflow_datasets as tfds

    _, out = prepared["coco_persons"]
    info = tfds.builder_from_directory(out / "coco_persons" / "1.0.0").info
    assert {name: split.num_examples for name, split in info.splits.items()} == {"train": 3}
    assert dict(info.metadata) == {"dataset": "coco_persons", "galleries": [], "default_gallery": None}
    assert read_prepared(out, "test").scenes == ()


def test_prepared_data_is_read_without_tensorflow(prepared):
    _, out = prepared["cuhk_sysu"]
    program = (
        "import sys\n"
        "from input_pipeline.prepared import read_prepared\n"
        f"split = read_prepared({str(out)!r}, 'test')\n"
        "assert split.encoded(3)[:2] == bytes([0xFF, 0xD8])\n"
        "assert len(split.galleries['TestG50'].items[1]) == 4\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_tfrecord_format_is_for_tensorflow(tmp_path, capsys):
    pytest.importorskip("tensorflow")
    import tensorflow_datasets as tfds

    original = layouts.write_prw(tmp_path / "original")
    options = ["--dataset", "prw", "--dir", str(original), "--out", str(tmp_path / "out")]
    assert main([*options, "--format", "tfrecord"]) == 0
    version = tmp_path / "out" / "prw" / "1.0.0"
    assert f"wrote {version}" in capsys.readouterr().out
    builder = tfds.builder_from_directory(version)
    scenes = list(tfds.as_numpy(builder.as_dataset(split="train")))
    assert [scene["name"].decode() for scene in scenes] == [f"{name}.jpg" for name in layouts.PRW_TRAIN]
    assert scenes[0]["image"].shape == (layouts.HEIGHT, layouts.WIDTH, 3)
    assert scenes[0]["image"].dtype == np.uint8
    np.testing.assert_array_equal(scenes[0]["identities"], [1, -1])
    assert scenes[2]["boxes"].shape == (0, 4)
    # our own reader needs random access, and says so
    split = read_prepared(version, "train")
    with pytest.raises(
        DataError, match=r"in the tfrecord format, which has no random access; .*array_record"
    ):
        split.encoded(0)


def test_prepared_twice(prepared):
    original, out = prepared["prw"]
    with pytest.raises(DataError, match=r"prw/1.0.0: exists already; remove it"):
        prepare("prw", original, out)


def test_errors_of_the_command_line(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert main(["--dataset", "prw", "--dir", str(tmp_path / "nowhere"), *out]) == 2
    assert "nowhere: there is no such directory\nPRW is expected as" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["--dataset", "cuhk_sysu", "--dir", str(tmp_path / "empty"), *out]) == 2
    assert "empty: this directory is empty\nCUHK-SYSU is expected as" in capsys.readouterr().err
    original = layouts.write_prw(tmp_path / "original")
    (original / "query_info.txt").unlink()
    assert main(["--dataset", "prw", "--dir", str(original), *out]) == 2
    assert "query_info.txt: there is no such file" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("prw/1.0.0"))  # nothing half done is left to be read


def test_wrong_arguments_are_programming_errors(tmp_path):
    with pytest.raises(ValueError, match="dataset is 'market', wanted one of"):
        prepare("market", tmp_path, tmp_path)
    with pytest.raises(ValueError, match="file_format is 'zip', wanted one of"):
        prepare("prw", tmp_path, tmp_path, "zip")


def test_directory_without_or_with_several_prepared_data_sets(prepared, tmp_path):
    with pytest.raises(
        DataError, match=r"there is no prepared data set in this directory\nA prepared data set"
    ):
        read_prepared(tmp_path, "train")
    for version in ("1.0.0", "1.0.1"):
        (tmp_path / "prw" / version).mkdir(parents=True)
        (tmp_path / "prw" / version / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match=r"holds several prepared data sets; name one of .*1.0.0, .*1.0.1"):
        read_prepared(tmp_path, "train")


def test_damaged_prepared_directory(prepared, tmp_path):
    original, _ = prepared["prw"]
    version = prepare("prw", original, tmp_path)
    scenes = version / "scenes_test.json"
    content = json.loads(scenes.read_text())
    content["scenes"].reverse()
    scenes.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"record 0 is scene c1s1_000301.jpg, not c6s1_004576.jpg; prepare"):
        read_prepared(tmp_path, "test").encoded(0)
    content["scenes"].pop()
    scenes.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"holds 3 test records for 2 scenes; prepare the data again"):
        read_prepared(tmp_path, "test").encoded(0)
    (version / "gallery_all.json").write_text("{")
    with pytest.raises(DataError, match=r"gallery_all.json: cannot read this file"):
        read_prepared(tmp_path, "test").galleries["all"]
    scenes.unlink()
    with pytest.raises(DataError, match=r"scenes_test.json: this file is missing; prepare the data again"):
        read_prepared(tmp_path, "test")
