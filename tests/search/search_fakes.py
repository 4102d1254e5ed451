"""A drawn set of pictures and videos, and a detector without weights that knows people by their colour."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ps_jax.evaluation.settings import Settings
from ps_jax.search.detector import Detector, Found

COLOURS = np.array(
    [[220, 30, 40], [40, 200, 60], [40, 70, 230], [230, 210, 40], [150, 40, 190], [60, 60, 60]]
)
BACKGROUND = 150
SIZE = (120, 200)  # height, width


def draw_scene(people: dict[int, float], size=SIZE) -> np.ndarray:
    """u8[height, width, 3]: person number -> x of the left border; everybody is 20 wide and 60 high."""
    image = np.full((*size, 3), BACKGROUND, np.uint8)
    for number, left in people.items():
        image[30:90, int(left) : int(left) + 20] = COLOURS[number]
    return image


def save(image: np.ndarray, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def make_folder(folder: Path, count: int = 12) -> dict[str, dict[int, float]]:
    """Pictures 00.png .. with two or three people each; path -> who is where."""
    shown = {}
    for number in range(count):
        people = {number % 6: 10.0 + number, (number + 1) % 6: 80.0}
        if number % 3 == 0:
            people[(number + 3) % 6] = 150.0
        path = save(draw_scene(people), folder / f"{number:02d}.png")
        shown[str(path.absolute())] = people
    return shown


def make_video(path: Path, frames: int = 50, rate: float = 10.0, kind: str = "mp4v") -> Path:
    """A walk: person 0 goes right, person 2 stands."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    size = (SIZE[1], SIZE[0])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*kind), rate, size)
    assert writer.isOpened()
    for number in range(frames):
        image = draw_scene({0: 5.0 + number, 2: 160.0})
        writer.write(np.ascontiguousarray(image[:, :, ::-1]))
    writer.release()
    return path


class ColourDetector(Detector):
    """Finds the drawn people exactly; their embedding is the colour they have, less the background's.

    Attributes:
      seen: how many pictures it was shown.
    """

    def __init__(self, **about: Any):
        self.settings = Settings()
        self.about = {
            "system": "colour",
            "fingerprint": "c0ffee",
            "similarity": "cosine",
            "width": 4,
            **about,
        }
        self.seen = 0

    def look(self, pictures):
        self.seen += len(pictures)
        return [self._detect(np.asarray(picture)) for picture in pictures]

    def _detect(self, picture: np.ndarray) -> Found:
        row = picture[60].astype(int)
        nearest = np.abs(row[:, None] - COLOURS[None]).sum(-1)
        number = np.where(nearest.min(1) < 60, nearest.argmin(1), -1)
        boxes, embeddings = [], []
        for person in range(len(COLOURS)):
            columns = np.flatnonzero(number == person)
            if len(columns) >= 10:
                boxes.append((columns[0], 30, columns[-1] + 1, 90))
                embeddings.append(self._colour(picture, boxes[-1]))
        count = len(boxes)
        score = (0.95 - 0.05 * np.arange(count)).astype(np.float32)
        return Found(
            np.array(boxes, np.float32).reshape(-1, 4), score, np.array(embeddings, np.float32).reshape(-1, 4)
        )

    @staticmethod
    def _colour(picture: np.ndarray, box: Any) -> list[float]:
        x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
        return [*(picture[y, x].astype(float) - BACKGROUND), 20.0]

    def embed(self, picture, boxes):
        return np.array([self._colour(picture, box) for box in boxes], np.float32).reshape(-1, 4)

    def gallery_features(self, found: Found) -> np.ndarray:
        return self.query_features(found.embedding)

    def query_features(self, embedding: np.ndarray) -> np.ndarray:
        return (embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)).astype(np.float32)
