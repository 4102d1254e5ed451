"""Indexing looks at everything once: again, after changes, after interruptions and kills."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from search_fakes import COLOURS, ColourDetector, draw_scene, make_folder, make_video, save

from ps_jax.errors import DataError, GalleryError
from ps_jax.search import indexing, media
from ps_jax.search.ahead import Ahead
from ps_jax.search.answers import printable
from ps_jax.search.gallery import Gallery
from ps_jax.search.indexing import begin, gallery_about, index_files
from ps_jax.search.lance_store import LanceStore
from ps_jax.search.records import joined_people
from ps_jax.search.stores import make_store, open_store

ROOT = Path(__file__).parents[2]


def index(gallery, *places, fps=2.0, detector=None):
    """Indexes with the fake detector; returns the plan and the report."""
    detector = detector or ColourDetector()
    store = make_store(str(gallery), gallery_about(detector, "model", fps))
    plan = begin(store, places)
    return plan, index_files(store, detector, plan.files, fps)


def people_of(gallery):
    """(path, moment) -> sorted colour numbers of everybody in the gallery."""
    opened = Gallery(open_store(str(gallery)))
    people = opened.scenes(opened.parts)
    found = {}
    for part, moment, feature in zip(people.part, people.moment, people.feature, strict=True):
        colour = ColourDetector().query_features(
            np.pad(COLOURS - 150.0, ((0, 0), (0, 1)), constant_values=20.0)
        )
        number = int((colour @ feature).argmax())
        found.setdefault((opened.parts[int(part)].path, float(moment)), []).append(number)
    return {key: sorted(numbers) for key, numbers in found.items()}


def test_everybody_is_indexed_once(tmp_path):
    shown = make_folder(tmp_path / "pictures")
    plan, report = index(tmp_path / "g", tmp_path / "pictures")
    assert (len(plan.files), report.files, report.scenes, report.people) == (12, 12, 12, 28)
    expected = {(path, 0.0): sorted(people) for path, people in shown.items()}
    assert people_of(tmp_path / "g") == expected


def test_the_second_run_touches_nothing(tmp_path):
    make_folder(tmp_path / "pictures")
    make_video(tmp_path / "pictures" / "walk.mp4")
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"no picture")
    _, first = index(tmp_path / "g", tmp_path / "pictures")
    assert list(first.damaged) == [str(tmp_path / "pictures" / "broken.jpg")]
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "g").rglob("*") if path.is_file()}
    detector = ColourDetector()
    plan, report = index(tmp_path / "g", tmp_path / "pictures", detector=detector)
    assert (plan.files, plan.unchanged, detector.seen, report.people) == ((), 14, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "g").rglob("*") if path.is_file()} == files


def test_new_changed_and_vanished_files(tmp_path):
    folder, gallery = tmp_path / "pictures", tmp_path / "g"
    shown = make_folder(folder)
    other = make_folder(tmp_path / "other", 2)
    index(gallery, folder, tmp_path / "other")
    save(draw_scene({5: 40.0}), folder / "new.png")
    changed = save(draw_scene({4: 40.0, 5: 70.0}), folder / "03.png")
    (folder / "07.png").unlink()
    (tmp_path / "other" / "00.png").unlink()
    detector = ColourDetector()
    plan, _ = index(gallery, folder, detector=detector)
    assert detector.seen == 2 and plan.unchanged == 10
    assert plan.gone == (str(folder / "07.png"),)  # the other folder was not asked about
    expected = {(path, 0.0): sorted(people) for path, people in {**shown, **other}.items()}
    expected |= {(str(changed), 0.0): [4, 5], (str(folder / "new.png"), 0.0): [5]}
    del expected[(str(folder / "07.png"), 0.0)]
    assert people_of(gallery) == expected


def test_vanished_files_of_a_folder_named_by_a_way_around_are_gone(tmp_path, monkeypatch):
    make_folder(tmp_path / "pictures", 3)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    index(tmp_path / "g", "../pictures")
    (tmp_path / "pictures" / "01.png").unlink()
    plan, _ = index(tmp_path / "g", "../pictures")
    assert plan.gone == (str(tmp_path / "pictures" / "01.png"),)
    assert {path for path, _ in people_of(tmp_path / "g")} == {
        str(tmp_path / "pictures" / name) for name in ("00.png", "02.png")
    }


def test_what_cannot_be_read_for_now_is_neither_recorded_nor_gone(tmp_path, monkeypatch):
    shown = make_folder(tmp_path / "pictures", 4)
    closed = save(draw_scene({5: 40.0}), tmp_path / "pictures" / "closed" / "a.png").parent
    shown[str(closed / "a.png")] = {5: 40.0}
    index(tmp_path / "g", tmp_path / "pictures")
    changed = tmp_path / "pictures" / "02.png"
    changed.touch()
    scandir, read = os.scandir, media.read_picture

    def denied(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda path: (denied if str(path) == str(closed) else scandir)(path))
        patch.setattr(media, "read_picture", lambda path: (denied if path == str(changed) else read)(path))
        plan, report = index(tmp_path / "g", tmp_path / "pictures")
    assert plan.gone == () and list(plan.unread) == [str(closed)] and list(report.unread) == [str(changed)]
    assert report.damaged == {}
    _, report = index(tmp_path / "g", tmp_path / "pictures")
    assert report.files == 1
    assert people_of(tmp_path / "g") == {(path, 0.0): sorted(people) for path, people in shown.items()}


def test_names_that_are_no_text_are_passed_over(tmp_path):
    shown = make_folder(tmp_path / "pictures", 3)
    other = os.fsdecode(os.fsencode(tmp_path / "pictures") + b"/\xff\n.png")
    os.link(tmp_path / "pictures" / "01.png", other)
    plan, report = index(tmp_path / "g", tmp_path / "pictures")
    assert plan.unnamed == (other,) and report.files == 3
    assert people_of(tmp_path / "g") == {(path, 0.0): sorted(people) for path, people in shown.items()}
    assert printable(other).endswith("/\\udcff\\n.png")


def test_a_video_is_indexed_by_its_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "FRAMES_A_PART", 4)
    video = make_video(tmp_path / "walk.mp4")
    _, report = index(tmp_path / "g", video)
    assert (report.files, report.scenes, report.people) == (1, 10, 20)
    assert people_of(tmp_path / "g") == {(str(video), k / 2): [0, 2] for k in range(10)}
    parts = sorted(open_store(str(tmp_path / "g")).parts(), key=lambda part: part.first)
    assert [(part.first, part.frames, part.finished) for part in parts] == [
        (0, 4, False),
        (4, 4, False),
        (8, 2, True),
    ]
    assert {(part.height, part.width) for part in parts} == {(120, 200)}
    assert {part.taken for part in parts} == {video.stat().st_mtime_ns / 1e9}


@pytest.mark.parametrize("stop_at", [1, 5, 9, 12])
def test_an_interruption_keeps_what_was_seen_and_the_next_run_goes_on(tmp_path, monkeypatch, stop_at):
    monkeypatch.setattr(indexing, "SCENES_AT_A_TIME", 3)
    shown = make_folder(tmp_path / "pictures", 5)
    video = make_video(tmp_path / "pictures" / "walk.mp4")
    interrupted = ColourDetector()
    detect = interrupted.detect

    def stop(pictures):
        if interrupted.seen >= stop_at:
            raise KeyboardInterrupt
        return detect(pictures)

    interrupted.detect = stop
    with pytest.raises(KeyboardInterrupt):
        index(tmp_path / "g", tmp_path / "pictures", detector=interrupted)
    kept = len(people_of(tmp_path / "g"))
    assert kept == interrupted.seen
    detector = ColourDetector()
    index(tmp_path / "g", tmp_path / "pictures", detector=detector)
    assert detector.seen == 15 - kept
    expected = {(path, 0.0): sorted(people) for path, people in shown.items()}
    assert people_of(tmp_path / "g") == expected | {(str(video), k / 2): [0, 2] for k in range(10)}


@pytest.mark.parametrize("half", ["_people", "_parts"])
@pytest.mark.parametrize("written", [False, True], ids=["before it is written", "after it is written"])
def test_an_insertion_that_is_broken_off_doubles_nobody(tmp_path, monkeypatch, half, written):
    monkeypatch.setattr(indexing, "SCENES_AT_A_TIME", 3)
    monkeypatch.setattr(indexing, "FLUSH_PARTS", 3)
    shown = make_folder(tmp_path / "pictures", 6)
    add = LanceStore.add

    class Table:
        def __init__(self, table):
            self._table = table

        def add(self, rows):
            if written:
                self._table.add(rows)
            raise KeyboardInterrupt

    def broken_off(store, parts, people):
        patch.setattr(LanceStore, "add", add)  # the next one is not
        tables = getattr(store, half)
        (name,) = tables
        table, tables[name] = tables[name], Table(tables[name])
        try:
            add(store, parts, people)
        finally:
            tables[name] = table

    with monkeypatch.context() as patch:
        patch.setattr(LanceStore, "add", broken_off)
        with pytest.raises(KeyboardInterrupt):
            index(tmp_path / "g", tmp_path / "pictures")
    index(tmp_path / "g", tmp_path / "pictures")
    assert people_of(tmp_path / "g") == {(path, 0.0): sorted(people) for path, people in shown.items()}
    store = open_store(str(tmp_path / "g"))
    assert (store.count(), len(store.parts())) == (sum(map(len, shown.values())), 6)


def test_what_two_runs_at_once_doubled_is_looked_at_again(tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "FRAMES_A_PART", 4)
    shown = make_folder(tmp_path / "pictures", 4)
    video = make_video(tmp_path / "pictures" / "walk.mp4")
    index(tmp_path / "g", tmp_path / "pictures")
    store = open_store(str(tmp_path / "g"))
    parts = {(part.path, part.first): part for part in store.parts()}
    twice = [parts[str(tmp_path / "pictures" / "01.png"), 0], parts[str(video), 4]]
    people = joined_people(store.scan([part.id for part in twice]), 4)
    make_store(str(tmp_path / "g"), store.about).add(twice, people)
    detector = ColourDetector()
    plan, _ = index(tmp_path / "g", tmp_path / "pictures", detector=detector)
    assert plan.unchanged == 3 and detector.seen == 1 + 10
    expected = {(path, 0.0): sorted(people) for path, people in shown.items()}
    assert people_of(tmp_path / "g") == expected | {(str(video), k / 2): [0, 2] for k in range(10)}
    assert open_store(str(tmp_path / "g")).count() == sum(map(len, shown.values())) + 20


@pytest.mark.parametrize(
    ("most", "most_bytes", "size", "expected"), [(4, 1000, 1, 4), (100, 50, 10, 5), (4, 5, 10, 1)]
)
def test_only_so_much_is_read_ahead(most, most_bytes, size, expected):
    made = []

    def items():
        for number in range(30):
            made.append(number)
            yield number

    with Ahead(items(), most, most_bytes, lambda item: size) as ahead:
        for number in range(10):
            assert next(ahead) == number
            until = time.monotonic() + 20
            while len(made) < number + 2 + expected and time.monotonic() < until:
                time.sleep(0.001)  # one more is made, and waits for room
        time.sleep(0.05)
        assert len(made) == 11 + expected
    with Ahead(items(), most, most_bytes, lambda item: size) as ahead:
        assert list(ahead) == list(range(30))


def test_large_pictures_are_worked_on_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "BYTES_AT_A_TIME", 3 * 120 * 200 * 3)
    shown = make_folder(tmp_path / "pictures", 8)
    detector, together = ColourDetector(), []
    detect = detector.detect
    detector.detect = lambda pictures: together.append(len(pictures)) or detect(pictures)
    index(tmp_path / "g", tmp_path / "pictures", detector=detector)
    assert together == [3, 3, 2]
    assert people_of(tmp_path / "g") == {(path, 0.0): sorted(people) for path, people in shown.items()}


def test_frames_that_are_done_are_not_kept(tmp_path):
    video = make_video(tmp_path / "walk.mp4")
    detector, frames = ColourDetector(), []
    detect = detector.detect

    def alive(pictures):
        frames.extend(map(weakref.ref, pictures))
        return detect(pictures)

    detector.detect = alive
    left = []

    def count(look):
        left.append(sum(frame() is not None for frame in frames))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "SCENES_AT_A_TIME", 2)
        store = make_store(str(tmp_path / "g"), gallery_about(detector, "model", 10.0))
        index_files(store, detector, begin(store, [video]).files, 10.0, count)
    assert len(left) == 50 and max(left) <= 4


def test_an_error_while_reading_ends_the_run(tmp_path, monkeypatch):
    make_folder(tmp_path / "pictures", 3)

    def fails(file):
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(indexing, "look_at_picture", fails)
    with pytest.raises(RuntimeError, match="on fire"):
        index(tmp_path / "g", tmp_path / "pictures")


def test_another_model_or_rate_is_refused(tmp_path):
    make_folder(tmp_path / "pictures", 3)
    index(tmp_path / "g", tmp_path / "pictures")
    with pytest.raises(GalleryError, match=r"indexed otherwise \(fingerprint c0ffee there, 0ther here\)"):
        index(tmp_path / "g", tmp_path / "pictures", detector=ColourDetector(fingerprint="0ther"))
    with pytest.raises(GalleryError, match=r"fps 2.0 there, 5.0 here"):
        index(tmp_path / "g", tmp_path / "pictures", fps=5.0)
    with pytest.raises(DataError, match="--fps 0"):
        gallery_about(ColourDetector(), "model", 0.0)


RUN = """
import sys, time
sys.path[:0] = sys.argv[1:3]
from search_fakes import ColourDetector
from ps_jax.search import indexing
from test_indexing import index
indexing.SCENES_AT_A_TIME = indexing.FRAMES_A_PART = 4
indexing.FLUSH_PARTS = 4
detector = ColourDetector()
detect = detector.detect
def slowly(pictures):
    time.sleep(0.02)
    return detect(pictures)
detector.detect = slowly
print("ready", flush=True)
index(*sys.argv[3:5], detector=detector)
print("done", flush=True)
"""


@pytest.mark.slow
def test_kills_at_random_moments_lose_and_double_nothing(tmp_path):
    shown = make_folder(tmp_path / "pictures", 60)
    videos = [make_video(tmp_path / "pictures" / f"walk{number}.mp4") for number in range(3)]
    expected = {(path, 0.0): sorted(people) for path, people in shown.items()}
    expected |= {(str(video), k / 2): [0, 2] for video in videos for k in range(10)}
    command = [sys.executable, "-c", RUN, str(ROOT), str(Path(__file__).parent)]
    command += [str(tmp_path / "g"), str(tmp_path / "pictures")]
    rng = random.Random(0)
    kills, seen = 0, 0
    while kills < 10:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0.0, 1.2))
            os.kill(run.pid, signal.SIGKILL)
            done = run.stdout.read() == "done\n"
        kills += 1
        if not (tmp_path / "g").exists():
            continue
        here = people_of(tmp_path / "g") if any((tmp_path / "g").iterdir()) else {}
        assert all(expected[key] == numbers for key, numbers in here.items())
        assert len(here) >= seen  # nothing that was there is gone
        seen = len(here)
        if done:
            (tmp_path / "pictures" / "00.png").touch()  # something to do again
            seen -= 1
    index(tmp_path / "g", tmp_path / "pictures")
    assert people_of(tmp_path / "g") == expected
    store = open_store(str(tmp_path / "g"))
    assert store.count() == sum(map(len, expected.values()))
