"""Things that stand in generated streets and hide people: posts, bins, benches, trees, kiosks, parked cars.

Every function takes `metre`, the pixels of one upright metre where the thing stands, and a random generator;
it returns a sprite whose origin is the middle of the thing's foot.
"""

from collections.abc import Callable

import numpy as np

from input_pipeline.streets_drawing import Canvas, Colour, Sprite, shade

_METALS: tuple[Colour, ...] = ((58, 62, 66), (44, 70, 60), (108, 112, 116))
_CARS: tuple[Colour, ...] = (
    (168, 40, 42),
    (52, 70, 110),
    (208, 208, 206),
    (40, 42, 46),
    (126, 130, 134),
    (70, 104, 86),
)
_LEAVES: tuple[Colour, ...] = ((66, 104, 58), (88, 116, 56), (54, 88, 66), (128, 116, 58))


def _board(metre: float, half_width: float, height: float) -> Canvas:
    reach = int(half_width * metre) + 3
    return Canvas(-reach, -int(height * metre) - 3, reach, int(0.3 * metre) + 3)


def _colour(random: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return shade(colours[int(random.integers(len(colours)))], int(random.integers(85, 116)))


def _bar(board: Canvas, metre: float, box: tuple[float, float, float, float], colour: Colour) -> None:
    """A box given in metres (left, lower, right, upper), with its right side in shade."""
    left, lower, right, upper = (value * metre for value in box)
    board.rectangle(left, -upper, right, -lower, colour)
    board.rectangle(right - 0.25 * (right - left), -upper, right, -lower, shade(colour, 74))


def draw_bollards(metre: float, random: np.random.Generator) -> Sprite:
    """A row of three low posts."""
    board, colour = _board(metre, 2.0, 1.0), _colour(random, _METALS)
    for place in (-1.5, 0.0, 1.5):
        _bar(board, metre, (place - 0.08, 0, place + 0.08, 0.9), colour)
        board.rectangle(
            (place - 0.08) * metre, -0.85 * metre, (place + 0.08) * metre, -0.72 * metre, (220, 214, 200)
        )
    return board.sprite()


def draw_bin(metre: float, random: np.random.Generator) -> Sprite:
    """A litter bin."""
    board, colour = _board(metre, 0.5, 1.2), _colour(random, _METALS)
    _bar(board, metre, (-0.3, 0, 0.3, 0.95), colour)
    _bar(board, metre, (-0.35, 0.95, 0.35, 1.08), shade(colour, 70))
    return board.sprite()


def draw_lamp(metre: float, random: np.random.Generator) -> Sprite:
    """A lamp post."""
    board, colour = _board(metre, 1.2, 5.2), _colour(random, _METALS)
    _bar(board, metre, (-0.13, 0, 0.13, 0.8), colour)
    _bar(board, metre, (-0.07, 0.8, 0.07, 5.0), colour)
    _bar(board, metre, (-0.07, 4.9, 0.9, 5.02), colour)
    return board.sprite()


def draw_sign(metre: float, random: np.random.Generator) -> Sprite:
    """A street sign on a post."""
    board = _board(metre, 0.6, 2.8)
    _bar(board, metre, (-0.04, 0, 0.04, 2.6), _METALS[2])
    board.ellipse((0, -2.4 * metre), 0.32 * metre, 0.32 * metre, _colour(random, _CARS))
    board.ellipse((0, -2.4 * metre), 0.2 * metre, 0.2 * metre, (224, 224, 220))
    return board.sprite()


def draw_bench(metre: float, random: np.random.Generator) -> Sprite:
    """A bench with slats."""
    board, colour = _board(metre, 1.1, 1.0), _colour(random, ((132, 96, 62), (108, 82, 60)))
    for place in (-0.8, 0.7):
        _bar(board, metre, (place, 0, place + 0.1, 0.8), _METALS[0])
    for upper in (0.45, 0.68, 0.86):
        _bar(board, metre, (-0.95, upper - 0.12, 0.95, upper), colour)
    return board.sprite()


def draw_planter(metre: float, random: np.random.Generator) -> Sprite:
    """A box with a shrub."""
    board, leaves = _board(metre, 0.9, 1.6), _colour(random, _LEAVES)
    for _ in range(14):
        across, up = float(random.integers(-50, 51)) / 100, float(random.integers(55, 110)) / 100
        radius = float(random.integers(14, 26)) / 100 * metre
        board.ellipse(
            (across * metre, -up * metre), radius, radius, shade(leaves, int(random.integers(76, 125)))
        )
    _bar(board, metre, (-0.6, 0, 0.6, 0.55), (142, 128, 112))
    return board.sprite()


def draw_kiosk(metre: float, random: np.random.Generator) -> Sprite:
    """A telephone box, tall enough to hide a person."""
    board, colour = _board(metre, 0.7, 2.6), _colour(random, _CARS)
    _bar(board, metre, (-0.5, 0, 0.5, 2.4), colour)
    for row in range(4):
        _bar(board, metre, (-0.36, 0.45 + 0.45 * row, 0.3, 0.8 + 0.45 * row), (96, 116, 128))
    return board.sprite()


def draw_tree(metre: float, random: np.random.Generator) -> Sprite:
    """A tree."""
    board, leaves = _board(metre, 2.6, 7.0), _colour(random, _LEAVES)
    _bar(board, metre, (-0.16, 0, 0.16, 3.2), (92, 74, 58))
    for number in range(46):
        across, up = float(random.integers(-150, 151)) / 100, float(random.integers(300, 580)) / 100
        radius = float(random.integers(35, 75)) / 100 * metre
        tone = 70 + 50 * number // 46 + int(random.integers(-8, 9))
        board.ellipse((across * metre, -up * metre), radius, radius, shade(leaves, tone))
    return board.sprite()


def draw_car(metre: float, random: np.random.Generator) -> Sprite:
    """A parked car seen from the side."""
    board, colour = _board(metre, 2.3, 1.6), _colour(random, _CARS)
    turn = 1 if random.integers(2) else -1

    def outline(points: list[tuple[float, float]], fill: Colour) -> None:
        board.polygon([(turn * x * metre, -y * metre) for x, y in points], fill)

    board.ellipse((0, -0.1 * metre), 2.1 * metre, 0.14 * metre, (42, 42, 44))
    outline([(-2.1, 0.3), (2.1, 0.3), (2.1, 0.72), (1.95, 0.86), (-2.0, 0.92), (-2.1, 0.8)], colour)
    outline([(-1.7, 0.9), (-1.3, 1.42), (0.45, 1.45), (1.15, 0.88)], shade(colour, 86))
    outline([(-1.5, 0.92), (-1.2, 1.33), (-0.35, 1.36), (-0.35, 0.92)], (66, 80, 94))
    outline([(-0.25, 0.92), (-0.25, 1.36), (0.38, 1.36), (0.92, 0.92)], (66, 80, 94))
    outline([(-2.1, 0.3), (2.1, 0.3), (2.1, 0.45), (-2.1, 0.45)], shade(colour, 66))
    for wheel in (-1.3, 1.35):
        board.ellipse((turn * wheel * metre, -0.32 * metre), 0.33 * metre, 0.33 * metre, (32, 32, 34))
        board.ellipse((turn * wheel * metre, -0.32 * metre), 0.17 * metre, 0.17 * metre, (142, 142, 146))
    return board.sprite()


FURNITURE: tuple[Callable[[float, np.random.Generator], Sprite], ...] = (
    draw_bench,
    draw_bin,
    draw_bollards,
    draw_kiosk,
    draw_lamp,
    draw_planter,
    draw_sign,
    draw_tree,
)
