"""The cameras of generated streets: the street each one sees, its light and its picture noise."""

from dataclasses import dataclass

import numpy as np

from input_pipeline.streets_backdrops import ROADS, View, draw_backdrop
from input_pipeline.streets_drawing import Sprite
from input_pipeline.streets_furniture import FURNITURE


@dataclass(frozen=True)
class Camera:
    """One fixed camera.

    Attributes:
      view: perspective.
      backdrop: u8[height, width, 3], the empty street before light and noise.
      furniture: sprites in the street, each with the row of the ground it stands on, far ones first.
      parking: row of the ground where cars stand.
      light: side the sun stands on, 1 right or -1 left.
      shadow: percent of its brightness that the ground loses in a person's shadow.
      gains: brightness of red, green and blue in 1/256.
      saturation, contrast: strength of colours, and of light and dark, in 1/256.
      noise: the picture noise is at most twice this.
      soft: whether the lens blurs a little.
    """

    view: View
    backdrop: np.ndarray
    furniture: tuple[tuple[int, Sprite], ...]
    parking: int
    light: int
    shadow: int
    gains: tuple[int, int, int]
    saturation: int
    contrast: int
    noise: int
    soft: bool

    def expose(self, picture: np.ndarray, brightness: int, random: np.random.Generator) -> np.ndarray:
        """What the camera makes of a drawn scene.

        Args:
          picture: u8[height, width, 3], drawn in neutral light.
          brightness: of the hour, in 1/256.
          random: generator of the noise.

        Returns:
          u8[height, width, 3].
        """
        values = picture.astype(np.int32)
        grey = (values @ np.array([77, 150, 29]))[..., None] >> 8
        values = grey + ((values - grey) * self.saturation >> 8)
        values = 112 + ((values - 112) * self.contrast >> 8)
        values = values * (np.array(self.gains) * brightness >> 8) >> 8
        if self.soft:
            padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
            rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
            values = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) >> 4
        values += random.integers(-self.noise, self.noise + 1, (2, *values.shape), np.int32).sum(0)
        return np.clip(values, 0, 255).astype(np.uint8)


def make_camera(seed: int, number: int, height: int, width: int) -> Camera:
    """Builds camera `number`; the result depends on the arguments alone."""
    random = np.random.default_rng(np.random.SeedSequence([seed, 3, number]))
    kind = sorted(ROADS)[(number + int(random.integers(2))) % 3]
    elevation = float(random.integers(195, 276)) / 100
    # A person as tall as 150 / 240 of the picture stands just above its lower edge.
    ground = View(height, width, 0.0, elevation).row(150)
    horizon = height - 2 - ground + float(random.integers(-8, 9)) * height / 240
    view = View(height, width, horizon, elevation)
    return Camera(
        view=view,
        backdrop=draw_backdrop(view, kind, random),
        furniture=_place_furniture(view, random),
        parking=int(view.row(ROADS[kind][0])) + 2,
        light=1 if random.integers(2) else -1,
        shadow=int(random.integers(8, 46)),
        gains=_gains(random, number),
        saturation=int(random.integers(175, 276)),
        contrast=int(random.integers(204, 281)),
        noise=int(random.integers(2, 7)),
        soft=bool(random.integers(3) == 0),
    )


def _gains(random: np.random.Generator, number: int) -> tuple[int, int, int]:
    """Dim and bright cameras take turns, and each has a colour cast of its own."""
    brightness = int(random.integers(240, 291) if number % 2 else random.integers(185, 236))
    casts = random.permutation([230, 258, 286]) + random.integers(-14, 15, 3)
    red, green, blue = (brightness * int(cast) >> 8 for cast in casts)
    return red, green, blue


def _place_furniture(view: View, random: np.random.Generator) -> tuple[tuple[int, Sprite], ...]:
    placed = []
    for _ in range(int(random.integers(3, 6))):
        row = int(view.row(float(random.integers(44, 112))))
        draw = FURNITURE[int(random.integers(len(FURNITURE)))]
        placed.append((row, draw(view.metre(row), random).moved(int(random.integers(view.width)), row)))
    return tuple(sorted(placed, key=lambda item: item[0]))
