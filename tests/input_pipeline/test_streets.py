"""Generated streets: what is drawn, what is written, and that both readers understand it."""

import dataclasses
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from input_pipeline import streets
from input_pipeline.cuhk_sysu import read_cuhk_sysu
from input_pipeline.prw import read_prw
from input_pipeline.scenes import UNKNOWN
from input_pipeline.streets import StreetsOptions, draw_street_scene, write_streets
from input_pipeline.streets_drawing import FINE_AREA, Canvas, paste
from input_pipeline.streets_looks import FAMILY, person_look
from input_pipeline.streets_roster import plan_scenes
from input_pipeline.streets_scenes import LEAST_VISIBLE
from ps_jax.errors import ConfigError, DataError

TINY = StreetsOptions(
    train_scenes=12,
    test_scenes=24,
    train_identities=6,
    test_identities=6,
    cameras=3,
    people=(2, 4),
    gallery_sizes=(10, 20, 40),
)


@pytest.fixture(scope="module")
def cuhk_sysu(tmp_path_factory):
    directory = tmp_path_factory.mktemp("streets") / "cuhk_sysu"
    write_streets(directory, TINY)
    return directory


@pytest.fixture(scope="module")
def prw(tmp_path_factory):
    directory = tmp_path_factory.mktemp("streets") / "prw"
    write_streets(directory, dataclasses.replace(TINY, layout="prw"))
    return directory


def pixels(directory):
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*.jpg")):
        digest.update(np.asarray(Image.open(path)).tobytes())
    return digest.hexdigest()


def names_below(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def people_of(split):
    return [(scene.name, person) for scene in split.scenes for person in scene.people]


def test_drawn_pictures_are_these_bytes():
    digest = hashlib.sha256()
    for partition, number in (("train", 0), ("train", 7), ("test", 5)):
        digest.update(draw_street_scene(TINY, partition, number).picture.tobytes())
    assert digest.hexdigest()[:16] == "98b805fb56ad066a"


def test_written_pictures_decode_to_these_bytes(cuhk_sysu):
    assert pixels(cuhk_sysu)[:16] == "723ec4b90d3f4075"


def test_seed_decides_everything(cuhk_sysu, tmp_path):
    write_streets(tmp_path / "again", TINY)
    assert names_below(tmp_path / "again") == names_below(cuhk_sysu)
    assert pixels(tmp_path / "again") == pixels(cuhk_sysu)
    for partition in ("train", "test"):
        first = read_cuhk_sysu(cuhk_sysu, partition)
        second = read_cuhk_sysu(tmp_path / "again", partition)
        assert people_of(first) == people_of(second)
        for name in first.galleries:
            assert first.galleries[name] == second.galleries[name]
    other = draw_street_scene(dataclasses.replace(TINY, seed=1), "train", 0).picture
    assert (other != draw_street_scene(TINY, "train", 0).picture).mean() > 0.5


def test_a_scene_does_not_depend_on_the_scenes_before_it(cuhk_sysu):
    drawn = draw_street_scene(TINY, "test", 9)
    scene = read_cuhk_sysu(cuhk_sysu, "test").scenes[9]
    encoded = io.BytesIO()
    Image.fromarray(drawn.picture).save(encoded, "JPEG", quality=92, subsampling=0)
    assert Path(scene.path).read_bytes() == encoded.getvalue()
    assert [person.box for person in scene.people] == [person.box for person in drawn.people]


def test_boxes_are_tight_around_the_drawn_bodies():
    seen = 0
    for number in range(12):
        drawn = draw_street_scene(TINY, "test", number)
        height, width = drawn.picture.shape[:2]
        for person, body in zip(drawn.people, drawn.bodies, strict=True):
            x1, y1, x2, y2 = person.box
            assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
            assert body[y1:y2, x1:x2].sum() == body.sum()
            assert body[y1].any() and body[y2 - 1].any() and body[:, x1].any() and body[:, x2 - 1].any()
            assert person.visible >= LEAST_VISIBLE
            seen += 1
    assert seen >= 24


@pytest.mark.parametrize(("height", "width"), [(240, 320), (480, 640)])
def test_people_grow_with_the_picture_and_towards_its_lower_edge(height, width):
    options = dataclasses.replace(TINY, height=height, width=width)
    boxes = [
        person.box for number in range(12) for person in draw_street_scene(options, "test", number).people
    ]
    whole = np.array([box for box in boxes if box[0] > 0 and box[2] < width and box[3] < height - 1])
    tall = (whole[:, 3] - whole[:, 1]) / height
    assert 0.18 < tall.min() < 0.35 and 0.4 < tall.max() < 0.75
    assert np.corrcoef(tall, whole[:, 3])[0, 1] > 0.8


def test_averaging_and_pasting_are_exact():
    board = Canvas(0, 0, 4, 3)
    board.rectangle(1, 1, 3 - 1 / 3, 2 - 1 / 3, (90, 180, 9))
    sprite = board.sprite()
    assert (sprite.left, sprite.top) == (1, 1)
    # A polygon's right and lower edges belong to it: two pixels across, the second as the first, one down.
    assert sprite.coverage.tolist() == [[FINE_AREA, FINE_AREA]]
    scene = np.full((3, 4, 3), 100, np.uint8)
    paste(scene, sprite.moved(2, 1))
    assert scene[2, 3].tolist() == [90, 180, 9]
    assert (scene[:2] == 100).all() and (scene[2, :3] == 100).all()


def test_family_shares_colours_and_no_two_of_it_share_pattern_or_bag():
    for family in range(6):
        looks = [person_look((0, 0), family * FAMILY + member) for member in range(FAMILY)]
        assert len({(look.top, look.accent, look.lower_colour) for look in looks}) == 1
        assert len({look.pattern for look in looks}) == FAMILY
        assert len({look.bag for look in looks}) == FAMILY


def test_train_and_test_have_no_person_in_common():
    looks = [{person_look((0, split), number) for number in range(200)} for split in (0, 1)]
    assert len(looks[0]) == len(looks[1]) == 200
    assert not looks[0] & looks[1]


def test_known_people_appear_equally_often_and_in_several_cameras():
    plans = plan_scenes(0, "train", 90, 20, 6, (3, 6), 0.25)
    seen = {identity: [] for identity in range(20)}
    for plan in plans:
        known = [identity for identity in plan.identities if identity != UNKNOWN]
        assert len(known) == len(set(known))
        assert 3 <= len(plan.identities) <= 6
        for identity in known:
            seen[identity].append(plan.camera)
    counts = [len(cameras) for cameras in seen.values()]
    assert max(counts) - min(counts) <= 1
    assert min(len(set(cameras)) for cameras in seen.values()) >= 4
    total = sum(len(plan.identities) for plan in plans)
    assert 0.18 < 1 - sum(counts) / total < 0.32
    frames = {(plan.camera, plan.frame) for plan in plans}
    assert len(frames) == 90


def test_cuhk_sysu_reader_finds_everyone(cuhk_sysu):
    train, test = (read_cuhk_sysu(cuhk_sysu, partition) for partition in ("train", "test"))
    assert len(train.scenes) == 12 and len(test.scenes) == 24
    assert not {scene.name for scene in train.scenes} & {scene.name for scene in test.scenes}
    assert set(train.labels) == set(test.labels) == set(range(1, 7))
    for split in (train, test):
        for number, scene in enumerate(split.scenes):
            drawn = draw_street_scene(TINY, split.partition, number)
            assert [person.box for person in scene.people] == [person.box for person in drawn.people]
    unknown = sum(person.identity == UNKNOWN for _, person in people_of(test))
    assert 0.1 < unknown / len(people_of(test)) < 0.45
    image = loadmat(cuhk_sysu / "annotation" / "Images.mat")["Img"].squeeze()[0]
    assert str(image["imname"][0]) == "s1.jpg"
    assert image["nAppear"].item() == image["box"].size == len(train.scenes[0].people)


def test_gallery_rules(cuhk_sysu):
    test = read_cuhk_sysu(cuhk_sysu, "test")
    sizes = {"TestG10": 10, "TestG20": 20, "TestG50": 23}  # 40 is more than there are test scenes
    assert {name for name in test.galleries if name.startswith("TestG")} == set(sizes)
    where = {}
    for name, person in people_of(test):
        where.setdefault(person.identity, {})[name] = person.box
    for gallery, size in sizes.items():
        protocol = test.galleries[gallery]
        assert [query.identity for query in protocol.queries] == [1, 2, 3, 4, 5, 6]
        for query, items in zip(protocol.queries, protocol.items, strict=True):
            assert where[query.identity][query.scene] == query.box
            listed = [item.scene for item in items]
            assert len(set(listed)) == len(listed) == size
            assert query.scene not in listed
            shows = [item.box is not None for item in items]
            assert shows == sorted(shows, reverse=True)
            for item in items:
                assert where[query.identity].get(item.scene) == item.box
            if gallery != "TestG10":
                assert sum(shows) == len(where[query.identity]) - 1


def test_subsets_have_hidden_and_small_queries(cuhk_sysu):
    test = read_cuhk_sysu(cuhk_sysu, "test")
    small = test.galleries["Resolution"]
    assert small.queries
    assert all(query.box[3] - query.box[1] < 0.36 * TINY.height for query in small.queries)
    hidden = test.galleries["Occlusion"]
    assert hidden.queries
    for gallery in (small, hidden):
        for query, items in zip(gallery.queries, gallery.items, strict=True):
            assert query.identity != UNKNOWN
            assert items[0].box is not None and query.scene not in [item.scene for item in items]
    for query in hidden.queries:
        drawn = draw_street_scene(TINY, "test", test.positions[query.scene])
        assert next(person.visible for person in drawn.people if person.box == query.box) < 0.85


def test_prw_reader_finds_everyone(prw):
    train, test = (read_prw(prw, partition) for partition in ("train", "test"))
    assert len(train.scenes) == 12 and len(test.scenes) == 24
    assert set(train.labels) == set(range(1, 7)) and set(test.labels) == set(range(7, 13))
    assert {scene.camera for scene in test.scenes} == {1, 2, 3}
    assert test.scenes[4].name == "c2s2_000026.jpg" and test.scenes[4].frame == 26
    for number, scene in enumerate(test.scenes):
        drawn = draw_street_scene(TINY, "test", number)
        assert [person.box for person in scene.people] == [person.box for person in drawn.people]
    lines = (prw / "query_info.txt").read_bytes().split(b"\r\n")
    queries = test.galleries["all"].queries
    assert lines.pop() == b"" and len(lines) == len(queries)
    assert len({(query.identity, test.scene(query.scene).camera) for query in queries}) == len(queries)
    for query in queries:
        people = test.scene(query.scene).people
        assert [person.identity for person in people if person.box == query.box] == [query.identity]


def test_same_options_reuse_the_directory(cuhk_sysu):
    before = {path: path.stat().st_mtime_ns for path in cuhk_sysu.rglob("*")}
    write_streets(cuhk_sysu, TINY)
    assert before == {path: path.stat().st_mtime_ns for path in cuhk_sysu.rglob("*")}


def test_other_options_are_refused(cuhk_sysu):
    with pytest.raises(DataError, match=r"seed 0 instead of 3.*remove this one") as error:
        write_streets(cuhk_sysu, dataclasses.replace(TINY, seed=3))
    assert str(cuhk_sysu) in str(error.value) and "width" not in str(error.value)


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match=r"no set of generated streets.*another directory"):
        write_streets(tmp_path, TINY)
    assert names_below(tmp_path) == ["mine.txt"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_in_the_middle_leaves_nothing(tmp_path, monkeypatch, failure):
    def fail(*_):
        assert len(list(tmp_path.rglob("*.jpg"))) == 36
        raise failure

    monkeypatch.setattr(streets, "write_cuhk_sysu", fail)
    wanted = DataError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(wanted, match="No space left on device" if wanted is DataError else None):
        write_streets(tmp_path / "deep" / "streets", TINY)
    assert list(tmp_path.rglob("*")) == [tmp_path / "deep"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "coco"}, "layout is 'coco'.*cuhk_sysu, prw"),
        ({"people": (4, 2)}, r"people is \(4, 2\)"),
        ({"unknown_fraction": 1.0}, "unknown_fraction is 1.0"),
        ({"test_identities": 60}, "24 test_scenes cannot show 60 test_identities twice"),
        ({"height": 20}, "height is 20, wanted at least 96"),
    ],
)
def test_bad_options(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TINY, **change)


def test_command_line(tmp_path, capsys):
    out = tmp_path / "streets"
    flags = (
        "--train_scenes 4 --test_scenes 6 --train_identities 2 --test_identities 2 --cameras 2 --people 2 3"
    )
    assert streets.main(["--out", str(out), "--layout", "prw", *flags.split()]) == 0
    assert "4 train and 6 test scenes of 320x240" in capsys.readouterr().out
    assert json.loads((out / "streets.json").read_text())["people"] == [2, 3]
    assert streets.main(["--out", str(out), "--layout", "cuhk_sysu", *flags.split()]) == 2
    assert "layout 'prw' instead of 'cuhk_sysu'" in capsys.readouterr().err


@pytest.mark.slow
def test_color_histogram_is_a_low_floor(tmp_path):
    from benchmarks.color_histogram import histogram_table, search_by_histogram

    write_streets(tmp_path / "streets", StreetsOptions(train_scenes=2, train_identities=2))
    split = read_cuhk_sysu(tmp_path / "streets", "test")
    for space, parts in (("RGB", 1), ("RGB", 2), ("HSV", 2)):
        table = histogram_table(split, space, parts)
        assert len(table.score) == sum(len(scene.people) for scene in split.scenes)
        for similarity in ("cosine", "intersection"):
            result = search_by_histogram(split, table, similarity)
            assert 0.03 < result.mean_average_precision < 0.45
