"""The local page: what it answers, and what hostile clients get."""

import hashlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from search_fakes import ColourDetector, draw_scene, make_folder
from test_indexing import index
from test_media import png_of

from ps_jax.search import server as server_module
from ps_jax.search.drawing import scene
from ps_jax.search.gallery import Gallery
from ps_jax.search.media import decode
from ps_jax.search.recent import Recent
from ps_jax.search.server import MOST_QUERIES, SearchService
from ps_jax.search.stores import open_store

OCTETS = {"Content-Type": "application/octet-stream"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(port, folder) of a running server."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "secret.png").write_bytes(encoded(draw_scene({5: 20.0})))
    port_file = folder / "port"
    command = [sys.executable, str(Path(__file__).parent / "served.py"), str(folder), str(port_file)]
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    environment = os.environ | {"PYTHONPATH": paths}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for _ in range(1200):
            if port_file.exists() and port_file.read_text():
                break
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        yield int(port_file.read_text()), folder
        assert process.poll() is None  # whatever was sent, it is still up
        os.kill(process.pid, signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def ask(port, path, body=None, headers=None, method=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def asked(port, path, body=None, headers=None):
    status, content, _ = ask(port, path, body, headers)
    return status, json.loads(content)


PICTURE = encoded(draw_scene({2: 50.0, 4: 120.0}))


def search(port, **changes):
    status, query = asked(port, "/query?box=50,30,70,90", PICTURE, OCTETS)
    assert status == 200
    content = {"queries": [query["query"]], **changes}
    return asked(port, "/search", json.dumps(content), JSON)


def test_the_page_and_its_files(server):
    port, _ = server
    for path, kind, words in (
        ("/", "text/html", b"Person search"),
        ("/page.js", "text/javascript", b'"use strict"'),
        ("/style.css", "text/css", b"canvas"),
    ):
        status, content, headers = ask(port, path)
        assert status == 200 and words in content and headers["content-type"].startswith(kind)
        assert headers["x-content-type-options"] == "nosniff"
        assert "script-src 'self'" in headers["content-security-policy"]
    assert asked(port, "/about") == (200, {"words": "36 people in 13 files, exact search"})


def test_people_query_and_answers(server):
    port, folder = server
    status, people = asked(port, "/people", PICTURE, OCTETS)
    assert status == 200 and (people["width"], people["height"]) == (200, 120)
    assert [person["box"] for person in people["people"]] == [[50, 30, 70, 90], [120, 30, 140, 90]]
    assert people["image"].startswith("data:image/jpeg;base64,")
    status, found = search(port)
    assert status == 200 and len(found["answers"]) == 16
    best = found["answers"][0]
    assert best["similarity"] == pytest.approx(1, abs=1e-2) and best["place"].startswith(
        str(folder / "pictures")
    )
    status, jpeg, headers = ask(port, "/" + best["scene"])
    assert status == 200 and headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert picture.size == (200, 120)
    of_video = [answer for answer in found["answers"] if answer["name"].startswith("walk.mp4")]
    assert len(of_video) == 4 and {ask(port, "/" + answer["scene"])[0] for answer in of_video} == {200}
    assert {answer["score"] for answer in search(port, least_score=0.93)[1]["answers"]} == {0.95}
    assert search(port, least_score=0.97)[1]["answers"] == []
    assert search(port, after=4e9)[1]["answers"] == []
    assert search(port, context=True)[0] == 200


def test_nothing_outside_the_gallery_can_be_read(server):
    port, folder = server
    for path in (
        "/../../../etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "/%2e%2e/secret.png",
        "/secret.png",
        f"/{folder}/secret.png",
        "//etc/passwd",
        "/static/..%5c..%5csecret.png",
        "/page.js%00.png",
        "/web/index.html",
        "/g",
    ):
        status, content, _ = ask(port, path)
        assert status == 404, path
        assert b"root:" not in content and b"PNG" not in content
    for query in (
        "part=1&moment=0&box=1,2,3,4",
        "part=-1&moment=0&box=1,2,3,4",
        f"part={'9' * 5000}&moment=0&box=1,2,3,4",
        "part=../../etc/passwd&moment=0&box=1,2,3,4",
        "part=1&moment=nan&box=1,2,3,4",
        "part=1&moment=0&box=1,2,inf,4",
        "part=1&moment=0",
        "path=/etc/passwd",
    ):
        assert ask(port, f"/scene?{query}")[0] in (400, 404), query


def test_only_people_of_the_gallery_are_shown(server):
    port, _ = server
    answers = search(port)[1]["answers"]
    scene = next(answer["scene"] for answer in answers if answer["name"].startswith("walk.mp4"))
    assert ask(port, "/" + scene)[0] == 200
    begin, moment = scene.split("&box=")[0], scene.split("moment=")[1].split("&")[0]
    for query in (f"{begin}&box=0,0,2e8,2e8", scene.replace(f"moment={moment}", "moment=1e9")):
        start = time.monotonic()
        assert asked(port, "/" + query) == (404, {"error": "the gallery has nobody there"})
        assert time.monotonic() - start < 2


def test_boxes_far_outside_a_picture_are_drawn_at_once():
    start = time.monotonic()
    assert scene(draw_scene({2: 50.0}), [(-2e8, 0, 2e8, 2e8)]).startswith(b"\xff\xd8")
    assert time.monotonic() - start < 2


def test_uploads_end_at_the_limit(server):
    port, _ = server
    status, content = asked(port, "/people", bytes((1 << 20) + 1), OCTETS)
    assert status == 413 and content["error"] == "at most 1 MiB are taken"
    # One gigabyte announced: refused before it is sent.
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        head = "POST /people HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
        client.sendall(f"{head}Content-Length: {1 << 30}\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413")
    # One gigabyte in pieces, not announced: cut soon after the limit.
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        sent, piece = 0, b"10000\r\n" + bytes(65536) + b"\r\n"
        try:
            while sent < 1 << 30:
                client.sendall(piece)
                sent += 65536
        except OSError:
            pass
        assert sent < 1 << 26
    assert asked(port, "/search", b"[" * 60_000, JSON)[0] == 400
    assert asked(port, "/search", bytes(100_000), JSON)[0] == 413


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        png_of(50_000, 50_000),
        png_of(8_900, 9_000),
        b"\xff\xd8\xff\xe0" + bytes(500),
        b"%PDF-1.7",
    ],
    ids=["empty", "svg with a script", "bomb", "smaller bomb", "cut jpeg", "pdf"],
)
def test_pictures_that_are_none_are_refused(server, data):
    port, _ = server
    for path in ("/people", "/query?box=1,2,30,40"):
        status, content = asked(port, path, data, OCTETS)
        assert status == 400 and content["error"].startswith("the picture: ")


@pytest.mark.parametrize(
    "content",
    [
        b"no json",
        b"[1]",
        b"{}",
        b'{"queries": []}',
        b'{"queries": ["unheard of"]}',
        b'{"queries": [["QUERY"]]}',
        b'{"queries": ["QUERY"], "least_score": "high"}',
        b'{"queries": ["QUERY"], "after": 1e400}',
        b'{"queries": ["QUERY"], "after": 1' + 400 * b"0" + b"}",
        b'{"queries": {"feature": 1}}',
    ],
)
def test_searches_that_are_none_are_refused(server, content):
    query = asked(server[0], "/query?box=50,30,70,90", PICTURE, OCTETS)[1]["query"]
    status, answer = asked(server[0], "/search", content.replace(b"QUERY", query.encode()), JSON)
    assert status == 400 and answer["error"]


def test_as_many_queries_as_are_taken_fit_into_a_request(server):
    port, _ = server
    query = asked(port, "/query?box=50,30,70,90", PICTURE, OCTETS)[1]["query"]
    for count, expected in ((MOST_QUERIES, 200), (MOST_QUERIES + 1, 400)):
        content = {"queries": [query] * count, "context": True, "after": 0.0, "before": 4e9}
        assert asked(port, "/search", json.dumps(content), JSON)[0] == expected


def test_the_longest_unused_are_forgotten():
    recent = Recent(10)
    for key in "abc":
        recent.keep(key, key.upper(), 4)
        assert recent.get("a" if key < "c" else key)
    assert [recent.get(key) for key in "abc"] == ["A", None, "C"]
    recent.keep("d", "D", 100)
    assert [recent.get(key) for key in "acd"] == [None, None, "D"]


def test_other_sites_are_refused(server):
    port, _ = server
    for host in ("evil.example", "localhost.evil.example:8000", "[evil.example]", ""):  # made to lead here
        assert ask(port, "/", headers={"Host": host})[0] == 400, host
    for host in (
        "localhost:80",
        "search.example",
        "SEARCH.example:8000",
        "127.0.0.1",
        "[::1]:8000",
        "192.0.2.7",
    ):
        assert ask(port, "/", headers={"Host": host})[0] == 200, host
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert (
            ask(port, "/people", PICTURE, {"Content-Type": kind})[0] == 415
        )  # what a form elsewhere can send
    assert ask(port, "/people", method="OPTIONS", headers={"Origin": "http://evil.example"})[0] == 405
    assert (
        "access-control-allow-origin" not in ask(port, "/about", headers={"Origin": "http://evil.example"})[2]
    )
    assert ask(port, "/people")[0] == 405


def test_a_hundred_clients_at_once(server):
    port, _ = server

    def client(number):
        picture = encoded(draw_scene({number % 6: 20.0 + number}))
        status, people = asked(port, "/people", picture, OCTETS)
        assert status == 200 and people["people"][0]["box"][0] == 20 + number
        return search(port)[0]

    with ThreadPoolExecutor(100) as pool:
        assert list(pool.map(client, range(100))) == [200] * 100


def test_a_client_that_sends_nothing_holds_up_nobody(server):
    port, _ = server
    head = "POST /people HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    idle = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(60)]
    try:
        for client in idle:
            client.sendall(f"{head}Content-Length: 1000\r\n\r\n12".encode())
        assert asked(port, "/people", PICTURE, OCTETS)[0] == 200
    finally:
        for client in idle:
            client.close()


def test_connections_that_ask_for_nothing_are_dropped(server):
    port, _ = server  # within 5 seconds, see served.py
    for sent in (b"", b"GET / HTTP/1.1\r\nHost: localh"):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(sent)
            assert client.recv(4) == b""


def test_large_pictures_are_in_memory_one_at_a_time(tmp_path, monkeypatch):
    make_folder(tmp_path / "pictures", 2)
    index(tmp_path / "g", tmp_path / "pictures")
    monkeypatch.setattr(server_module, "KEPT", 2 * 120 * 200 * 3)
    service = SearchService(Gallery(open_store(str(tmp_path / "g"))), ColourDetector())
    at_work, most = [], []

    def slow_decode(data, name):
        at_work.append(name)
        most.append(len(at_work))
        time.sleep(0.01)
        at_work.pop()
        return decode(data, name)

    monkeypatch.setattr(server_module, "decode", slow_decode)
    pictures = [encoded(draw_scene({2: 50.0 + number})) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert len(list(pool.map(service.people, pictures))) == 12
    assert max(most) == 1 and len(most) == 12
    held = [service._seen.get(hashlib.sha256(picture).digest()) for picture in pictures]
    assert sum(seen is not None for seen in held) == 2


def test_vanished_files_are_answers_without_pictures(tmp_path):
    make_folder(tmp_path / "pictures")
    index(tmp_path / "g", tmp_path / "pictures")
    service = SearchService(Gallery(open_store(str(tmp_path / "g"))), ColourDetector())
    (tmp_path / "pictures" / "01.png").rename(tmp_path / "elsewhere.png")
    query = service.query(PICTURE, [50.0, 30.0, 70.0, 90.0])["query"]
    answers = service.search({"queries": [query]})["answers"]
    assert {answer["name"] for answer in answers if answer["tile"] is None} == {"01.png"}
    assert [answer["scene"] is None for answer in answers] == [answer["tile"] is None for answer in answers]
    (tmp_path / "elsewhere.png").rename(tmp_path / "pictures" / "01.png")  # as a drive that is mounted again
    assert all(answer["tile"] for answer in service.search({"queries": [query]})["answers"])
