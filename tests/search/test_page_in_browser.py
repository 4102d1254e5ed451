"""The pages in a real browser: drop a picture, click and draw boxes, see answers; filter the page of answers."""

import pytest
from search_fakes import ColourDetector, draw_scene, save
from test_finding import query_of
from test_indexing import index
from test_server import server  # noqa: F401
from webdriver import CHROMIUM, DRIVER, browser

from ps_jax.search.answers import write_answers
from ps_jax.search.drawing import scene
from ps_jax.search.finding import find
from ps_jax.search.gallery import Gallery
from ps_jax.search.stores import open_store

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver"
)


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def canvas_point(window, x, y):
    """Where a point of the picture lies in the window."""
    window.run("document.getElementById('picture').scrollIntoView()")
    left, top, scale = window.run(
        "const c = document.getElementById('picture'), r = c.getBoundingClientRect();"
        "return [r.left, r.top, r.width / 200]"
    )
    return left + x * scale, top + y * scale


def answers(window):
    return window.run(
        "return [...document.querySelectorAll('#answers .answer')].map(a => a.querySelector('figcaption').innerText)"
    )


def test_a_click_and_a_drawn_box_find_the_person(server, window, tmp_path):  # noqa: F811
    port, _ = server
    window.open(f"http://127.0.0.1:{port}/")
    window.wait("document.getElementById('about').textContent.includes('36 people')")
    window.upload("#file", save(draw_scene({2: 50.0, 4: 120.0}), tmp_path / "query.png"))
    window.wait("document.getElementById('message').textContent.startsWith('2 people')")
    window.press(canvas_point(window, 60, 60))
    window.wait("document.querySelectorAll('#answers .answer').length === 16")
    clicked = answers(window)
    assert clicked[0].splitlines()[:2] == ["1", "similarity 1.000"]
    window.screenshot(tmp_path / "clicked.png")
    window.press(canvas_point(window, 118, 28), canvas_point(window, 130, 60), canvas_point(window, 142, 92))
    window.wait("document.getElementById('message').textContent.startsWith('16 answers')")
    window.wait("document.querySelectorAll('#queries img').length === 1")
    drawn = answers(window)
    assert drawn != clicked and drawn[0].splitlines()[1] == "similarity 1.000"
    window.run("document.querySelector('[name=together]').click()")
    window.press(canvas_point(window, 60, 60))
    window.wait("document.querySelectorAll('#queries img').length === 2")
    window.run("document.querySelector('#answers .answer button').click()")
    window.wait(
        "document.querySelector('dialog').open && document.querySelector('dialog img').naturalWidth === 200"
    )
    window.screenshot(tmp_path / "scene.png")
    assert window.complaints() == []


def test_what_is_no_picture_is_said_to_be_none(server, window, tmp_path):  # noqa: F811
    window.open(f"http://127.0.0.1:{server[0]}/")
    hostile = tmp_path / "hostile.svg"
    hostile.write_text(
        "<svg xmlns='http://www.w3.org/2000/svg'><script>document.title = 'taken'</script></svg>"
    )
    window.upload("#file", hostile)
    window.wait("document.getElementById('message').textContent.includes('no picture that can be read')")
    assert window.run("return document.title") == "Person search"
    assert ["status of 400" in line for line in window.complaints()] == [True]  # the refusal of the picture


def test_the_page_of_answers_is_whole_and_filters(window, tmp_path):
    name = "<img src=x onerror=\"document.title='taken'\">.png"
    save(draw_scene({2: 40.0, 3: 100.0}), tmp_path / "pictures" / name)
    save(draw_scene({5: 40.0}), tmp_path / "pictures" / "other.png")
    index(tmp_path / "g", tmp_path / "pictures")
    found = find(Gallery(open_store(str(tmp_path / "g"))), [query_of({2: 50.0}, 2)], 5)
    image = draw_scene({2: 50.0})
    write_answers(
        tmp_path / "out",
        [(name, scene(image, ColourDetector().detect([image])[0].box.tolist()))],
        found,
        {"g": name},
    )
    window.open((tmp_path / "out" / "index.html").as_uri())
    window.wait("document.querySelector('output').textContent === '2 shown'")
    assert name in window.run("return document.body.innerText")
    window.run("document.querySelector('#answers a').click()")
    window.wait("getComputedStyle(document.querySelector('#scene1')).display === 'flex'")
    window.screenshot(tmp_path / "scene.png")
    window.run(
        "const field = document.querySelector('[name=similarity]'); field.value = 0.99;"
        "field.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    window.wait("document.querySelector('output').textContent === '1 shown'")
    assert window.run("return document.title") == "Person search" and window.complaints() == []
