"""Fills a gallery: looks at what is new or changed, in batches, so that it can be stopped and killed at any time.

A part is recorded after its people, and both lie on disk before the next ones; what a kill leaves behind is removed at
the next start. So a gallery never lacks what was acknowledged and never has anything twice.
"""

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ps_jax.errors import DataError
from ps_jax.search.ahead import Ahead
from ps_jax.search.detector import Detector, Found
from ps_jax.search.files import Look, MediaFile, find_files
from ps_jax.search.media import look_at_picture
from ps_jax.search.records import Part, People, joined_people, part_id
from ps_jax.search.stores import Store
from ps_jax.search.video import look_at_video

SCENES_AT_A_TIME = 16  # handed to the detector, which makes batches of those of one size
BYTES_AT_A_TIME = 512 << 20  # of their pixels; as many wait behind them, beside what readers have in hand
FRAMES_A_PART = 64  # of a video
FLUSH_PARTS, FLUSH_SECONDS = 512, 20.0  # insertions are large or rare
READERS = 4  # threads that decode pictures


@dataclass(frozen=True)
class Plan:
    """What an index run has to do.

    Attributes:
      files: (file, number of the first frame to look at), new, changed or left unfinished.
      outdated: ids of parts to forget: of files that have changed or are gone.
      unchanged: how many files need nothing.
      gone: paths of files that are no longer there.
      unnamed: paths that are no UTF-8 text, which no store takes; they are passed over.
      damaged: path -> why, of unchanged files that cannot be read.
      unread: path -> why, of files and folders that cannot be looked at now; nothing below them counts as gone.
    """

    files: tuple[tuple[MediaFile, int], ...]
    outdated: tuple[int, ...]
    unchanged: int
    gone: tuple[str, ...]
    unnamed: tuple[str, ...] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Report:
    """What an index run did.

    Attributes:
      files, scenes, people: looked at, and found in them.
      damaged: path -> why it cannot be read.
      unread: path -> why it could not be read this time; nothing of it is recorded, so the next run tries again.
    """

    files: int = 0
    scenes: int = 0
    people: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)


def make_plan(parts: Sequence[Part], places: Sequence[str | Path]) -> Plan:
    """Compares what is recorded with what lies on disk.

    Args:
      parts: everything that is recorded.
      places: folders and files to index. Of recorded files those that lay in one of these folders and are not there
        any more are gone; files elsewhere stay as they are.

    Raises:
      DataError: a place does not exist, or there is nothing to look at.
    """
    recorded: dict[str, list[Part]] = {}
    for part in parts:
        recorded.setdefault(part.path, []).append(part)
    files, outdated, unchanged = [], [], 0
    damaged: dict[str, str] = {}
    everything, unread = find_files(places)
    there = [file for file in everything if _is_text(file.path)]
    for file in there:
        known = recorded.get(file.path, [])
        same = [part for part in known if (part.size, part.modified) == (file.size, file.modified)]
        outdated += [part.id for part in known if part not in same]
        if any(part.finished for part in same):
            unchanged += 1
            damaged |= {part.path: part.damage for part in same if part.damage}
        else:
            files.append((file, max((part.first + part.frames for part in same), default=0)))
    # Without "..", as recorded paths are.
    folders = [os.path.abspath(place) for place in places if Path(place).is_dir()]
    present = {file.path for file in there}
    gone = sorted(
        path for path in recorded.keys() - present if _is_in(path, folders) and not _is_in(path, unread)
    )
    outdated += [part.id for path in gone for part in recorded[path]]
    unnamed = tuple(file.path for file in everything if not _is_text(file.path))
    return Plan(tuple(files), tuple(outdated), unchanged, tuple(gone), unnamed, damaged, unread)


def _is_in(path: str, places: Iterable[str]) -> bool:
    return any(Path(path).is_relative_to(place) for place in places)


def begin(store: Store, places: Sequence[str | Path]) -> Plan:
    """Mends what earlier runs left, plans, and forgets what is outdated; only while nobody else writes."""
    store.mend()  # first: what is removed here is looked at again
    plan = make_plan(store.parts(), places)
    store.delete(plan.outdated)
    return plan


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def index_files(
    store: Store,
    detector: Detector,
    files: Sequence[tuple[MediaFile, int]],
    fps: float,
    progress: Callable[[Look], Any] = lambda look: None,
) -> Report:
    """Looks at files and adds what is found.

    Whatever ends it early, Ctrl-C included, what has been looked at is added first.

    Args:
      store: where to.
      detector: what finds and embeds.
      files: (file, number of the first frame to look at).
      fps: frames a second of video to look at.
      progress: called with every scene that is done.
    """
    report = Report()
    writer = _Writer(store, detector, report)
    with Ahead(_looks(files, fps), 2 * SCENES_AT_A_TIME, BYTES_AT_A_TIME, _bytes_of) as looks:
        try:
            while some := _some(looks):
                readable = [look.image for look in some if look.image is not None]
                found = iter(detector.detect(readable))
                for look in some:
                    writer.take(look, None if look.image is None else next(found))
                    progress(look)
                writer.flush_if_due()
        finally:
            writer.flush()
    return report


class _Scene(NamedTuple):
    """A scene that is done: of its pixels the height and width are left; (0, 0) where there were none."""

    look: Look
    size: tuple[int, int]
    people: People


class _Writer:
    """Makes parts of scenes and adds them in large insertions."""

    def __init__(self, store: Store, detector: Detector, report: Report):
        self._store, self._detector, self._report = store, detector, report
        self._open: list[_Scene] = []  # consecutive frames of one video
        self._made: list[tuple[Part, People]] = []  # not yet added
        self._flushed = time.monotonic()

    def take(self, look: Look, found: Found | None) -> None:
        """Adds a scene to the open part; None: it cannot be read."""
        if self._open and self._open[0].look.file != look.file:
            self._close()
        if look.passing:
            self._report.unread[look.file.path] = look.damage
            return
        people = joined_people([], int(self._store.about["width"]))
        if found is not None:
            count = len(found.score)
            time_of = np.full(count, look.taken + look.moment)
            people = People(
                np.zeros(count, np.int64),
                np.full(count, look.moment),
                time_of,
                found.box,
                found.score,
                self._detector.gallery_features(found),
            )
        size = (0, 0) if look.image is None else look.image.shape[:2]
        self._open.append(_Scene(dataclasses.replace(look, image=None), size, people))
        if look.last or len(self._open) == FRAMES_A_PART:
            self._close()

    def _close(self) -> None:
        if not self._open:
            return
        scenes, self._open = self._open, []  # first, as in `flush`
        first, last = scenes[0].look, scenes[-1].look
        file, (height, width) = first.file, scenes[0].size
        people = joined_people((scene.people for scene in scenes), int(self._store.about["width"]))
        part = Part(
            id=part_id(file.path, file.size, file.modified, first.number),
            path=file.path,
            size=file.size,
            modified=file.modified,
            first=first.number,
            frames=last.number - first.number + 1,
            finished=last.last,
            taken=first.taken,
            height=height,
            width=width,
            people=len(people.part),
            damage=last.damage,
        )
        self._made.append((part, people._replace(part=np.full(part.people, part.id))))
        report = self._report
        report.files += part.finished
        report.scenes += sum(scene.size != (0, 0) for scene in scenes)
        report.people += part.people
        if part.damage:
            report.damaged[part.path] = part.damage

    def flush_if_due(self) -> None:
        """Adds what has come together, where that is much or some time has passed."""
        due = time.monotonic() - self._flushed > FLUSH_SECONDS
        if due or len(self._made) >= FLUSH_PARTS:
            self.flush()

    def flush(self) -> None:
        """Adds everything that has been looked at."""
        self._close()
        # Taken out first: what is broken off while it is added must not be added again by the flush at the end.
        made, self._made = self._made, []
        if made:
            people = joined_people((rows for _, rows in made), int(self._store.about["width"]))
            self._store.add([part for part, _ in made], people)
        self._flushed = time.monotonic()


def _looks(files: Sequence[tuple[MediaFile, int]], fps: float) -> Iterator[Look]:
    """All scenes of files in order; pictures are decoded some ahead, in several threads."""
    with ThreadPoolExecutor(READERS, "reader") as pool:
        for is_video, group in itertools.groupby(files, lambda pair: pair[0].is_video):
            if is_video:
                for file, first in group:
                    yield from look_at_video(file, fps, first)
                continue
            waiting: list[Future[Look]] = []
            for file, _ in group:
                if len(waiting) == READERS:  # no more, since their sizes are not known yet
                    yield waiting.pop(0).result()
                waiting.append(pool.submit(look_at_picture, file))
            for future in waiting:
                yield future.result()


def _some(looks: Iterator[Look]) -> list[Look]:
    """The next scenes, as many as are worked on together."""
    some: list[Look] = []
    while len(some) < SCENES_AT_A_TIME and sum(map(_bytes_of, some)) < BYTES_AT_A_TIME:
        look = next(looks, None)
        if look is None:
            break
        some.append(look)
    return some


def _bytes_of(look: Look) -> int:
    return 0 if look.image is None else look.image.nbytes


def gallery_about(detector: Detector, model: str | Path, fps: float) -> Mapping[str, Any]:
    """What a gallery records of what it was made by."""
    if not 0 < fps <= 240:
        raise DataError(f"--fps {fps:g}: wanted are more than 0 and at most 240 frames a second")
    return {**detector.about, "fps": fps, "model": str(Path(model).absolute())}
