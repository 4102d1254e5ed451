"""Composes one generated scene: people put into a camera's street, hidden by things and by each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from input_pipeline.streets_cameras import Camera
from input_pipeline.streets_drawing import Sprite, paste
from input_pipeline.streets_figures import Pose, draw_figure
from input_pipeline.streets_furniture import draw_car
from input_pipeline.streets_looks import Look

LEAST_VISIBLE = 0.35  # of a person's pixels; who would show less is put elsewhere or left out
_TRIES = 24
_FURNITURE = -1
_SMALLEST, _TALLEST = 50, 148  # heights of people of usual stature, in pictures 240 pixels high


@dataclass(frozen=True)
class Placed:
    """A person in a drawn scene.

    Attributes:
      number: position in the list of people the scene was asked for.
      box: (x1, y1, x2, y2) whole pixels around the body, hidden parts included, cut at the picture's edge.
      visible: share of the body's pixels that is seen.
    """

    number: int
    box: tuple[int, int, int, int]
    visible: float


@dataclass(frozen=True)
class DrawnScene:
    """A finished picture u8[height, width, 3] and who is where in it.

    `bodies` bool[people, height, width] is where each body lies, hidden parts included.
    """

    picture: np.ndarray
    people: tuple[Placed, ...]
    bodies: np.ndarray


@dataclass(frozen=True)
class _Figure:
    """Something that stands on ground row `row`: person `number`, or furniture."""

    row: int
    sprite: Sprite
    number: int = _FURNITURE


def draw_scene(camera: Camera, looks: Sequence[Look], random: np.random.Generator) -> DrawnScene:
    """Draws one scene.

    Args:
      camera: where.
      looks: the people who should be in it; the crowd may leave no room for some.
      random: the scene's own generator.
    """
    height, width = camera.backdrop.shape[:2]
    figures = [_Figure(row, sprite) for row, sprite in camera.furniture] + _cars(camera, random)
    for number, look in enumerate(looks):
        figures = _place(camera, figures, look, number, random)
    if looks and all(figure.number == _FURNITURE for figure in figures):
        # The released loaders of CUHK-SYSU want somebody in every scene: clear the street.
        figures = _place(camera, [], looks[0], 0, random)
    figures = sorted(figures, key=lambda figure: figure.row)
    people = sorted((f for f in figures if f.number != _FURNITURE), key=lambda figure: figure.number)

    picture = camera.backdrop.copy()
    for figure in people:
        _cast_shadow(picture, figure, camera)
    for figure in figures:
        paste(picture, figure.sprite)
    picture = camera.expose(picture, int(random.integers(226, 287)), random)

    shares = _visible_shares(figures, height, width)
    bodies = np.zeros((len(people), height, width), bool)
    placed = []
    for figure, body in zip(people, bodies, strict=True):
        there, own = figure.sprite.window(height, width)
        body[there] = figure.sprite.mask[own]
        rows, columns = np.flatnonzero(body.any(1)), np.flatnonzero(body.any(0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        placed.append(Placed(figure.number, box, shares[figure.number]))
    return DrawnScene(picture, tuple(placed), bodies)


def _cars(camera: Camera, random: np.random.Generator) -> list[_Figure]:
    row = camera.parking
    cars = []
    for _ in range(int(random.integers(0, 3))):
        sprite = draw_car(camera.view.metre(row), random)
        cars.append(_Figure(row, sprite.moved(int(random.integers(camera.view.width)), row)))
    return cars


def _place(
    camera: Camera, figures: list[_Figure], look: Look, number: int, random: np.random.Generator
) -> list[_Figure]:
    """The figures with one person more, or unchanged where everyone would be hidden too much."""
    height, width = camera.backdrop.shape[:2]
    nearness = float(random.integers(0, 1001)) / 1000
    row = int(camera.view.row(_SMALLEST + (_TALLEST - _SMALLEST) * (nearness + nearness**2) / 2))
    stride = int(random.integers(4, 33)) if random.integers(5) else int(random.integers(0, 5))
    pose = Pose(int(random.integers(360)), int(random.integers(360)), stride, int(random.integers(4, 46)))
    sprite = draw_figure(look, pose, camera.view.metre(row) * look.stature / 100, camera.light)
    for _ in range(_TRIES):
        placed = _Figure(row, sprite.moved(int(random.integers(width)), row), number)
        candidate = sorted([*figures, placed], key=lambda figure: figure.row)
        if min(_visible_shares(candidate, height, width).values()) >= LEAST_VISIBLE:
            return candidate
    return figures


def _visible_shares(figures: Sequence[_Figure], height: int, width: int) -> dict[int, float]:
    """Seen share of each person's body; figures come far ones first."""
    front = np.full((height, width), _FURNITURE, np.int16)
    bodies = {}
    for figure in figures:
        mask = figure.sprite.mask
        there, own = figure.sprite.window(height, width)
        front[there][mask[own]] = figure.number
        if figure.number != _FURNITURE:
            bodies[figure.number] = (there, int(mask.sum()))
    return {number: float((front[there] == number).sum() / area) for number, (there, area) in bodies.items()}


def _cast_shadow(picture: np.ndarray, figure: _Figure, camera: Camera) -> None:
    """Darkens the ground beside a person: a flat ellipse that lies away from the light."""
    metre = camera.view.metre(figure.row)
    columns, rows = figure.sprite.coverage.shape[1], int(0.1 * metre) + 1
    long = columns // 4 + int(0.4 * metre) + 1
    centre = figure.sprite.left + columns // 2 - camera.light * int(0.3 * metre)
    height, width = picture.shape[:2]
    top, bottom = max(0, figure.row - rows), min(height, figure.row + rows + 1)
    left, right = max(0, centre - long), min(width, centre + long + 1)
    if top >= bottom or left >= right:
        return
    down = (np.arange(top, bottom) - figure.row)[:, None] ** 2 * long**2
    across = (np.arange(left, right) - centre)[None, :] ** 2 * rows**2
    inside = down + across <= long**2 * rows**2
    part = picture[top:bottom, left:right]
    part[inside] = (part[inside].astype(np.uint16) * (100 - camera.shadow) // 100).astype(np.uint8)
