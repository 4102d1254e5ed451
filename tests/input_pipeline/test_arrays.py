import itertools
import json
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from painted_scenes import write_split
from reader_layouts import write_coco_persons

from input_pipeline.arrays import ArraysSource, flatten
from input_pipeline.export_arrays import export_arrays
from input_pipeline.source import DiskSource, open_source
from ps_jax.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]

STREETS = {
    "height": 96,
    "width": 128,
    "train_scenes": 8,
    "test_scenes": 8,
    "train_identities": 3,
    "test_identities": 3,
    "cameras": 2,
}
RESIZE = (100, 160)
COUNT = 3


def phase(**changes):
    settings = {"augmentation": "rrc2", "crop": 48, "views": 1, "batch_size": 4, "epochs": 2.0}
    return ConfigDict(settings | changes)


def make_config(directory):
    data = {"source": "streets", "dir": str(directory), "max_people": 6, "resize": RESIZE, "streets": STREETS}
    return ConfigDict(
        {
            "seed": 3,
            "data": data,
            "phases": ("pretrain", "finetune"),
            "pretrain": phase(augmentation="rrc_scale", views=2),
            "finetune": phase(),
        }
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_config(tmp_path_factory.mktemp("data") / "streets")


@pytest.fixture(scope="module")
def written(config, tmp_path_factory):
    return export_arrays(config, tmp_path_factory.mktemp("arrays") / "arrays", COUNT)


def arrays_data(directory, **changes):
    return ConfigDict(
        {"source": "arrays", "dir": str(directory), "max_people": 6, "resize": RESIZE} | changes
    )


def assert_same(one, two):
    one, two = flatten(one), flatten(two)
    assert list(one) == list(two)
    for name, array in one.items():
        assert array.dtype == two[name].dtype
        np.testing.assert_array_equal(array, two[name], err_msg=name)


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_train_batches_are_those_of_the_data_set(config, written, name):
    disk, arrays = open_source(config.data), open_source(arrays_data(written))
    assert isinstance(arrays, ArraysSource)
    assert arrays.steps_per_epoch(config[name]) == disk.steps_per_epoch(config[name])
    expected = list(itertools.islice(disk.train_batches(config[name], 3), COUNT))
    read = list(itertools.islice(arrays.train_batches(config[name], 3), 2 * COUNT))
    for step in range(2 * COUNT):  # after the last one they start over
        assert_same(read[step], expected[step % COUNT])
    assert_same(next(arrays.train_batches(config[name], 3, start_step=COUNT + 1)), expected[1])
    second = next(arrays.train_batches(config[name], 3, process_index=1, process_count=2))
    np.testing.assert_array_equal(second.scenes.image, expected[0].scenes.image[2:])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_scene_batches_are_those_of_the_data_set(config, written, batch_size):
    expected = list(open_source(config.data).scene_batches("test", RESIZE, batch_size))
    read = list(open_source(arrays_data(written)).scene_batches("test", batch_size=batch_size))
    assert len(read) == len(expected) == -(-8 // batch_size)
    for one, two in zip(read, expected, strict=True):
        assert_same(one, two)


def test_scene_batches_of_several_sizes(tmp_path):
    box = [((5, 5, 30, 40), 1)]
    sizes = [(60, 100), (100, 60), (60, 90), (60, 100), (100, 60)]
    splits = {
        part: write_split(tmp_path, sizes, [box, [], box * 9, box, []], part) for part in ("train", "test")
    }
    data = ConfigDict({"source": "prw", "dir": "", "max_people": 6, "resize": RESIZE})
    disk = DiskSource(data, splits.__getitem__)
    config = ConfigDict({"seed": 0, "data": data, "phases": ()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("input_pipeline.export_arrays.open_source", lambda data: disk)
        directory = export_arrays(config, tmp_path / "arrays", 0)
    arrays = open_source(arrays_data(directory))
    names = sorted(path.name for path in (directory / "test").glob("*.npy"))
    assert names == ["128x160.npy", "160x96.npy", "96x160.npy"]
    for one, two in zip(
        arrays.scene_batches("test", batch_size=2), disk.scene_batches("test", None, 2), strict=True
    ):
        assert_same(one, two)
        assert one.people.valid.shape == (2, 16)
    with pytest.raises(ConfigError, match="holds no training batches"):
        arrays.train_batches(phase(), 0)


def test_arrays_of_changed_annotations_say_so(tmp_path):
    write_coco_persons(tmp_path)
    data = {"source": "coco_persons", "dir": str(tmp_path), "max_people": 6, "resize": RESIZE}
    data = ConfigDict(data | {"annotations": 140, "least_people": 2})
    config = ConfigDict({"seed": 0, "data": data, "phases": ("pretrain",), "pretrain": phase(batch_size=2)})
    directory = export_arrays(config, tmp_path / "arrays", 1, ["train", "test"])
    manifest = json.loads((directory / "manifest.json").read_text())
    assert (manifest["annotations"], manifest["least_people"]) == (140, 2)
    assert manifest["partitions"] == ["train"]  # there are no test scenes
    same = {"annotations": 140, "least_people": 2}
    arrays, disk = open_source(arrays_data(directory, **same)), open_source(data)
    assert [scene.people for scene in arrays.split("train").scenes] == [
        scene.people for scene in disk.split("train").scenes
    ]
    assert len(arrays.split("train").labels) == 7  # five people in two scenes, and two spurious boxes
    assert_same(next(arrays.train_batches(config.pretrain, 0)), next(disk.train_batches(config.pretrain, 0)))
    assert arrays.split("train").encoded(1) == disk.split("train").encoded(1)
    with pytest.raises(ConfigError, match=r"data\.annotations is 60, but the arrays in .* written with 140"):
        open_source(arrays_data(directory, **same | {"annotations": 60}))
    with pytest.raises(ConfigError, match=r"data\.annotations is 100, but the arrays in .* written with 140"):
        open_source(arrays_data(directory))
    with pytest.raises(ConfigError, match=r"data\.least_people is 1, but the arrays in .* written with 2"):
        open_source(arrays_data(directory, **same | {"least_people": 1}))


def test_records_and_pictures(config, written):
    disk, arrays = open_source(config.data), open_source(arrays_data(written))
    for partition in ("train", "test"):
        one, two = disk.split(partition), arrays.split(partition)
        assert (one.dataset, one.partition, one.default_gallery) == (
            two.dataset,
            two.partition,
            two.default_gallery,
        )
        assert one.labels == two.labels and list(one.galleries) == list(two.galleries)
        assert all(one.galleries[name] == two.galleries[name] for name in one.galleries)
        for first, second in zip(one.scenes, two.scenes, strict=True):
            assert (first.name, first.people, first.camera) == (second.name, second.people, second.camera)
            assert (first.height, first.width) == (second.height, second.width)
    assert disk.split("test").galleries
    for position in range(8):
        assert arrays.split("test").encoded(position) == disk.split("test").encoded(position)
    with pytest.raises(DataError, match="holds no pictures of 'train'"):
        arrays.split("train").encoded(0)


WITHOUT_TENSORFLOW = """
import sys, zlib
sys.modules["tensorflow"] = None
import itertools, json
from ml_collections import ConfigDict
from input_pipeline import open_source
data, phase = (ConfigDict(json.loads(text)) for text in sys.argv[1:])
source = open_source(data)
def checksum(batch):
    arrays = [batch.scenes.image, batch.scenes.size, *batch.people, batch.index]
    return [zlib.crc32(array.tobytes()) for array in arrays]
train = itertools.islice(source.train_batches(phase, 3), 3)
print(json.dumps([checksum(batch) for batch in [*train, *source.scene_batches("test", batch_size=2)]]))
assert sys.modules["tensorflow"] is None
"""


def test_same_numbers_without_tensorflow(config, written):
    data, settings = arrays_data(written), config.pretrain
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_TENSORFLOW, data.to_json(), settings.to_json()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    disk = open_source(config.data)
    batches = [
        *itertools.islice(disk.train_batches(settings, 3), COUNT),
        *disk.scene_batches("test", None, 2),
    ]
    expected = [
        [
            zlib.crc32(array.tobytes())
            for array in (batch.scenes.image, batch.scenes.size, *batch.people, batch.index)
        ]
        for batch in batches
    ]
    assert json.loads(run.stdout) == expected


def test_manifest(config, written):
    manifest = json.loads((written / "manifest.json").read_text())
    assert manifest["seed"] == 3 and manifest["config"]["data"]["max_people"] == 6
    assert (manifest["annotations"], manifest["least_people"]) == (100, 0)
    assert manifest["phases"]["pretrain"]["batches"] == COUNT
    files = {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()}
    assert files == set(manifest["files"]) | {"manifest.json"}
    assert not list(written.parent.glob(".*"))  # nothing half-written is left


def test_settings_have_to_be_those_of_the_arrays(config, written):
    arrays = open_source(arrays_data(written))
    with pytest.raises(ConfigError, match=r"holds no training batches of a phase with .*'batch_size': 2"):
        arrays.train_batches(phase(batch_size=2), 3)
    with pytest.raises(ConfigError, match=r"seed is 4, but the arrays in .* were written with 3"):
        arrays.train_batches(config.finetune, 4)
    with pytest.raises(ConfigError, match="resize is"):
        arrays.scene_batches("test", (90, 160))
    with pytest.raises(ConfigError, match=r"data\.resize is"):
        open_source(arrays_data(written, resize=(900, 1500)))
    with pytest.raises(ConfigError, match=r"data\.max_people is 5"):
        open_source(arrays_data(written, max_people=5))
    with pytest.raises(DataError, match="scenes of 'train' were not written"):
        arrays.scene_batches("train")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: shutil.rmtree(d), "no finished prepared arrays"),
        (lambda d: (d / "manifest.json").unlink(), "no finished prepared arrays"),
        (lambda d: (d / "manifest.json").write_text("{"), r"manifest\.json: cannot read"),
        (
            lambda d: (d / "manifest.json").write_text('{"version": 0}'),
            "of version 0, this library reads version 1",
        ),
        (lambda d: (d / "test/pictures.bin").unlink(), r"pictures\.bin: this file is missing"),
        (lambda d: (d / "test/people.npz").write_bytes(b"PK"), r"people\.npz: .* not copied completely"),
        (lambda d: flip_a_bit(d / "test/128x160.npy"), r"128x160\.npy: this file is damaged"),
        (lambda d: flip_a_bit(d / "records/scenes_test.json"), r"scenes_test\.json: this file is damaged"),
    ],
)
def test_damaged_arrays(written, tmp_path, change, words):
    directory = shutil.copytree(written, tmp_path / "arrays")
    change(directory)
    with pytest.raises(DataError, match=f"(?s){words}.*export_arrays"):
        source = open_source(arrays_data(directory))
        source.split("test")
        list(source.scene_batches("test"))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_export_errors(config, written, tmp_path):
    with pytest.raises(DataError, match="exists already"):
        export_arrays(config, written, 1)
    with pytest.raises(ConfigError, match="partition is 'val'"):
        export_arrays(config, tmp_path / "new", 1, ["val"])
    with pytest.raises(ConfigError, match="train_batches is -1"):
        export_arrays(config, tmp_path / "new", -1)
    with pytest.raises(ConfigError, match=r"data\.source is 'arrays'"):
        export_arrays(ConfigDict({"data": arrays_data(written)}), tmp_path / "new", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the arrays"):
        export_arrays(config, tmp_path / "file" / "arrays", 1)
    broken = ConfigDict(config.to_dict())
    broken.finetune.batch_size = 100
    with pytest.raises(ConfigError, match="100 scenes"):
        export_arrays(broken, tmp_path / "new", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_command_line(config, tmp_path):
    file = tmp_path / "config.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict({config.to_dict()!r})\n"
    )

    def run(*flags):
        command = [sys.executable, "-m", "input_pipeline.export_arrays", f"--config={file}", *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run(f"--out={tmp_path / 'arrays'}", "--train_batches=1", "--config.phases=('finetune',)")
    assert done.returncode == 0, done.stderr
    source = open_source(arrays_data(tmp_path / "arrays"))
    assert next(source.train_batches(config.finetune, 3)).index.shape == (4,)
    again = run(f"--out={tmp_path / 'arrays'}")
    assert again.returncode == 2
    assert "exists already" in again.stderr and "Traceback" not in again.stderr
