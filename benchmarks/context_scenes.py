"""A pair of scenes in which single-point search fails and context matching (CBGM) succeeds: numbers and a picture.

    python -m benchmarks.context_scenes [--out context_matching.png]

Two friends in the same striped shirt stand in the street. Later the one we look for has put on a coat, and her friend,
who has not, looks more like her than she does herself. But the friend looks still more like himself, so the matching
gives him to himself, and her to herself. Street and people are drawn by the generator of `streets`; features are
histograms of the colours of each person's pixels, so the numbers are those of the picture.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.color_histogram import color_histogram
from input_pipeline.scenes import Box, Gallery, GalleryItem, Person, Query, Scene, Split
from input_pipeline.streets_cameras import Camera, make_camera
from input_pipeline.streets_drawing import paste
from input_pipeline.streets_figures import Pose, draw_figure
from input_pipeline.streets_looks import Look
from ps_jax.evaluation.cbgm import ContextMatching, best_matching, context_features
from ps_jax.evaluation.contact_sheets import INK, PALE, PAPER, QUERY, RIGHT, WRONG, font
from ps_jax.evaluation.protocols import SearchTask, search_task
from ps_jax.evaluation.search import Ranking, evaluate_search
from ps_jax.evaluation.similarity import gallery_features, unit_rows
from ps_jax.evaluation.table import DetectionTable, make_table

SIZE = (300, 460)  # height, width of a scene
SHE, FRIEND, STRANGER = 1, 2, 3
NAMES = {SHE: "she", FRIEND: "friend", STRANGER: "stranger"}
BINS = 6  # of each colour channel
MATCHING = ContextMatching(k1=10, k2=3)

_WHITE, _BLACK, _BROWN = (226, 222, 212), (44, 44, 52), (118, 76, 44)
_SHE = Look(
    stature=172,
    girth=100,
    skin=(222, 176, 140),
    hair=(32, 26, 26),
    hair_style="long",
    top=(178, 44, 48),
    accent=_WHITE,
    pattern="hoops",
    length="waist",
    sleeves="long",
    lower="trousers",
    lower_colour=(62, 82, 124),
    shoes=(40, 36, 36),
    bag="none",
    bag_side=1,
    bag_colour=_BLACK,
    hat="none",
    hat_colour=_BLACK,
)
_FRIEND = replace(
    _SHE, stature=180, girth=104, hair=(198, 164, 104), hair_style="short", lower_colour=(190, 182, 164)
)
_STRANGER = replace(
    _SHE,
    stature=176,
    skin=(140, 94, 66),
    hair_style="short",
    top=(208, 172, 62),
    accent=(44, 78, 156),
    pattern="block",
    lower_colour=(134, 116, 88),
    bag="hand",
    bag_colour=_BROWN,
)
_IN_COAT = replace(_SHE, top=_BROWN, accent=_BROWN, length="coat")


class Placed(NamedTuple):
    """Who stands where: identity, look, direction faced in degrees, place across and height, 0 to 1 of the picture."""

    identity: int
    look: Look
    facing: int
    across: float
    tall: float


QUERY_SCENE = (Placed(SHE, _SHE, 20, 0.35, 0.5), Placed(FRIEND, _FRIEND, 10, 0.6, 0.49))
GALLERY_SCENE = (
    Placed(SHE, _IN_COAT, 320, 0.25, 0.49),
    Placed(FRIEND, _FRIEND, 40, 0.55, 0.51),
    Placed(STRANGER, _STRANGER, 300, 0.85, 0.46),
)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A scene: picture u8[height, width, 3], and identity, box and unit feature of each person, as placed."""

    picture: np.ndarray
    identities: tuple[int, ...]
    boxes: tuple[Box, ...]
    features: np.ndarray

    def box_of(self, identity: int) -> Box:
        return self.boxes[self.identities.index(identity)]


def draw(camera: Camera, people: Sequence[Placed]) -> Drawn:
    """Draws people who do not hide each other."""
    height, width = SIZE
    picture = camera.backdrop.copy()
    bodies: list[np.ndarray] = []
    boxes: list[Box] = []
    for person in people:
        row = int(camera.view.row(240 * person.tall))
        tall = camera.view.metre(row) * person.look.stature / 100
        pose = Pose(person.facing, phase=60, stride=16, elbow=20)
        sprite = draw_figure(person.look, pose, tall, camera.light).moved(int(person.across * width), row)
        paste(picture, sprite)
        body = np.zeros((height, width), bool)
        there, own = sprite.window(height, width)
        body[there] = sprite.mask[own]
        rows, columns = np.flatnonzero(body.any(1)), np.flatnonzero(body.any(0))
        boxes.append((float(columns[0]), float(rows[0]), columns[-1] + 1.0, rows[-1] + 1.0))
        bodies.append(body)
    picture = camera.expose(picture, 256, np.random.default_rng(0))
    features = [color_histogram(picture[body][:, None], BINS) for body in bodies]
    return Drawn(picture, tuple(p.identity for p in people), tuple(boxes), unit_rows(np.array(features)))


@dataclass(frozen=True, eq=False)
class Case:
    """The pair of scenes, searched.

    Attributes:
      query, gallery: the scenes; the query is the first person of the first.
      weights: f64[2, 3], cosine of (she, friend) in the query's scene to each person of the gallery's.
      pairs: gallery person that the matching gives to each of the two.
      before, after: how the search goes without and with context matching.
    """

    query: Drawn
    gallery: Drawn
    weights: np.ndarray
    pairs: tuple[int, ...]
    before: Ranking
    after: Ranking


def make_case() -> Case:
    """Draws the two scenes, and searches for her with the evaluator's own functions."""
    # Without noise, which would only make the file of the picture larger.
    camera = replace(make_camera(seed=0, number=1, height=SIZE[0], width=SIZE[1]), noise=0)
    drawn = [draw(camera, people) for people in (QUERY_SCENE, GALLERY_SCENE)]
    query, gallery = drawn
    table = make_table((np.array(d.boxes), np.full(len(d.boxes), 0.9), d.features) for d in drawn)
    scenes = tuple(
        Scene(name, name, *SIZE, tuple(map(Person, one.boxes, one.identities)))
        for name, one in zip(("query", "gallery"), drawn, strict=True)
    )
    wanted = (Query("query", query.box_of(SHE), SHE),)
    items = ((GalleryItem("gallery", gallery.box_of(SHE)),),)
    split = Split("drawn", "test", scenes, {"pair": Gallery("pair", wanted, items)}, "pair")
    task = search_task(split, "pair")
    feature = gallery_features(table.embedding, table.score, "cosine")
    vector = query.features[0]
    similarity = feature @ vector
    context = context_features(vector, wanted[0].box, table, 0, MATCHING.k2)
    changed = MATCHING.rematch(task.items[0], table, similarity, feature, context)
    weights = context @ gallery.features.T
    _, pairs = best_matching(weights)
    return Case(
        query,
        gallery,
        weights,
        tuple(gallery.identities[pair] for pair in pairs),
        _ranking(task, table, similarity),
        _ranking(task, table, changed),
    )


def _ranking(task: SearchTask, table: DetectionTable, similarity: np.ndarray) -> Ranking:
    return evaluate_search(task, [(table, similarity)]).rankings[0]


PALE_LINE, COMPANION = (150, 152, 158), (138, 79, 176)
FINE = 3  # lines are drawn this much larger, for smooth edges
MARGIN, BETWEEN, HEADING, WORDS = 16, 28, 34, 68


def picture(case: Case) -> Image.Image:
    """Both searches, one under the other, in 256 colours: what is compared, what is taken, and why."""
    weights = case.weights
    she, friend, stranger = weights[0]
    crossed = weights[0, 1] + weights[1, 0]
    after = float(case.after.similarity[0])
    lines = [
        [(SHE, SHE, PALE_LINE), (SHE, STRANGER, PALE_LINE), (SHE, FRIEND, WRONG)],
        [(SHE, SHE, RIGHT), (FRIEND, FRIEND, COMPANION)],
    ]
    headings = [
        ("Single point", "the person most similar to the query is taken", "wrong: it is her friend", WRONG),
        (
            "Context matching",
            "everybody in the query's scene gets a partner, the largest sum decides",
            "right: it is she, in her coat",
            RIGHT,
        ),
    ]
    words = [
        (
            "She has put on a coat since, and her friend wears the shirt that she wore: "
            f"{friend:.2f} for him, {she:.2f} for herself.",
            f"The stranger on the right has {stranger:.2f}. The friend ranks first; average precision "
            f"{100 * case.before.ap:.0f} %.",
        ),
        (
            f"Her friend is {weights[1, 1]:.2f} similar to himself. She - she and friend - friend weigh "
            f"{she:.2f} + {weights[1, 1]:.2f} = {she + weights[1, 1]:.2f}; the other way round it is "
            f"{friend:.2f} + {weights[1, 0]:.2f} = {crossed:.2f}.",
            f"Her similarity becomes the best of her matching, {after:.2f}, so she ranks first; average precision "
            f"{100 * case.after.ap:.0f} %.",
        ),
    ]
    height, width = SIZE
    block = HEADING + 20 + height + WORDS
    sheet = Image.new("RGB", (2 * MARGIN + 2 * width + BETWEEN, MARGIN + 2 * block), PAPER)
    draw_on = ImageDraw.Draw(sheet)
    for number, (title, subtitle, verdict, color) in enumerate(headings):
        top = MARGIN + number * block
        draw_on.text((MARGIN, top), title, INK, font(20))
        at = MARGIN + draw_on.textlength(title, font(20)) + 12
        draw_on.text((at, top + 4), subtitle, PALE, font(16))
        at = sheet.width - MARGIN - draw_on.textlength(verdict, font(18))
        draw_on.text((at, top + 2), verdict, color, font(18))
        top += HEADING
        corners = [(MARGIN, top + 20), (MARGIN + width + BETWEEN, top + 20)]
        captions = ("query's scene", "scene of the gallery; numbers are similarities")
        for scene, corner, caption in zip((case.query, case.gallery), corners, captions, strict=True):
            draw_on.text((corner[0], top), caption, PALE, font(14))
            sheet.paste(Image.fromarray(scene.picture), corner)
        _boxes(draw_on, case, corners, number)
        _arcs(sheet, case, corners, lines[number])
        for place, line in enumerate(words[number]):
            draw_on.text((MARGIN, top + 26 + height + 20 * place), line, INK, font(14))
    return sheet.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def _boxes(draw_on: ImageDraw.ImageDraw, case: Case, corners: Sequence[tuple[int, int]], row: int) -> None:
    """Frames around everybody, with names under them."""
    taken = FRIEND if row == 0 else SHE
    for scene, (left, top) in zip((case.query, case.gallery), corners, strict=True):
        for identity, box in zip(scene.identities, scene.boxes, strict=True):
            if scene is case.query:
                color = QUERY if identity == SHE else COMPANION if row else PALE_LINE
            elif identity == taken:
                color = RIGHT if identity == SHE else WRONG
            else:
                color = COMPANION if row and identity == FRIEND else PALE_LINE
            x1, y1, x2, y2 = box[0] + left, box[1] + top, box[2] + left, box[3] + top
            draw_on.rectangle((x1 - 2, y1 - 2, x2 + 1, y2 + 1), outline=color, width=3)
            name = NAMES[identity]
            if identity == SHE:
                name = "query: she" if scene is case.query else "she, in a coat"
            _label(draw_on, ((x1 + x2) / 2, y2 + 14), name, color)


def _arcs(
    sheet: Image.Image,
    case: Case,
    corners: Sequence[tuple[int, int]],
    lines: Sequence[tuple[int, int, tuple[int, int, int]]],
) -> None:
    """Arcs from a person of the query's scene to one of the gallery's, with their similarity."""
    layer = Image.new("RGBA", (sheet.width * FINE, sheet.height * FINE))
    arcs, labels = ImageDraw.Draw(layer), []
    for start, end, color in lines:
        here, there = case.query.box_of(start), case.gallery.box_of(end)
        x1, y1 = (here[0] + here[2]) / 2 + corners[0][0], here[1] + corners[0][1] - 3
        x2, y2 = (there[0] + there[2]) / 2 + corners[1][0], there[1] + corners[1][1] - 3
        over = corners[0][1] - 30 - 25 * (end == SHE)  # control point of the arc
        t = np.linspace(0, 1, 60)[:, None]
        curve = ((1 - t) ** 2 * [x1, y1] + 2 * t * (1 - t) * [(x1 + x2) / 2, over] + t**2 * [x2, y2]) * FINE
        width = 5 if color == PALE_LINE else 10
        arcs.line([tuple(point) for point in curve.tolist()], fill=(*color, 255), width=width, joint="curve")
        row, column = case.query.identities.index(start), case.gallery.identities.index(end)
        labels.append(((x2, y2 - 12), f"{case.weights[row, column]:.2f}", color))
    smooth = layer.resize(sheet.size, Image.Resampling.LANCZOS)
    sheet.paste(smooth, (0, 0), smooth)
    draw_on = ImageDraw.Draw(sheet)
    for place, text, color in labels:
        _label(draw_on, place, text, color)


def _label(draw_on: ImageDraw.ImageDraw, middle: tuple[float, float], text: str, color) -> None:
    half = draw_on.textlength(text, font(14)) / 2
    x, y = middle
    box = (x - half - 4, y - 10, x + half + 4, y + 9)
    draw_on.rounded_rectangle(box, 4, fill=PAPER, outline=color)
    draw_on.text((x, y - 1), text, INK if color == PALE_LINE else color, font(14), anchor="mm")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.context_scenes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="where to put the picture (PNG); default: numbers only")
    options = parser.parse_args(arguments)
    case = make_case()
    print("cosine of    " + "".join(f"{NAMES[identity]:>10}" for identity in case.gallery.identities))
    for identity, row in zip(case.query.identities, case.weights, strict=True):
        print(f"{NAMES[identity]:<13}" + "".join(f"{value:10.3f}" for value in row))
    for title, ranking in (("single point", case.before), ("context matching", case.after)):
        listed = ", ".join(f"{value:.3f}" for value in ranking.similarity)
        print(f"{title}: average precision {ranking.ap:.2f}, first right: {ranking.hits[0]}, ranked {listed}")
    if options.out:
        try:
            picture(case).save(options.out, "PNG", optimize=True)
        except OSError as error:
            print(f"{options.out}: cannot be written ({error})", file=sys.stderr)
            return 2
        print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
