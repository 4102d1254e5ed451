"""One builder for every data set of people in scenes, and the data sets.

    builder = Prw(data_dir=out, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=directory))
    builder.as_data_source("train")[0]["boxes"]

"array_record" gives random access without TensorFlow (`as_data_source`); "tfrecord" gives `as_dataset`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline import records_json
from input_pipeline.coco_json import LAYOUT as COCO_LAYOUT
from input_pipeline.coco_json import read_coco_json
from input_pipeline.coco_persons import LAYOUT as COCO_PERSONS_LAYOUT
from input_pipeline.coco_persons import read_coco_persons
from input_pipeline.cuhk_sysu import LAYOUT as CUHK_SYSU_LAYOUT
from input_pipeline.cuhk_sysu import read_cuhk_sysu
from input_pipeline.disk import PARTITIONS, Layout
from input_pipeline.market1501 import LAYOUT as MARKET1501_LAYOUT
from input_pipeline.market1501 import read_market1501
from input_pipeline.prw import LAYOUT as PRW_LAYOUT
from input_pipeline.prw import read_prw
from input_pipeline.scenes import Split


def _instructions(layout: Layout) -> str:
    return f"manual_dir must hold {layout.title} as\n{layout.tree.strip()}\n{layout.source}"


class PersonSearchBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Whole scenes with the boxes and identities of the people in them.

    One record a scene, in the order of the reader: the encoded picture as it lies on disk ("image"),
    "name", "height", "width", "boxes" f32[people, 4] as (x1, y1, x2, y2) in pixels of the picture,
    "identities" i64[people] with -1 for unknown, and "camera", "sequence", "frame" (-1, "", -1 where the
    data set has none). Galleries are JSON files beside the records, their names are in the metadata.

    Attributes:
      read: the reader of the layout, called with the directory and the partition.
      layout: how the original data lies on disk.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (the interface of the base class)
    # Finding this path itself, the base class would need importlib_resources, which it does not install.
    code_path = Path(__file__)
    read: Callable[[Any, str], Split]
    layout: Layout

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "name": tfds.features.Text(),
            "height": np.int64,
            "width": np.int64,
            "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
            "identities": tfds.features.Tensor(shape=(None,), dtype=np.int64),
            "camera": np.int64,
            "sequence": tfds.features.Text(),
            "frame": np.int64,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.layout.title}: scenes, the people in them, and search tasks.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # record number i is scene number i
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        splits = {partition: type(self).read(dl_manager.manual_dir, partition) for partition in PARTITIONS}
        for split in splits.values():
            records_json.write_split(self.data_path, split)
        self.info.metadata.update(
            dataset=splits["test"].dataset,
            galleries=list(splits["test"].galleries),
            default_gallery=splits["test"].default_gallery,
        )
        # A partition without scenes has no records, only its JSON file.
        return {name: self._generate_examples(split) for name, split in splits.items() if split.scenes}

    def _generate_examples(self, split: Split) -> Iterator[tuple[int, dict[str, Any]]]:
        for position, scene in enumerate(split.scenes):
            yield (
                position,
                {
                    "image": split.encoded(position),
                    "name": scene.name,
                    "height": scene.height,
                    "width": scene.width,
                    "boxes": scene.boxes,
                    "identities": scene.identities,
                    "camera": -1 if scene.camera is None else scene.camera,
                    "sequence": scene.sequence or "",
                    "frame": -1 if scene.frame is None else scene.frame,
                },
            )


class Prw(PersonSearchBuilder):
    """PRW, read by `input_pipeline.prw.read_prw`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions(PRW_LAYOUT)
    read = staticmethod(read_prw)
    layout = PRW_LAYOUT


class CuhkSysu(PersonSearchBuilder):
    """CUHK-SYSU, read by `input_pipeline.cuhk_sysu.read_cuhk_sysu`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions(CUHK_SYSU_LAYOUT)
    read = staticmethod(read_cuhk_sysu)
    layout = CUHK_SYSU_LAYOUT


class CocoJson(PersonSearchBuilder):
    """A COCO-style data set, read by `input_pipeline.coco_json.read_coco_json`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions(COCO_LAYOUT)
    read = staticmethod(read_coco_json)
    layout = COCO_LAYOUT


class CocoPersons(PersonSearchBuilder):
    """COCOPersons, read by `input_pipeline.coco_persons.read_coco_persons`; it has no test records."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions(COCO_PERSONS_LAYOUT)
    read = staticmethod(read_coco_persons)
    layout = COCO_PERSONS_LAYOUT


class Market1501(PersonSearchBuilder):
    """Market-1501, read by `input_pipeline.market1501.read_market1501`; a record is one cut-out person."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions(MARKET1501_LAYOUT)
    read = staticmethod(read_market1501)
    layout = MARKET1501_LAYOUT
