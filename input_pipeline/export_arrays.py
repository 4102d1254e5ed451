"""Writes prepared batches and test scenes for machines without TensorFlow.

    python -m input_pipeline.export_arrays --config configs/spnet_oc.py --out data/arrays --train_batches 200

Then `train.py` and `eval.py` read them with `--config.data.source=arrays --config.data.dir=data/arrays`.
"""

import itertools
import json
import os
import shutil
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from input_pipeline import records_json
from input_pipeline.arrays import MANIFEST, VERSION, file_checksum, flatten, phase_settings
from input_pipeline.disk import PARTITIONS
from input_pipeline.plan import padded, scene_sizes
from input_pipeline.source import Source, open_source
from ps_jax.errors import ConfigError, DataError, PersonSearchError
from ps_jax.interface import People


def export_arrays(
    config: ConfigDict, directory: str | Path, train_batches: int, partitions: Sequence[str] = ("test",)
) -> Path:
    """Writes a directory that `input_pipeline.arrays.ArraysSource` reads; it appears when it is complete.

    Args:
      config: a whole configuration: `data`, `phases` with their settings, `seed`.
      directory: what to write; must not exist.
      train_batches: how many batches of every phase.
      partitions: whose scenes to write, resized by `config.data.resize`; one without scenes is left out.

    Returns:
      The directory.

    Raises:
      ConfigError: the configuration names no data set on disk, or an argument is out of range.
      DataError: the directory exists, cannot be written, or the data set is not as it should be.
    """
    if config.data.source == "arrays":
        raise ConfigError("data.source is 'arrays'; arrays are written from a data set on disk")
    if train_batches < 0:
        raise ConfigError(f"train_batches is {train_batches}; wanted is 0 or more")
    for partition in partitions:
        if partition not in PARTITIONS:
            raise ConfigError(f"partition is {partition!r}; known are {', '.join(PARTITIONS)}")
    target = Path(os.path.abspath(Path(directory).expanduser()))
    if target.exists():
        raise DataError(f"{target}: exists already; remove it, or choose another --out")
    source = open_source(config.data)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        _write(partial, config, source, train_batches, partitions)
        partial.rename(target)
    except OSError as error:
        raise DataError(
            f"{target}: cannot write the arrays ({error.strerror or error}); nothing is left of them. "
            "Make room, or choose another --out"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _write(
    directory: Path, config: ConfigDict, source: Source, train_batches: int, partitions: Sequence[str]
) -> None:
    (directory / "records").mkdir()
    for partition in PARTITIONS:
        records_json.write_split(directory / "records", source.split(partition))
    partitions = [partition for partition in partitions if source.split(partition).scenes]
    phases = {}
    for name in config.phases:
        phases[name] = {"settings": phase_settings(config[name]), "batches": train_batches}
        if train_batches:
            _write_phase(directory / "train" / name, config[name], config.seed, source, train_batches)
    for partition in partitions:
        _write_scenes(directory / partition, source, partition, tuple(config.data.resize))
    manifest = {
        "version": VERSION,
        "seed": config.seed,
        "resize": list(config.data.resize),
        "max_people": config.data.max_people,
        "annotations": config.data.get("annotations", 100),
        "least_people": config.data.get("least_people", 0),
        "phases": phases,
        "partitions": partitions,
        "config": json.loads(config.to_json_best_effort()),
        "files": {
            path.relative_to(directory).as_posix(): {
                "bytes": path.stat().st_size,
                "crc32": file_checksum(path),
            }
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        },
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _write_phase(directory: Path, phase: Any, seed: int, source: Source, train_batches: int) -> None:
    directory.mkdir(parents=True)
    batches = itertools.islice(source.train_batches(phase, seed), train_batches)
    for step, batch in enumerate(batches):
        np.savez(directory / f"{step:06d}.npz", allow_pickle=False, **flatten(batch))
    logging.info("%s: %d training batches", directory.name, train_batches)


def _write_scenes(directory: Path, source: Source, partition: str, resize: tuple[int, int]) -> None:
    directory.mkdir(exist_ok=True)  # train/ has the training batches already
    split = source.split(partition)
    size = scene_sizes(split, resize)
    groups, counts = np.unique(padded(size), axis=0, return_counts=True)
    pictures = {
        (height, width): np.lib.format.open_memmap(
            directory / f"{height}x{width}.npy", "w+", np.uint8, (count, height, width, 3)
        )
        for (height, width), count in zip(groups.tolist(), counts.tolist(), strict=True)
    }
    filled = dict.fromkeys(pictures, 0)
    people: list[People | None] = [None] * len(split.scenes)
    for batch in source.scene_batches(partition, resize, batch_size=1):
        key = (batch.scenes.image.shape[1], batch.scenes.image.shape[2])
        pictures[key][filled[key]] = batch.scenes.image[0]
        filled[key] += 1
        people[batch.index[0]] = People(*(column[0] for column in batch.people))
    for array in pictures.values():
        array.flush()
    lengths = [0]
    with open(directory / "pictures.bin", "wb") as file:
        for position in range(len(split.scenes)):
            lengths.append(file.write(split.encoded(position)))
    columns = {name: np.stack([getattr(one, name) for one in people]) for name in People._fields}
    np.savez(
        directory / "people.npz", allow_pickle=False, size=size, picture_start=np.cumsum(lengths), **columns
    )
    logging.info("%s: %d scenes in %d sizes", partition, len(split.scenes), len(pictures))


def _main(arguments: Sequence[str]) -> int:
    if len(arguments) > 1:
        raise app.UsageError(f"unknown argument {arguments[1]!r}")
    options = flags.FLAGS
    target = export_arrays(options.config, options.out, options.train_batches, options.partition)
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "configuration file", lock_config=True)
    flags.DEFINE_string("out", None, "directory to write")
    flags.DEFINE_integer("train_batches", 0, "training batches of every phase")
    flags.DEFINE_list("partition", ["test"], "partitions whose scenes are written")
    flags.mark_flags_as_required(["config", "out"])
    try:
        app.run(_main)
    except PersonSearchError as error:  # a configuration file may raise one too, before _main runs
        print(error, file=sys.stderr)
        sys.exit(2)
