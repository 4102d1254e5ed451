"""Reads data sets prepared by `python -m input_pipeline.prepare`, without TensorFlow.

A prepared directory is a TensorFlow Datasets directory in the array_record format: one record a scene, in
the order of the split. Beside the records lie JSON files with all that is needed without opening a picture
(see `records_json`).
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from input_pipeline import records_json
from input_pipeline.disk import Layout, check_partition
from input_pipeline.galleries import Galleries
from input_pipeline.scenes import Gallery, Split
from ps_jax.errors import DataError

_COMMAND = "python -m input_pipeline.prepare --dataset NAME --dir DATA --out DIRECTORY"
_REMEDY = f"prepare the data again: {_COMMAND}"

LAYOUT = Layout(
    title="A prepared data set",
    tree="""
<dataset>/<version>/dataset_info.json, features.json, metadata.json
<dataset>/<version>/<dataset>-train.array_record-00000-of-00001 ...
<dataset>/<version>/scenes_train.json, scenes_test.json, gallery_<name>.json ...
""",
    source=f"It is written by {_COMMAND}",
)


@dataclass(frozen=True)
class PreparedSplit(Split):
    """A split whose pictures lie in array_record files.

    Attributes:
      directory: the folder of the prepared version, with dataset_info.json.
    """

    directory: str = ""

    @functools.cached_property
    def _records(self) -> Any:
        import tensorflow_datasets as tfds  # leaves TensorFlow alone when it reads array_record files

        builder = tfds.builder_from_directory(self.directory)
        file_format = builder.info.file_format.value
        if file_format != "array_record":
            raise DataError(
                f"{self.directory}: its records are in the {file_format} format, which has no random access; "
                f"{_REMEDY} --format array_record"
            )
        decoders = {"image": tfds.decode.SkipDecoding()}
        records = builder.as_data_source(self.partition, decoders=decoders)
        if len(records) != len(self.scenes):
            raise DataError(
                f"{self.directory}: holds {len(records)} {self.partition} records for {len(self.scenes)} "
                f"scenes; {_REMEDY}"
            )
        return records

    def encoded(self, position: int) -> bytes:
        """The encoded picture (JPEG or PNG bytes) of scene number `position`."""
        scene = self.scenes[position]
        record = self._records[position]
        name = record["name"].decode()
        if name != scene.name:
            raise DataError(
                f"{self.directory}: {self.partition} record {position} is scene {name}, not {scene.name}; "
                f"{_REMEDY}"
            )
        return record["image"]


def read_prepared(directory: str | Path, partition: str) -> PreparedSplit:
    """The scenes and search tasks of one partition of a prepared data set.

    Args:
      directory: the `--out` of the preparation, or the folder <dataset>/<version> in it.
      partition: "train" or "test".

    Returns:
      The split as the reader of the original data returns it, but its pictures come from the prepared
      records. They and the galleries are opened when they are first asked for.

    Raises:
      DataError: the directory is no prepared data set, or holds several.
    """
    check_partition(partition)
    version = _version(LAYOUT.directory(directory))
    content = records_json.read_json(records_json.scenes_file(version, partition), _REMEDY)
    scenes = records_json.scenes_of(content, str(version))
    names = [scene.name for scene in scenes]
    readers = {
        name: functools.partial(_read_gallery, records_json.gallery_file(version, name), names)
        for name in content["galleries"]
    }
    return PreparedSplit(
        content["dataset"],
        partition,
        scenes,
        Galleries(f"{version} {partition}", readers, _REMEDY[0].upper() + _REMEDY[1:]),
        content["default_gallery"],
        str(version),
    )


def _read_gallery(path: Path, names: list[str]) -> Gallery:
    return records_json.gallery_of(records_json.read_json(path, _REMEDY), names)


def _version(directory: Path) -> Path:
    if (directory / "dataset_info.json").is_file():
        return directory
    found = sorted(path.parent for path in directory.glob("*/*/dataset_info.json"))
    if not found:
        raise LAYOUT.error(f"{directory}: there is no prepared data set in this directory")
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise DataError(f"{directory}: holds several prepared data sets; name one of {names}")
    return found[0]
