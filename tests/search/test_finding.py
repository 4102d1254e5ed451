"""Answers: the right people first, one of each scene, restricted, matched with their company, drawn on pages."""

import json
import os
import re

import numpy as np
import pytest
from search_fakes import COLOURS, ColourDetector, draw_scene, make_folder, make_video, save
from test_indexing import index

from ps_jax.errors import DataError, GalleryError
from ps_jax.evaluation.cbgm import ContextMatching
from ps_jax.search.answers import (
    answer_record,
    answers_page,
    answers_table,
    place_words,
    time_words,
    write_answers,
)
from ps_jax.search.finding import Query, check_model, find, make_query
from ps_jax.search.gallery import Gallery
from ps_jax.search.records import Restriction
from ps_jax.search.stores import open_store


@pytest.fixture
def shown(tmp_path):
    return make_folder(tmp_path / "pictures")


@pytest.fixture(params=["in memory", "by the store"])
def gallery(request, shown, tmp_path):
    index(tmp_path / "g", tmp_path / "pictures")
    limit = {"in memory": 1 << 30, "by the store": 0}[request.param]
    return Gallery(open_store(str(tmp_path / "g")), exact_bytes=limit)


def query_of(people, number, path=""):
    detector = ColourDetector()
    image = draw_scene(people)
    left = people[number]
    return make_query(detector, image, detector.detect([image])[0], (left, 30, left + 20, 90), path)


def test_the_person_is_found_in_every_scene_once(gallery, shown):
    answers = find(gallery, [query_of({2: 50.0, 4: 120.0}, 2)], 30)
    assert len(answers) == len(shown)  # everybody else is behind
    with_person = {path for path, people in shown.items() if 2 in people}
    first = answers[: len(with_person)]
    assert {answer.part.path for answer in first} == with_person
    for answer in first:
        left = shown[answer.part.path][2]
        assert answer.box == (left, 30, left + 20, 90)
        assert answer.similarity == pytest.approx(1.0, abs=1e-5)
    similarities = [answer.similarity for answer in answers]
    assert similarities == sorted(similarities, reverse=True) and similarities[len(first)] < 0.99
    assert len({answer.part.path for answer in answers}) == len(answers)
    assert [a.part.path for a in find(gallery, [query_of({2: 50.0}, 2)], 3)] == [
        a.part.path for a in answers[:3]
    ]


def test_the_query_s_own_picture_is_left_out(gallery, shown):
    path = next(path for path, people in shown.items() if 2 in people)
    answers = find(gallery, [query_of({2: 50.0}, 2, os.path.relpath(path))], 30)
    assert path not in {answer.part.path for answer in answers} and len(answers) == len(shown) - 1


def test_answers_are_restricted(gallery):
    times = sorted(part.taken for part in gallery.parts.values())
    restriction = Restriction(0.92, after=times[2], before=times[9])
    answers = find(gallery, [query_of({2: 50.0}, 2)], 30, restriction)
    assert answers
    for answer in answers:
        assert answer.score >= 0.92 and times[2] <= answer.time < times[9]
    assert find(gallery, [query_of({2: 50.0}, 2)], 30, Restriction(0.99)) == []


def test_several_queries_are_looked_for_by_their_mean(gallery):
    first, second = query_of({0: 50.0}, 0), query_of({3: 50.0}, 3)
    answers = find(gallery, [first, second], 30)
    mean = first.feature + second.feature
    mean /= np.linalg.norm(mean)
    best = {}
    people = gallery.scenes(gallery.parts)
    for part, feature in zip(people.part, people.feature, strict=True):
        best[int(part)] = max(best.get(int(part), -2), float(feature @ mean))
    assert [a.similarity for a in answers] == pytest.approx(sorted(best.values(), reverse=True), abs=1e-5)


def test_context_matching_prefers_scenes_with_the_same_company(tmp_path):
    # Person 0 has changed the coat to that of a stranger; in b person 4 walks beside, as in the query.
    folder = tmp_path / "pictures"
    save(draw_scene({1: 20.0}), folder / "a.png")
    save(draw_scene({1: 20.0, 4: 100.0}), folder / "b.png")
    save(draw_scene({5: 20.0}), folder / "c.png")
    index(tmp_path / "g", folder)
    query = query_of({0: 30.0, 4: 90.0}, 0)
    for limit in (1 << 30, 0):
        gallery = Gallery(open_store(str(tmp_path / "g")), exact_bytes=limit)
        plain = find(gallery, [query], 3)
        matched = find(gallery, [query], 3, context=ContextMatching(3, 2))
        assert len(plain) == len(matched) == 3
        assert matched[0].part.path == str(folder / "b.png")
        # The partner's similarity becomes the best of the matching, that of person 4 with herself.
        assert matched[0].similarity == pytest.approx(1.0, abs=1e-5)
        assert max(answer.similarity for answer in plain) < 0.99


def test_frames_of_a_video_are_scenes_of_their_own(tmp_path):
    video = make_video(tmp_path / "pictures" / "walk.mp4")
    index(tmp_path / "g", video)
    answers = find(Gallery(open_store(str(tmp_path / "g"))), [query_of({2: 50.0}, 2)], 30)
    assert sorted(answer.moment for answer in answers) == [k / 2 for k in range(10)]
    begun = video.stat().st_mtime_ns / 1e9
    assert all(answer.time == pytest.approx(begun + answer.moment) for answer in answers)
    later = next(answer for answer in answers if answer.moment == 3.5)
    assert place_words(later) == f"{video} at 0:03.5"
    page = answers_page([], answers, {})
    assert page.count("<figure") == 10 and "the file is gone" not in page


def test_boxes_outside_the_picture_are_refused():
    detector, image = ColourDetector(), draw_scene({0: 10.0})
    found = detector.detect([image])[0]
    for box in ((50, 30, 50, 90), (500, 30, 520, 90), (10, 90, 30, 30), (float("nan"), 0, 5, 5)):
        with pytest.raises(DataError, match="is empty or outside the picture of 200 x 120 pixels"):
            make_query(detector, image, found, box)
    clipped = make_query(detector, image, found, (-10, 30, 25, 900))
    assert clipped.feature.shape == (4,)


def test_the_best_detection_can_be_the_query():
    detector, image = ColourDetector(), draw_scene({0: 10.0, 1: 80.0})
    detector.settings = type(detector.settings)(query="best_detection")
    found = detector.detect([image])[0]
    query = make_query(detector, image, found, (20, 30, 60, 90))  # the middle shows nobody
    np.testing.assert_allclose(query.feature, detector.query_features(found.embedding)[0], atol=1e-6)
    assert query.around.shape == (2, 4)  # neither overlaps by more than a half
    outside = make_query(detector, image, found, (120, 30, 140, 90))
    np.testing.assert_allclose(outside.feature, [0, 0, 0, 1], atol=1e-6)
    # An overlap of 4 % is a neighbour's.
    barely = make_query(detector, image, found, (28, 30, 60, 90))
    np.testing.assert_allclose(barely.feature, [0, 0, 0, 1], atol=1e-6)


def test_the_query_may_be_a_detection_that_no_gallery_holds():
    detector, image = ColourDetector(), draw_scene({0: 10.0, 1: 80.0, 2: 140.0})
    detector.settings = type(detector.settings)(query="best_detection", score_threshold=0.92)
    looked = detector.look([image])[0]
    kept = detector.detect([image])[0]
    assert (
        looked.score.tolist() == pytest.approx([0.95, 0.9, 0.85])
        and kept.score.tolist() == looked.score[:1].tolist()
    )
    query = make_query(
        detector, image, looked, (90, 30, 130, 90)
    )  # half of person 1; the middle shows nobody
    np.testing.assert_allclose(query.feature, detector.query_features(looked.embedding)[1], atol=1e-6)
    np.testing.assert_allclose(query.around, detector.query_features(kept.embedding), atol=1e-6)


def test_another_model_is_refused(gallery):
    check_model(gallery, ColourDetector(model="elsewhere"))
    with pytest.raises(GalleryError, match=r"another model \(fingerprint c0ffee, the model's is 0ther\)"):
        check_model(gallery, ColourDetector(fingerprint="0ther"))
    with pytest.raises(GalleryError, match="features have 4 numbers"):
        find(gallery, [Query(np.ones(3, np.float32), np.zeros((0, 3), np.float32))], 3)


def test_table_json_and_page(gallery, shown, tmp_path):
    answers = find(gallery, [query_of({2: 50.0}, 2)], 5)
    table = answers_table(answers).splitlines()
    assert len(table) == 6 and re.search(r"^ +1 +1\.000 +0\.9. +\d+ 30 \d+ 90 .*\.png$", table[1])
    write_answers(tmp_path / "out", [("query.png", b"jpeg")], answers, {"gallery": "g"})
    content = json.loads((tmp_path / "out" / "answers.json").read_text())
    assert content["answers"] == [answer_record(answer) for answer in answers]
    assert content["search"] == {"gallery": "g"} and content["answers"][0]["similarity"] == 1.0
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count('class="answer"') == 5 and page.count('class="scene"') == 5
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")
    assert answers_table([]).count("\n") == 0 and "Nobody was found" in answers_page([], [], {})


def test_times_that_no_calendar_has_are_numbers(tmp_path):
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", time_words(1.5e9))
    assert [time_words(seconds) for seconds in (-62135650800.0, 9e11, 1e18)] == [
        "-62135650800 s",
        "900000000000 s",
        "1000000000000000000 s",
    ]


def test_file_names_are_text(tmp_path):
    name = '"><img src=x onerror=alert(1)>.png'
    save(draw_scene({2: 40.0}), tmp_path / "pictures" / name)
    index(tmp_path / "g", tmp_path / "pictures")
    gallery = Gallery(open_store(str(tmp_path / "g")))
    page = answers_page([(name, b"")], find(gallery, [query_of({2: 50.0}, 2)], 5), {"gallery": name})
    assert "<img src=x" not in page and page.count("&lt;img src=x onerror=alert(1)&gt;.png") >= 3
    (tmp_path / "pictures" / name).unlink()
    page = answers_page([], find(gallery, [query_of({2: 50.0}, 2)], 5), {})
    assert page.count("the file is gone") == 1
    assert COLOURS.shape == (6, 3)
