"""Both stores keep what they acknowledge, forget what they are told to, and find the nearest."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from gallery_cases import ABOUT, WIDTH, make_part, make_people
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ResponseHandlingException

from ps_jax.errors import GalleryError
from ps_jax.search.gallery import Gallery
from ps_jax.search.qdrant_store import open_collection
from ps_jax.search.records import EVERYBODY, Restriction, joined_people
from ps_jax.search.stores import make_store, open_store

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["folder", "qdrant"])
def store(request, tmp_path):
    if request.param == "folder":
        yield make_store(str(tmp_path / "g"), ABOUT)
        return
    client = QdrantClient(":memory:")
    yield open_collection(client, "people", ABOUT)
    client.close()


def filled(store, parts=12, people=5):
    made = [make_part(number, people) for number in range(parts)]
    tables = [make_people(part) for part in made]
    store.add(made[:7], joined_people(tables[:7], WIDTH))
    store.add(made[7:], joined_people(tables[7:], WIDTH))
    return made, joined_people(tables, WIDTH)


def by_row(people):
    order = np.lexsort((-people.score, people.part))
    return people.take(order)


def test_what_is_added_comes_back(store):
    parts, people = filled(store)
    assert store.count() == 60
    assert sorted(store.parts(), key=lambda part: part.path) == parts
    for expected, found in zip(by_row(people), by_row(joined_people(store.scan(), WIDTH)), strict=True):
        np.testing.assert_array_equal(expected, found)
        assert expected.dtype == found.dtype
    some = joined_people(store.scan([parts[3].id, parts[8].id]), WIDTH)
    assert sorted(set(some.part.tolist())) == sorted([parts[3].id, parts[8].id]) and len(some.part) == 10


def test_what_is_deleted_is_gone(store):
    parts, _ = filled(store)
    store.delete([parts[0].id, parts[11].id, 12345])
    assert store.count() == 50
    assert {part.path for part in store.parts()} == {part.path for part in parts[1:11]}
    store.delete([])
    assert store.count() == 50


def test_search_finds_the_largest_products(store):
    _, people = filled(store)
    vectors = people.feature[[4, 31]]
    for hits, vector in zip(store.search(vectors, 6, EVERYBODY, exact=True), vectors, strict=True):
        product = people.feature @ vector
        best = np.argsort(-product)[:6]
        np.testing.assert_allclose(hits.similarity, product[best], atol=2e-6)
        np.testing.assert_array_equal(hits.people.part, people.part[best])
        np.testing.assert_array_equal(hits.people.box, people.box[best])
        assert hits.people.feature.shape == (6, 0)


def test_search_is_restricted_by_score_and_time(store):
    _, people = filled(store)
    restriction = Restriction(0.7, after=1002.0, before=1009.0)
    hits = store.search(people.feature[:1], 100, restriction, exact=True)[0]
    allowed = (people.score >= np.float32(0.7)) & (people.time >= 1002) & (people.time < 1009)
    assert 5 < allowed.sum() < 30
    assert len(hits.similarity) == allowed.sum()
    product = np.where(allowed, people.feature @ people.feature[0], -2)
    np.testing.assert_array_equal(hits.people.part, people.part[np.argsort(-product)[: allowed.sum()]])


def test_parts_without_people_and_damaged_ones_are_kept(store):
    part = make_part(3, 0, damage="this picture is broken", height=0, width=0)
    store.add([part], joined_people([], WIDTH))
    assert store.parts() == [part] and store.count() == 0
    assert store.search(np.ones((1, WIDTH), np.float32), 3, EVERYBODY, exact=True)[0].similarity.shape == (0,)


def test_people_of_a_killed_addition_are_passed_over_and_removed(store):
    parts, people = filled(store)
    lost = make_part(99, 4)
    store.add([], make_people(lost))  # the people are written first
    assert store.count() == 64
    gallery = Gallery(store)
    assert gallery.count == 60
    assert set(gallery.search(make_people(lost).feature[:1], 100)[0].people.part) == {p.id for p in parts}
    stored = Gallery(store, exact_bytes=0)
    vector = make_people(lost).feature[:1]  # whose nearest are the four that are passed over
    for one, other in zip(gallery.search(vector, 7), stored.search(vector, 7), strict=True):
        assert len(other.similarity) == 7
        np.testing.assert_array_equal(one.people.box, other.people.box)
    store.mend()
    assert store.count() == 60
    assert len(joined_people(store.scan(), WIDTH).part) == len(people.part)


def test_files_recorded_with_other_people_than_there_are_are_removed(store):
    parts, _ = filled(store)
    store.add([make_part(20, 3)], make_people(make_part(20, 2)))
    later = make_part(20, 2, id=7, first=1)  # of the same file
    store.add([later], make_people(later))
    store.mend()
    assert store.count() == 60 and {part.id for part in store.parts()} == {part.id for part in parts}


def test_a_gallery_is_the_same_in_memory_and_by_the_store(store):
    _, people = filled(store)
    exact, stored = Gallery(store), Gallery(store, exact_bytes=0)
    assert exact.exact and not stored.exact
    restriction = Restriction(0.6, after=1001.0)
    for one, other in zip(
        exact.search(people.feature[:8], 9, restriction),
        stored.search(people.feature[:8], 9, restriction),
        strict=True,
    ):
        np.testing.assert_allclose(one.similarity, other.similarity, atol=2e-6)
        np.testing.assert_array_equal(one.people.part, other.people.part)
    ids = set(people.part[[0, 20]].tolist())
    for one, other in zip(exact.scenes(ids), stored.scenes(ids), strict=True):
        np.testing.assert_array_equal(one, other)


def test_people_on_a_server_are_not_loaded(monkeypatch):
    store = open_collection(QdrantClient(":memory:"), "people", ABOUT)
    _, people = filled(store)
    asked = []
    search = store.search
    monkeypatch.setattr(store, "scan", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr(store, "search", lambda *args: asked.append(args[3]) or search(*args))
    for limit in (1 << 30, 0):
        gallery = Gallery(store, exact_bytes=limit)
        hits = gallery.search(people.feature[:1], 3)[0]
        assert hits.similarity[0] == pytest.approx(1, abs=1e-5) and gallery.exact == bool(limit)
    assert asked == [True, False]


def test_insertions_of_wide_features_stay_below_the_server_s_limit(monkeypatch):
    client, width = QdrantClient(":memory:"), 2048
    store = open_collection(client, "people", {"width": width})
    upsert, sizes = client.upsert, []

    def measured(name, points, **options):
        sizes.append(sum(len(point.model_dump_json()) for point in points))
        return upsert(name, points, **options)

    monkeypatch.setattr(client, "upsert", measured)
    part = make_part(0, 400)
    feature = np.random.default_rng(0).standard_normal((400, width)).astype(np.float32)
    store.add([part], make_people(part)._replace(feature=feature))
    assert len(sizes) == 4 and max(sizes) < 9 << 20  # of 32 MiB
    assert store.count() == 400


def test_a_full_disk_is_said_to_be_one(tmp_path, monkeypatch):
    store = make_store(str(tmp_path / "g"), ABOUT)
    filled(store)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Table:
        def __getattr__(self, name):
            raise full

    for tables in (store._people, store._parts):
        for name in tables:
            monkeypatch.setitem(tables, name, Table())
    part = make_part(30, 2)
    for operation in (
        lambda: store.add([part], make_people(part)),
        lambda: store.delete([part.id]),
        lambda: store.mend(),
        lambda: store.optimize(index=False),
        lambda: list(store.scan()),
    ):
        with pytest.raises(GalleryError, match=r"/g: the gallery cannot be .* \(.*No space left on device\)"):
            operation()
    assert open_store(str(tmp_path / "g")).count() == 60


def test_a_server_that_is_gone_is_said_to_be(monkeypatch):
    client = QdrantClient(":memory:")
    store = open_collection(client, "people", ABOUT)

    def gone(*_, **__):
        raise ResponseHandlingException("Connection refused")

    monkeypatch.setattr(client, "count", gone)
    with pytest.raises(GalleryError, match=r"people: the gallery cannot be .* \(Connection refused\)"):
        store.count()


def test_several_writers_have_their_own_tables(tmp_path):
    stores = [make_store(str(tmp_path / "g"), ABOUT, writer) for writer in range(3)]
    for number, store in enumerate(stores):
        part = make_part(number, 5)
        store.add([part], make_people(part))
    together = open_store(str(tmp_path / "g"))
    assert together.count() == 15 and len(together.parts()) == 3
    vector = make_people(make_part(2, 5)).feature[:1]
    hits = together.search(vector, 4, EVERYBODY, exact=True)[0]
    assert hits.people.part[0] == make_part(2, 5).id and hits.similarity[0] == pytest.approx(1, abs=1e-5)
    together.delete([make_part(1, 5).id])
    assert together.count() == 10


def test_a_gallery_of_another_model_is_refused(tmp_path):
    make_store(str(tmp_path / "g"), ABOUT)
    with pytest.raises(GalleryError, match=r"indexed otherwise \(fingerprint f00d there, beef here\)"):
        make_store(str(tmp_path / "g"), ABOUT | {"fingerprint": "beef"})
    with pytest.raises(GalleryError, match="width 16 there, 32 here"):
        make_store(str(tmp_path / "g"), ABOUT | {"width": 32})
    with pytest.raises(GalleryError, match="there is no gallery here"):
        open_store(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(GalleryError, match="there is no gallery here"):
        open_store(str(tmp_path / "empty"))
    with pytest.raises(GalleryError, match=r"wanted is qdrant://host"):
        open_store("qdrant:///name")
    with pytest.raises(GalleryError, match="does not answer"):
        open_store("qdrant://127.0.0.1:9/name")


def test_an_index_finds_nearly_everything(tmp_path):
    store = make_store(str(tmp_path / "g"), ABOUT)
    parts = [make_part(number, 500) for number in range(20)]
    people = joined_people([make_people(part) for part in parts], WIDTH)
    store.add(parts, people)
    store.optimize(index=True)
    late = make_part(99, 7)
    store.add([late], make_people(late))
    store.optimize(index=True)
    exact, stored = Gallery(store), Gallery(store, exact_bytes=0)
    vectors = people.feature[::500]
    found = 0
    for one, other in zip(exact.search(vectors, 10), stored.search(vectors, 10), strict=True):
        np.testing.assert_allclose(other.similarity[0], 1, atol=1e-5)
        found += len(set(map(tuple, one.people.box.tolist())) & set(map(tuple, other.people.box.tolist())))
    assert found >= 0.95 * 10 * len(vectors)
    assert stored.search(make_people(late).feature[:1], 1)[0].people.part[0] == late.id


WRITER = """
import sys
sys.path[:0] = sys.argv[2:4]
from gallery_cases import ABOUT, make_part, make_people
from ps_jax.search.stores import make_store
store = make_store(sys.argv[1], ABOUT)
store.mend()
done = {part.path for part in store.parts()}
print("ready", flush=True)
for number in range(300):
    part = make_part(number, 20)
    if part.path not in done:
        store.add([part], make_people(part))
        print(number, flush=True)
"""


@pytest.mark.slow
def test_no_acknowledged_part_is_lost_or_doubled_when_the_writer_is_killed(tmp_path):
    rng = random.Random(3)
    acknowledged: set[int] = set()
    for _ in range(10):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "g"), str(ROOT), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0.05, 0.8))
            os.kill(writer.pid, signal.SIGKILL)
            acknowledged |= {
                int(line) for line in writer.stdout.read().splitlines(keepends=True) if line[-1] == "\n"
            }
        gallery = Gallery(open_store(str(tmp_path / "g")))
        paths = [part.path for part in gallery.parts.values()]
        assert len(paths) == len(set(paths))
        assert {make_part(number, 20).path for number in acknowledged} <= set(paths)
        assert len(gallery.scenes(gallery.parts).part) == 20 * len(paths)
    assert len(acknowledged) > 10
