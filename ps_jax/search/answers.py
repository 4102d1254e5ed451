"""Answers for people and programs: a table, JSON, and one page that needs nothing beside it."""

import html
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ps_jax.errors import GalleryError
from ps_jax.search.drawing import data_uri, scene, tile
from ps_jax.search.finding import Answer
from ps_jax.search.media import scene_image


def moment_words(seconds: float) -> str:
    """A position in a video: 75.5 -> "1:15.5"."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f}"


def place_words(answer: Answer) -> str:
    """Where an answer is: the file and, in a video, the position."""
    is_video = answer.moment > 0 or not answer.part.finished or answer.part.first > 0
    return f"{answer.part.path} at {moment_words(answer.moment)}" if is_video else answer.part.path


def printable(text: str) -> str:
    """Text without what a terminal would obey: control characters are spelled out."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def time_words(seconds: float) -> str:
    """A time in the machine's own zone, to the second; as a number where no calendar has it, as files' times may be."""
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s"


def answer_record(answer: Answer) -> dict[str, Any]:
    """An answer as JSON values."""
    return {
        "file": answer.part.path,
        "moment": round(answer.moment, 3),
        "time": time_words(answer.time),
        "box": [round(value, 1) for value in answer.box],
        "score": round(answer.score, 4),
        "similarity": round(answer.similarity, 4),
    }


def answers_table(answers: Sequence[Answer]) -> str:
    """The answers as text."""
    names = [place_words(answer) for answer in answers]
    common = os.path.dirname(os.path.commonpath([answer.part.path for answer in answers])) if answers else ""
    lines = [f"{'rank':>4}  {'similarity':>10}  {'score':>5}  {'box':<26} {'time':<19}  scene"]
    for rank, (answer, name) in enumerate(zip(answers, names, strict=True), 1):
        box = " ".join(f"{value:.0f}" for value in answer.box)
        shown = printable(os.path.relpath(name, common) if common else name)
        lines.append(
            f"{rank:>4}  {answer.similarity:>10.3f}  {answer.score:>5.2f}  {box:<26} {time_words(answer.time)}  {shown}"
        )
    return "\n".join(lines)


def write_answers(
    folder: Path,
    queries: Sequence[tuple[str, bytes]],
    answers: Sequence[Answer],
    about: Mapping[str, Any],
) -> None:
    """Writes `answers.json` and `index.html`.

    Args:
      folder: where to; made where it is not there.
      queries: name and JPEG of each query.
      answers: best first.
      about: what the search was made with, for both files.

    Raises:
      GalleryError: the folder cannot be written.
    """
    records = [answer_record(answer) for answer in answers]
    content = {"search": dict(about), "queries": [name for name, _ in queries], "answers": records}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("answers.json", json.dumps(content, indent=2) + "\n"),
            ("index.html", answers_page(queries, answers, about)),
        ):
            unfinished = folder / f"{name}.new"
            unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
            unfinished.replace(folder / name)
    except OSError as error:
        raise GalleryError(f"{folder}: cannot write here ({error.strerror}); choose another --out") from error


def answer_pictures(answer: Answer) -> tuple[bytes, bytes] | None:
    """JPEG of the person and of the whole scene; None where the file is gone or has changed."""
    try:
        image = scene_image(answer.part, answer.moment)
    except GalleryError:
        return None
    return tile(image, answer.box), scene(image, [answer.box])


def answers_page(
    queries: Sequence[tuple[str, bytes]], answers: Sequence[Answer], about: Mapping[str, Any]
) -> str:
    """The page, with all pictures inside; arguments as of `write_answers`."""
    shown = "".join(
        f'<figure><img class="query" src="{data_uri(jpeg)}" alt=""><figcaption>{_text(name)}</figcaption></figure>'
        for name, jpeg in queries
    )
    cards, scenes = [], []
    for rank, answer in enumerate(answers, 1):
        pictures = answer_pictures(answer)
        name = _text(place_words(answer))
        words = (
            f"<b>{rank}</b><br>similarity {answer.similarity:.3f}<br>score {answer.score:.2f}<br>"
            f'{_text(time_words(answer.time))}<br><span title="{name}">{_text(Path(answer.part.path).name)}'
            f"{_text(place_words(answer).removeprefix(answer.part.path))}</span>"
        )
        picture = '<div class="gone">the file is gone or has changed</div>'
        if pictures is not None:
            small, whole = map(data_uri, pictures)
            picture = f'<a href="#scene{rank}"><img src="{small}" alt="answer {rank}"></a>'
            scenes.append(
                f'<a class="scene" id="scene{rank}" href="#answers"><img src="{whole}" alt="scene of answer {rank}">'
                f"<span>{name}</span></a>"
            )
        cards.append(
            f'<figure class="answer" data-score="{answer.score:.4f}" data-similarity="{answer.similarity:.4f}" '
            f'data-time="{answer.time:.3f}">{picture}<figcaption>{words}</figcaption></figure>'
        )
    made = "".join(f"<tr><td>{_text(key)}</td><td>{_text(value)}</td></tr>" for key, value in about.items())
    nobody = "" if answers else "<p>Nobody was found: the gallery is empty, or the filters leave nobody.</p>"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline';
script-src 'unsafe-inline'"><title>Person search</title><style>{STYLE}</style></head><body>
<h1>Person search</h1>
<div class="row">{shown}</div>
<form id="filter"><label>similarity from <input name="similarity" type="number" step="0.05" value="-1"></label>
<label>score from <input name="score" type="number" step="0.05" min="0" max="1" value="0"></label>
<label>from <input name="after" type="datetime-local" step="1"></label>
<label>until <input name="before" type="datetime-local" step="1"></label> <output></output></form>
<div class="row" id="answers">{"".join(cards)}</div>{nobody}
{"".join(scenes)}
<p>A similarity is no probability, and a ranked list has a first row also where the person is in no picture. Look before
anything follows from a match.</p>
<table>{made}</table>
<script>{_SCRIPT}</script></body></html>
"""


STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #202226; margin: 0 auto; max-width: 1500px; padding: 20px; }
h1 { font-size: 24px; margin: 0 0 12px; }
.row { display: flex; flex-wrap: wrap; gap: 14px; margin: 0 0 18px; }
figure { margin: 0; max-width: 100%; }
figure img { display: block; border: 1px solid #d6d8dc; max-width: 100%; }
.query { max-height: 380px; }
.answer { width: 122px; }
.answer[hidden] { display: none; }
figcaption { font-size: 13px; color: #5a5e64; overflow-wrap: anywhere; }
figcaption b { color: #202226; font-size: 16px; }
form { display: flex; flex-wrap: wrap; gap: 16px; align-items: center; padding: 10px 0; color: #5a5e64; }
input { font: inherit; max-width: 13em; }
.gone { width: 120px; height: 216px; background: #e2e4e8; display: grid; place-items: center; text-align: center; }
.scene { display: none; position: fixed; inset: 0; background: #202226f0; text-align: center; color: #fff; }
.scene:target { display: flex; flex-direction: column; align-items: center; justify-content: center; }
.scene img { max-width: 96vw; max-height: 90vh; }
td { padding: 2px 14px 2px 0; color: #5a5e64; overflow-wrap: anywhere; }
"""

_SCRIPT = """
const form = document.getElementById("filter");
function refresh() {
  const least = name => Number(form.elements[name].value || -1);
  const when = name => form.elements[name].value ? Date.parse(form.elements[name].value) / 1000 : null;
  const after = when("after"), before = when("before");
  let count = 0;
  for (const answer of document.querySelectorAll(".answer")) {
    const {similarity, score, time} = answer.dataset;
    answer.hidden = similarity < least("similarity") || score < least("score")
      || (after !== null && time < after) || (before !== null && time >= before);
    count += !answer.hidden;
  }
  form.querySelector("output").textContent = `${count} shown`;
}
form.addEventListener("input", refresh);
form.addEventListener("submit", event => event.preventDefault());
refresh();
"""


def _text(value: Any) -> str:
    return html.escape(str(value).encode("utf-8", "backslashreplace").decode())
