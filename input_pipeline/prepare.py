"""Prepares a data set once for fast reading: python -m input_pipeline.prepare --dataset prw --dir D --out OUT

The result is read by `input_pipeline.prepared.read_prepared` (--config.data.source=prepared), which needs no
TensorFlow, or, with --format tfrecord, by TensorFlow Datasets' `as_dataset`.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ps_jax.errors import DataError, PersonSearchError

DATASETS = ("prw", "cuhk_sysu", "coco_json", "coco_persons", "market1501")
FORMATS = ("array_record", "tfrecord")


def prepare(dataset: str, directory: str | Path, out: str | Path, file_format: str = "array_record") -> Path:
    """Writes train and test split of a data set as TensorFlow Datasets records.

    Args:
      dataset: layout of the original data, one of `DATASETS`. Generated streets lie in one of the first two.
      directory: the original data.
      out: folder to write to; the records go to <out>/<dataset>/<version>.
      file_format: one of `FORMATS`.

    Returns:
      The folder of the records.

    Raises:
      DataError: the original data is missing or malformed, or `out` holds this data set already.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset is {dataset!r}, wanted one of {DATASETS}")
    if file_format not in FORMATS:
        raise ValueError(f"file_format is {file_format!r}, wanted one of {FORMATS}")
    import tensorflow_datasets as tfds

    from input_pipeline import builders

    kinds = {
        "prw": builders.Prw,
        "cuhk_sysu": builders.CuhkSysu,
        "coco_json": builders.CocoJson,
        "coco_persons": builders.CocoPersons,
        "market1501": builders.Market1501,
    }
    kind = kinds[dataset]
    directory = kind.layout.directory(directory)
    if not any(directory.iterdir()):
        raise kind.layout.error(f"{directory}: this directory is empty")
    builder = kind(data_dir=str(out), file_format=file_format)
    target = Path(builder.data_dir)
    if target.exists():
        raise DataError(
            f"{target}: exists already; remove it to prepare the data again, or choose another --out"
        )
    with tempfile.TemporaryDirectory() as downloads:  # nothing is downloaded, but the folder is asked for
        builder.download_and_prepare(
            download_dir=downloads, download_config=tfds.download.DownloadConfig(manual_dir=str(directory))
        )
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code, 2 for an error the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.prepare", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--dataset", required=True, choices=DATASETS, help="layout of the original data")
    parser.add_argument("--dir", required=True, help="the original data")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--format", default="array_record", choices=FORMATS, help="format of the records")
    options = parser.parse_args(arguments)
    try:
        target = prepare(options.dataset, options.dir, options.out, options.format)
    except PersonSearchError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
