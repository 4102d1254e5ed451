"""Drawing for generated streets: polygons on a finer grid, averaged down to sprites with soft edges.

Everything is exact integer arithmetic once a coordinate has been rounded to the finer grid, so a picture is
the same on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

FINENESS = 3  # fine pixels per scene pixel, along each axis
FINE_AREA = FINENESS * FINENESS

Point = tuple[float, float]
Colour = tuple[int, int, int]


def shade(colour: Colour, percent: int) -> Colour:
    """The colour made darker (below 100) or brighter (above), kept within 0 .. 255."""
    red, green, blue = (min(255, int(channel) * percent // 100) for channel in colour)
    return red, green, blue


@dataclass(frozen=True)
class Sprite:
    """A picture of one thing with soft edges, to be pasted into a scene.

    Attributes:
      left, top: scene pixel of the upper left corner; may lie outside the scene.
      colour: u16[h, w, 3], sum of the colours of the covered fine pixels.
      coverage: u8[h, w], number of covered fine pixels, 0 .. FINE_AREA.
    """

    left: int
    top: int
    colour: np.ndarray
    coverage: np.ndarray

    def moved(self, right: int, down: int) -> "Sprite":
        """The same picture at another place."""
        return Sprite(self.left + right, self.top + down, self.colour, self.coverage)

    @property
    def mask(self) -> np.ndarray:
        """bool[h, w]: pixels at least half covered."""
        return self.coverage * 2 >= FINE_AREA

    def window(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Where the sprite lies in a scene of that size, and which part of the sprite that is."""
        rows, columns = self.coverage.shape
        top, left = min(max(self.top, 0), height), min(max(self.left, 0), width)
        bottom = max(top, min(self.top + rows, height))
        right = max(left, min(self.left + columns, width))
        own = (slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left))
        return (slice(top, bottom), slice(left, right)), own


def average(left: int, top: int, colour: np.ndarray, covered: np.ndarray) -> Sprite:
    """Makes a sprite, cut to its content, of a picture on the fine grid.

    Args:
      left, top: scene pixel of the picture's upper left corner.
      colour: u8[h * FINENESS, w * FINENESS, 3].
      covered: bool[h * FINENESS, w * FINENESS].
    """
    height, width = covered.shape[0] // FINENESS, covered.shape[1] // FINENESS
    grid = (height, FINENESS, width, FINENESS)
    coverage = covered.reshape(grid).sum((1, 3), dtype=np.uint8)
    rows, columns = np.flatnonzero(coverage.any(1)), np.flatnonzero(coverage.any(0))
    if not rows.size:
        return Sprite(left, top, np.zeros((0, 0, 3), np.uint16), np.zeros((0, 0), np.uint8))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    kept = np.where(covered[..., None], colour, 0).astype(np.uint16).reshape(*grid, 3)[box[0], :, box[1]]
    summed = np.zeros((*coverage[box].shape, 3), np.uint16)
    for row in range(FINENESS):
        for column in range(FINENESS):
            summed += kept[:, row, :, column]
    return Sprite(left + int(columns[0]), top + int(rows[0]), summed, coverage[box])


def paste(scene: np.ndarray, sprite: Sprite) -> None:
    """Pastes the sprite into `scene` u8[height, width, 3], in place."""
    there, own = sprite.window(*scene.shape[:2])
    coverage = sprite.coverage[own].astype(np.uint16)[..., None]
    total = scene[there].astype(np.uint16) * (FINE_AREA - coverage) + sprite.colour[own] + FINE_AREA // 2
    scene[there] = (total // FINE_AREA).astype(np.uint8)


class Canvas:
    """A drawing board on the fine grid whose coordinates are scene pixels.

    Args:
      left, top, right, bottom: the part of the plane that can be drawn on, in whole scene pixels.
      mode: "L" to draw numbers, "RGB" to draw colours.
    """

    def __init__(self, left: int, top: int, right: int, bottom: int, mode: str = "RGB"):
        self.left, self.top = left, top
        size = ((right - left) * FINENESS, (bottom - top) * FINENESS)
        self.image = Image.new(mode, size)
        self.covered = Image.new("1", size)
        self._boards = [(ImageDraw.Draw(self.image), None), (ImageDraw.Draw(self.covered), 1)]

    def _fine(self, point: Point) -> tuple[int, int]:
        x = int(np.floor((point[0] - self.left) * FINENESS + 0.5))
        return x, int(np.floor((point[1] - self.top) * FINENESS + 0.5))

    def polygon(self, points: Sequence[Point], fill: int | Colour) -> None:
        """Fills a polygon."""
        fine = [self._fine(point) for point in points]
        for board, value in self._boards:
            board.polygon(fine, fill=fill if value is None else value)

    def ellipse(self, centre: Point, radius_x: float, radius_y: float, fill: int | Colour) -> None:
        """Fills an ellipse with axes along the picture's."""
        box = [self._fine((centre[0] - radius_x, centre[1] - radius_y))]
        box.append(self._fine((centre[0] + radius_x, centre[1] + radius_y)))
        for board, value in self._boards:
            board.ellipse(box, fill=fill if value is None else value)

    def rectangle(self, left: float, top: float, right: float, bottom: float, fill: int | Colour) -> None:
        """Fills a rectangle with sides along the picture's."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def limb(self, start: Point, end: Point, start_radius: float, end_radius: float, fill) -> None:
        """Fills a tapering bar with round ends."""
        along = (end[0] - start[0], end[1] - start[1])
        length = float(np.hypot(*along))
        if length > 0:
            across = (-along[1] / length, along[0] / length)
            corners = [
                (point[0] + sign * radius * across[0], point[1] + sign * radius * across[1])
                for sign, ends in ((1, 1), (-1, -1))
                for point, radius in ((start, start_radius), (end, end_radius))[::ends]
            ]
            self.polygon(corners, fill)
        self.ellipse(start, start_radius, start_radius, fill)
        self.ellipse(end, end_radius, end_radius, fill)

    def sprite(self) -> Sprite:
        """What has been drawn, as a sprite ("RGB" boards)."""
        return average(self.left, self.top, np.asarray(self.image), np.asarray(self.covered))
