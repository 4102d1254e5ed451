"""A drawn data set and a system without weights, for tests of the evaluator.

People are filled rectangles; a person's colour is the same in all scenes. The system "detects" the boxes
given to it for each scene, knows a scene by its first pixel, and embeds a box by the colour in its middle.
"""

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.scenes import Gallery, Person, Query, Scene, Split
from ps_jax.interface import Batch, Detections, People, Scenes

COLORS = np.array([[220, 30, 40], [40, 200, 60], [40, 70, 230], [230, 210, 40], [150, 40, 190], [60, 60, 60]])
SIZES = [(200, 320), (240, 180)]  # original sizes (height, width); resized to half of it
SLOTS = 6


def person_box(scene: int, person: int, count: int = 4) -> tuple[float, float, float, float]:
    """Where a person stands: next to each other, a little lower and larger from scene to scene."""
    height, width = SIZES[scene % len(SIZES)]
    step = width // (count + 1)
    left, top = step // 2 + person * step, height // 5 + 2 * (scene % 5)
    return (left, top, left + 24.0 + scene % 3, top + 80.0)


def make_split(scenes: int = 6, people: int = 4, folder: str = "", **galleries) -> Split:
    """Scene s shows all people but number s % people; queries are the first boxes of each person."""
    records = []
    for s in range(scenes):
        shown = tuple(Person(person_box(s, p), p) for p in range(people) if p != s % people)
        height, width = SIZES[s % len(SIZES)]
        path = f"{folder}/scene{s}.png" if folder else f"absent/scene{s}.png"
        records.append(
            Scene(
                f"scene{s}.png", path, height, width, shown, camera=s % 2, sequence=f"r{s % 3}", frame=40 * s
            )
        )
    queries = []
    for p in range(people):
        s = next(s for s in range(scenes) if s % people != p)
        queries.append(Query(f"scene{s}.png", person_box(s, p), p))
    tasks = {"rule": Gallery("rule", tuple(queries))} | galleries
    return Split("drawn", "test", tuple(records), tasks, next(iter(tasks)))


def draw(scene: Scene, number: int, scale: float) -> np.ndarray:
    """u8[height, width, 3]; the first pixel holds the scene's number."""
    size = int(scene.height * scale), int(scene.width * scale)
    image = np.full((*size, 3), 150, np.uint8)
    image[::8] = 135
    for person in scene.people:
        x1, y1, x2, y2 = (round(value * scale) for value in person.box)
        image[y1:y2, x1:x2] = COLORS[person.identity % len(COLORS)]
        image[y1 : y1 + max(1, (y2 - y1) // 6), x1:x2] = (230, 190, 160)
    image[0, 0] = number
    return image


class DrawnSource:
    """Yields the scenes at half their size, in any order and batch size, with fillers."""

    def __init__(self, split: Split, order=None, scale: float = 0.5):
        self._split, self._scale = split, scale
        self.order = list(order) if order is not None else list(range(len(split.scenes)))

    def split(self, partition: str) -> Split:
        assert partition == self._split.partition
        return self._split

    def scene_batches(self, partition: str, batch_size: int = 1):
        assert partition == self._split.partition

        def padded(number):
            scene = self._split.scenes[number]
            return tuple(-(-int(side * self._scale) // 32) * 32 for side in (scene.height, scene.width))

        for size in sorted({padded(number) for number in self.order}):
            numbers = [number for number in self.order if padded(number) == size]
            for first in range(0, len(numbers), batch_size):
                group = numbers[first : first + batch_size]
                image = np.zeros((batch_size, *size, 3), np.uint8)
                sizes = np.ones((batch_size, 2), np.int32)
                index = np.full(batch_size, -1, np.int32)
                for row, number in enumerate(group):
                    drawn = draw(self._split.scenes[number], number, self._scale)
                    image[row, : drawn.shape[0], : drawn.shape[1]] = drawn
                    sizes[row], index[row] = drawn.shape[:2], number
                nobody = np.zeros((batch_size, 8), np.int32)
                people = People(np.zeros((batch_size, 8, 4), np.float32), nobody, nobody, nobody > 0)
                yield Batch(Scenes(image, sizes), people, index)


class ColorSystem:
    """Knows where everybody is, from its variables, and what they look like, from the picture.

    Attributes:
      name, search_mode, test_options: as of a system; "shift" moves all boxes to the right.
      score_threshold: detections of lower scores are not found.
    """

    name = "color"
    search_mode = "oc"
    test_options = ("shift",)
    embeds_given_boxes = True
    branches = 1
    score_threshold = 0.0
    shift = 0.0

    def changed(self, **options):
        for name, value in options.items():
            setattr(self, name, value)
        return self

    @property
    def module(self):
        return self

    def detect(self, variables, scenes):
        number = jnp.asarray(scenes.image)[:, 0, 0, 0].astype(jnp.int32)
        height, width = scenes.size[:, :1], scenes.size[:, 1:]
        unit = jnp.concatenate([width, height, width, height], axis=1).astype(jnp.float32)
        box = variables["box"][number] * unit[:, None] + self.shift * jnp.array([1.0, 0.0, 1.0, 0.0])
        score = variables["score"][number]
        return Detections(box, score, self.embed(variables, scenes, box), score > self.score_threshold)

    def embed(self, variables, scenes, boxes):
        image = jnp.asarray(scenes.image).astype(jnp.float32)
        x = ((boxes[..., 0] + boxes[..., 2]) / 2).astype(jnp.int32)
        y = ((boxes[..., 1] + boxes[..., 3]) / 2).astype(jnp.int32)
        color = jax.vmap(lambda scene, y, x: scene[y, x])(image, y, x)
        return color - 120.0

    def embed_queries(self, variables, scenes, boxes):
        return self.embed(variables, scenes, boxes)

    def look(self, variables, scenes):
        return self.detect(variables, scenes)

    def find(self, variables, scenes, queries, found):
        length = jnp.linalg.norm(queries, axis=-1) + 1e-6
        cosine = jnp.einsum("bkd,qd->bqk", found.embedding, queries) / length[:, None]
        cosine = cosine / (jnp.linalg.norm(found.embedding, axis=-1)[:, None] + 1e-6)
        order = jnp.argsort(-cosine, axis=-1)

        def take(field):
            return jax.vmap(lambda rows, ranks: rows[ranks])(field, order)

        valid = take(found.valid) & (jnp.take_along_axis(cosine, order, -1) > 0)
        score = 0.5 + 0.5 * jnp.take_along_axis(cosine, order, -1)
        return Detections(take(found.box), score, take(found.embedding), valid)


def perfect_variables(split: Split, score: float = 0.9) -> dict:
    """Detections at all annotated boxes; their scores fall slightly from slot to slot."""
    box = np.zeros((len(split.scenes), SLOTS, 4), np.float32)
    scores = np.zeros((len(split.scenes), SLOTS), np.float32)
    for number, scene in enumerate(split.scenes):
        count = len(scene.people)
        unit = np.array([scene.width, scene.height] * 2, np.float32)
        box[number, :count] = scene.boxes / unit
        scores[number, :count] = score - 0.01 * np.arange(count)
    return {"box": box, "score": scores}
