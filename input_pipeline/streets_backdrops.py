"""The empty streets behind the people of generated scenes: sky, houses, pavement and road in perspective."""

from dataclasses import dataclass

import numpy as np

from input_pipeline.streets_drawing import Canvas, Colour, paste, shade
from input_pipeline.streets_furniture import draw_tree

_WALLS: tuple[Colour, ...] = (
    (178, 150, 122),
    (150, 88, 70),
    (188, 182, 170),
    (120, 122, 130),
    (204, 188, 150),
    (112, 96, 88),
    (152, 162, 160),
)
_PAVINGS: tuple[Colour, ...] = ((156, 150, 142), (142, 138, 136), (166, 152, 132), (128, 132, 136))
_GLASS: tuple[Colour, ...] = ((62, 74, 92), (84, 100, 116), (48, 54, 66), (206, 190, 140))
_AWNINGS: tuple[Colour, ...] = ((148, 52, 46), (48, 92, 78), (60, 76, 120), (178, 140, 66))
_PAINT: Colour = (214, 212, 204)

# Distances are told by the height of a person there, in pixels of a picture 240 pixels high.
_HOUSES = 36.0
ROADS = {"street": (44.0, 72.0), "crossing": (62.0, 118.0), "plaza": (40.0, 46.0)}  # far and near edge
_PERSON = 1.7  # metres


@dataclass(frozen=True)
class View:
    """Perspective of a level camera.

    Attributes:
      height, width: size of the picture in pixels.
      horizon: row of the horizon.
      elevation: height of the camera above the ground in metres.
    """

    height: int
    width: int
    horizon: float
    elevation: float

    @property
    def unit(self) -> float:
        """Size of the picture relative to one that is 240 pixels high."""
        return self.height / 240

    def metre(self, row: float) -> float:
        """Pixels of one upright metre that stands on ground row `row`."""
        return (row - self.horizon) / self.elevation

    def row(self, person: float) -> float:
        """Ground row where a person of usual height is `person` 240ths of the picture's height tall."""
        return self.horizon + person * self.unit * self.elevation / _PERSON


def draw_backdrop(view: View, kind: str, random: np.random.Generator) -> np.ndarray:
    """Draws an empty street.

    Args:
      view: perspective.
      kind: a key of `ROADS`.
      random: generator that everything is drawn from.

    Returns:
      u8[height, width, 3].
    """
    board = Canvas(0, 0, view.width, view.height)
    _draw_sky(board, view, random)
    left = -float(random.integers(40)) * view.unit
    while left < view.width:
        right = left + float(random.integers(56, 130)) * view.unit
        _draw_house(board, view, left, right, random)
        left = right
    paving = shade(_pick(random, _PAVINGS), int(random.integers(86, 112)))
    vanishing = view.width * float(random.integers(20, 81)) / 100
    _draw_paving(board, view, paving, vanishing, float(random.integers(12, 25)) / 10)
    if kind != "plaza":
        asphalt = shade((92, 92, 96), int(random.integers(80, 118)))
        _draw_road(board, view, kind, paving, asphalt)
        if kind == "crossing":
            _draw_zebra(board, view, vanishing)
        else:
            _draw_lane(board, view)
    picture = np.zeros((view.height, view.width, 3), np.uint8)
    paste(picture, board.sprite())
    foot = view.row(_HOUSES)
    for _ in range(int(random.integers(0, 4))):
        tree = draw_tree(view.metre(foot), random)
        paste(picture, tree.moved(int(random.integers(view.width)), int(foot) + 1))
    return _roughen(picture, random, int(view.unit) + 1)


def _pick(random: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(random.integers(len(colours)))]


def _draw_sky(board: Canvas, view: View, random: np.random.Generator) -> None:
    sky = (150 + int(random.integers(60)), 176 + int(random.integers(40)), 206 + int(random.integers(40)))
    foot = max(1, int(view.row(_HOUSES)))
    for row in range(0, foot, 4):
        board.rectangle(0, row, view.width, row + 4, shade(sky, 80 + 24 * row // foot))


def _draw_house(board: Canvas, view: View, left: float, right: float, random: np.random.Generator) -> None:
    foot = view.row(_HOUSES)
    metre = view.metre(foot)
    top = float(random.integers(-30, 26)) * view.unit if random.integers(4) else foot - 3.6 * metre
    wall = shade(_pick(random, _WALLS), int(random.integers(80, 112)))
    board.rectangle(left, top, right, foot, wall)
    board.rectangle(left, top, right, top + 0.25 * metre, shade(wall, 120))
    board.rectangle(right - 1.2 * view.unit, top, right, foot, shade(wall, 66))
    storey, bay = float(random.integers(26, 34)) / 10 * metre, float(random.integers(16, 32)) / 10 * metre
    tall = float(random.integers(12, 18)) / 10 * metre
    shop = random.integers(2) == 1
    floor = foot - storey if shop else foot
    while floor > top + 0.4 * metre:
        sill = floor - 0.9 * metre
        upper = max(top + 0.4 * metre, sill - tall)
        across = left + bay * 0.25
        while across + bay * 0.55 < right and upper < sill:
            frame = view.unit
            board.rectangle(
                across - frame, upper - frame, across + bay * 0.5 + frame, sill + frame, shade(wall, 124)
            )
            board.rectangle(across, upper, across + bay * 0.5, sill, _pick(random, _GLASS))
            across += bay
        floor -= storey
    if shop:
        eaves = foot - 2.1 * metre
        board.rectangle(left + 0.3 * metre, eaves, right - 0.3 * metre, foot, (58, 60, 66))
        board.rectangle(
            left + 0.1 * metre, eaves - 0.6 * metre, right - 0.1 * metre, eaves, _pick(random, _AWNINGS)
        )
        door = left + float(random.integers(20, 70)) / 100 * (right - left)
        board.rectangle(door, foot - 2.0 * metre, door + 0.9 * metre, foot, (126, 96, 72))


def _draw_paving(board: Canvas, view: View, paving: Colour, vanishing: float, slab: float) -> None:
    """Slabs `slab` metres wide; their joints run to the column `vanishing` of the horizon, and across."""
    far, joint = view.row(_HOUSES), shade(paving, 84)
    board.rectangle(0, far, view.width, view.height, paving)
    # Equal steps on the ground are equal steps of the inverse of a person's height in the picture.
    nearness, step = 1 / _HOUSES, slab / (_PERSON * 264)
    while nearness > 1 / 320:
        row = view.row(1 / nearness)
        board.rectangle(0, row, view.width, row + max(0.4, view.unit / (130 * nearness)), joint)
        nearness -= step
    shrink = (far - view.horizon) / (view.height - view.horizon)
    for number in range(-40, 41):
        near = number * view.metre(view.height) * slab
        if abs(near * shrink) < 2 * view.width:
            upper, lower = vanishing + near * shrink, vanishing + near
            corners = [(upper, far), (upper + 0.4, far), (lower + 1.2 * view.unit, view.height)]
            board.polygon([*corners, (lower, view.height)], joint)


def _draw_road(board: Canvas, view: View, kind: str, paving: Colour, asphalt: Colour) -> None:
    far, near = (view.row(edge) for edge in ROADS[kind])
    board.rectangle(0, far, view.width, near, asphalt)
    for upper, lower, colour in (
        (far - 1.4 * view.unit, far, shade(paving, 122)),
        (near - 1.6 * view.unit, near, shade(asphalt, 60)),
        (near, near + 2.2 * view.unit, shade(paving, 122)),
    ):
        board.rectangle(0, upper, view.width, lower, colour)


def _draw_zebra(board: Canvas, view: View, vanishing: float) -> None:
    far, near = (view.row(edge) for edge in ROADS["crossing"])
    shrink = (far - view.horizon) / (near - view.horizon)
    metre = view.metre(near)
    for number in range(-3, 4):
        left, right = number * 1.1 * metre, (number * 1.1 + 0.55) * metre
        corners = [(vanishing + side * shrink, far + view.unit) for side in (left, right)]
        corners += [(vanishing + side, near - 2 * view.unit) for side in (right, left)]
        board.polygon(corners, _PAINT)


def _draw_lane(board: Canvas, view: View) -> None:
    far, near = (view.row(edge) for edge in ROADS["street"])
    middle = (far + near) / 2
    dash = 1.7 * view.metre(middle)
    for number in range(int(view.width / dash) + 1):
        board.rectangle(2 * number * dash, middle, (2 * number + 1) * dash, middle + 1.4 * view.unit, _PAINT)


def _roughen(picture: np.ndarray, random: np.random.Generator, patch: int) -> np.ndarray:
    """Stains and grain that stay the same in all pictures of the camera."""
    height, width = picture.shape[:2]
    rough = random.integers(-7, 8, (height, width), np.int16)
    for size in (6 * patch, 17 * patch):
        coarse = random.integers(-4, 5, (height // size + 1, width // size + 1), np.int16)
        rough += coarse.repeat(size, 0).repeat(size, 1)[:height, :width]
    return np.clip(picture.astype(np.int16) + rough[..., None], 0, 255).astype(np.uint8)
