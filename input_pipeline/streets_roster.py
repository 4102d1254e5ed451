"""Who is in which generated scene."""

from dataclasses import dataclass

import numpy as np

from input_pipeline.scenes import UNKNOWN
from input_pipeline.streets_looks import FAMILY, Look, person_look

PARTITIONS = ("train", "test")  # their positions seed them: no person of one is in the other


@dataclass(frozen=True)
class ScenePlan:
    """What one scene should show.

    Attributes:
      camera: number of the camera.
      frame: number of the scene among those of its camera and partition.
      identities: identity from 0, or `UNKNOWN`, of each person asked for.
      looks: their looks.
    """

    camera: int
    frame: int
    identities: tuple[int, ...]
    looks: tuple[Look, ...]


def plan_scenes(
    seed: int,
    partition: str,
    scenes: int,
    identities: int,
    cameras: int,
    people: tuple[int, int],
    unknown_fraction: float,
) -> list[ScenePlan]:
    """Plans all scenes of a partition.

    Known people appear about equally often, at most once a scene, and go from camera to camera. Unknown
    people are strangers: nobody meets them twice.
    """
    split = PARTITIONS.index(partition)
    random = np.random.default_rng(np.random.SeedSequence([seed, split, 3]))
    wanted = random.integers(people[0], people[1] + 1, scenes)
    unknown = random.integers(0, 1000, (scenes, people[1])) < round(unknown_fraction * 1000)
    free = wanted - (unknown & (np.arange(people[1]) < wanted[:, None])).sum(1)
    present = _assign(random, free, identities, np.arange(scenes) % cameras)
    looks = [person_look((seed, split), identity) for identity in range(identities)]
    plans = []
    for scene in range(scenes):
        known = [int(identity) for identity in np.flatnonzero(present[:, scene])]
        strangers = [
            person_look((seed, split, 5, scene), FAMILY * slot + slot % FAMILY)
            for slot in range(int(wanted[scene]) - len(known))
        ]
        names = (*known, *[UNKNOWN] * len(strangers))
        looks_here = (*[looks[identity] for identity in known], *strangers)
        order = [int(slot) for slot in random.permutation(len(names))]
        plans.append(
            ScenePlan(
                camera=scene % cameras,
                frame=scene // cameras,
                identities=tuple(names[slot] for slot in order),
                looks=tuple(looks_here[slot] for slot in order),
            )
        )
    return plans


def _assign(random: np.random.Generator, free: np.ndarray, identities: int, camera: np.ndarray) -> np.ndarray:
    """bool[identities, scenes]: who is where, with at most `free` i[scenes] people a scene."""
    free = free.copy()
    present = np.zeros((identities, free.size), bool)
    cameras = int(camera.max()) + 1
    turn, placed = 0, True
    while placed:
        placed = False
        for identity in random.permutation(identities):
            open_scenes = (free > 0) & ~present[identity]
            here = np.flatnonzero(open_scenes & (camera == (identity + turn) % cameras))
            choices = here if here.size else np.flatnonzero(open_scenes)
            if choices.size:
                scene = choices[int(random.integers(choices.size))]
                present[identity, scene] = True
                free[scene] -= 1
                placed = True
        turn += 1
    return present
