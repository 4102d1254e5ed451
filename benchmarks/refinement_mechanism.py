"""RDLR's mechanism, by an effect that is large by design: can a re-identification network mend a detector's boxes?

    python -m benchmarks.refinement_mechanism [--dir data/mechanism] [--weights mobilenet_v2.npz] [--out boxes.png]

A detector is trained on boxes that are moved by 15 % of their size to the right and down, a re-identification network
on crops of the true boxes. Then the one layer of the detector that moves boxes is trained on by the softmax loss of
re-identification alone, by its proxy triplet loss alone and by both. Scores do not change, so that boxes can only get
better by gradients that pass through the crop. The batches have the true boxes, which are among the sampled ones and
say whose each is. The last rows are for all layers of the second stage: classification alone, whose labels are the true
boxes, and the refinement as RDLR has it, both losses and classification. Printed for scenes that were not trained on:
how much the detections overlap the true boxes, and the losses of re-identification on them, before and after, beside
those of the true boxes. Some minutes on two CPU cores.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from benchmarks.box_pictures import draw_boxes
from benchmarks.refined_boxes import best_boxes
from input_pipeline import open_source, prefetch_to_devices
from input_pipeline.streets import StreetsOptions
from ps_jax.evaluation.report import write_atomically
from ps_jax.interface import Batch, People, Scenes
from ps_jax.losses import ProxyTable, empty_proxies, proxy_triplet_loss, write_proxies
from ps_jax.markdown import markdown_table
from ps_jax.systems import RDLRSystem, System
from ps_jax.training.optimizers import learning_rate_schedule, make_optimizer
from ps_jax.training.state import TrainState
from ps_jax.training.step import AXIS_NAME, make_train_step, on_one_device, replicate

SHIFT = 0.15  # of a box's width and height
STREETS = StreetsOptions(
    height=96,
    width=128,
    train_scenes=200,
    test_scenes=10,
    train_identities=12,
    test_identities=4,
    cameras=3,
    people=(2, 3),
    unknown_fraction=0.0,
    gallery_sizes=(4,),
)
HELD_OUT = 5  # every so many-th batch is not trained on
BATCH = 4
DETECTOR: dict[str, Any] = {
    "trunk": "mobilenet_v2",
    "frozen_stages": -1,
    "freeze_norms": False,
    "width": 32,
    "head_width": 64,
    "anchor_sizes": (12.0, 20.0, 32.0, 48.0, 64.0),
    "anchor_ratios": (1.0, 2.0, 3.0),
    "train_proposals": (100, 60),
    "test_proposals": (100, 40),
    "proposal_samples": 64,
    "samples_per_image": 32,
    "positive_fraction": 0.5,
    "box_beta": 1.0,
}
MODEL: dict[str, Any] = {
    "detector_name": "faster_rcnn",
    "reid_trunk": "osnet_x0_25",
    "crop_size": (64, 32),
    "boxes_per_scene": 4,
    "match_iou": 0.3,  # boxes that are moved by 15 % overlap the true ones by 0.57
    "detections_per_scene": 10,
    "score_threshold": 0.3,
}
PADDING = 5  # of crops of 64 x 32; networks trained without mend nothing by the proxy triplet
FOUND = 0.3  # overlap from which a detection is a person's
REID_LOSSES = ("softmax", "proxy_triplet")
ADAM = {"optimizer": "adamw", "weight_decay": 1e-4, "clip_norm": 10.0}


class ReidAlone(RDLRSystem):
    """RDLR with the losses of re-identification alone, by which only the layer that moves boxes is trained."""

    def losses(self, variables, scenes, people, rng):
        """See `System.losses`."""
        terms, changed = super().losses(variables, scenes, people, rng)
        return {name: term for name, term in terms.items() if name in REID_LOSSES}, changed

    def trainable(self, params):
        """See `System.trainable`."""
        everything = traverse_util.flatten_dict(super().trainable(params))
        return traverse_util.unflatten_dict(
            {path: on and "deltas" in path for path, on in everything.items()}
        )


class ClassificationAlone(RDLRSystem):
    """RDLR without the losses of re-identification."""

    def losses(self, variables, scenes, people, rng):
        """See `System.losses`."""
        terms, changed = super().losses(variables, scenes, people, rng)
        return {name: term for name, term in terms.items() if name not in REID_LOSSES}, changed


# System, overrides of the model, learning rate; a whole stage mends less at 1e-3.
VARIANTS: dict[str, tuple[type[RDLRSystem], dict[str, bool], float]] = {
    "softmax": (ReidAlone, {"proxy_triplet": False}, 1e-3),
    "proxy triplet": (ReidAlone, {"softmax": False}, 1e-3),
    "both": (ReidAlone, {}, 1e-3),
    "whole stage: classification alone": (ClassificationAlone, {}, 5e-4),
    "whole stage: both and classification": (RDLRSystem, {}, 5e-4),
}


@dataclasses.dataclass(frozen=True)
class Quality:
    """What detections of held-out scenes are like; true boxes are a perfect detector's.

    Attributes:
      iou: mean overlap with the true box, over the people who are found.
      found: share of the people who are.
      softmax, triplet: mean losses of re-identification on these detections.
    """

    iou: float
    found: float
    softmax: float
    triplet: float


def read_batches(directory: str) -> tuple[list[Batch], list[Batch], int]:
    """Batches that are trained on, batches that are not, and the number of known people."""
    data = ConfigDict(
        {
            "source": "streets",
            "dir": directory,
            "resize": (STREETS.height, STREETS.width),
            "max_people": 8,
            "raw": True,
            "streets": dataclasses.asdict(STREETS),
        }
    )
    source = open_source(data)
    batches = [b for b in source.scene_batches("train", batch_size=BATCH) if np.all(np.asarray(b.index) >= 0)]
    kept = [batch for number, batch in enumerate(batches) if number % HELD_OUT]
    return kept, batches[::HELD_OUT], source.split("train").num_identities


def shifted(batch: Batch) -> Batch:
    """A batch whose boxes are moved by `SHIFT` of their size to the right and down."""
    box = np.asarray(batch.people.box)
    size = box[..., 2:] - box[..., :2]
    return batch._replace(
        people=batch.people._replace(box=box + SHIFT * np.concatenate([size, size], axis=-1))
    )


def crops_of(batches: Sequence[Batch], system: System, padding: int, seed: int) -> Iterator[Batch]:
    """Endless batches of crops of known people's true boxes, mirrored half of the time, moved by up to `padding`."""
    height, width = system.module.crop_size
    cut = jax.jit(
        lambda scenes, box: system.module.apply(
            {},
            scenes,
            box.reshape(-1, 4),
            jnp.repeat(jnp.arange(box.shape[0]), box.shape[1]),
            method="crops",
        )
    )
    crops, identities = [], []
    for batch in batches:
        known = (np.asarray(batch.people.valid) & (np.asarray(batch.people.identity) >= 0)).reshape(-1)
        crops.append(np.asarray(cut(batch.scenes, jnp.asarray(batch.people.box)))[known])
        identities.append(np.asarray(batch.people.identity).reshape(-1)[known])
    crop, identity = np.concatenate(crops), np.concatenate(identities)
    rng = np.random.default_rng(seed)
    people = np.unique(identity)
    whole = np.array([[0, 0, width, height]], np.float32)
    while True:
        drawn = rng.choice(people, 8, replace=False)
        rows = np.concatenate([rng.choice(np.flatnonzero(identity == person), 4) for person in drawn])
        image = np.where(rng.random((len(rows), 1, 1, 1)) < 0.5, crop[rows][:, :, ::-1], crop[rows])
        wide = np.pad(image, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
        first = rng.integers(0, 2 * padding + 1, (len(rows), 2))
        image = np.stack([x[y : y + height, x0 : x0 + width] for x, (y, x0) in zip(wide, first, strict=True)])
        own = identity[rows][:, None]
        slots = People(np.tile(whole, (len(rows), 1, 1)), own, own, np.ones_like(own, bool))
        yield Batch(Scenes(image, np.tile([height, width], (len(rows), 1))), slots, rows)


def train(
    system: System, variables: Any, batches: Iterator[Batch], steps: int, rate: float, settings: dict
) -> dict[str, Any]:
    """Takes variables through optimiser steps, as the trainer does; returns those at the end."""
    params = variables["params"]
    trainable = system.trainable(params)
    schedule = learning_rate_schedule(rate, steps, 10, [round(0.75 * steps)])
    phase = {**settings, "learning_rate": rate}
    optimizer = make_optimizer(phase, lambda _: schedule, system.group(params), trainable)
    in_step = system.changed(axis_name=AXIS_NAME)
    devices = jax.local_devices()[:1]
    step = make_train_step(in_step, optimizer, schedule, trainable, devices)
    state = TrainState(
        step=jnp.zeros((), jnp.int32), opt_state=optimizer.init(params), rng=jax.random.key(1), **variables
    )
    state = replicate(state, devices)
    with prefetch_to_devices(itertools.islice(batches, steps), devices) as prefetched:
        for number, batch in enumerate(prefetched, 1):
            state, metrics = step(state, batch)
            if number % 50 == 0 or number == steps:
                terms = {name: f"{float(value):.3f}" for name, value in metrics.items() if "loss" in name}
                print(number, terms, flush=True)
    return jax.device_get(on_one_device(state.variables))


class Judge:
    """Measures detections, with proxies and classifier of the frozen network."""

    def __init__(self, system: System, variables: Any, batches: Sequence[Batch], held_out: Sequence[Batch]):
        self.system, self.held_out = system, held_out
        self._detect, self._embed = jax.jit(system.detect), jax.jit(system.embed)
        self._kernel = np.asarray(variables["params"]["reid"]["classifier"]["kernel"])
        module = system.module
        table = empty_proxies(module.num_identities, module.proxies, self._kernel.shape[0])
        for batch in batches:
            people = jax.tree.map(jnp.asarray, batch.people)
            embedding = self._embed(variables, batch.scenes, people.box).reshape(-1, self._kernel.shape[0])
            feature = embedding / jnp.linalg.norm(embedding, axis=-1, keepdims=True).clip(1e-12)
            known = (people.valid & (people.identity >= 0)).reshape(-1)
            table = write_proxies(table, feature, jnp.maximum(people.identity, 0).reshape(-1), known)
        self._table: ProxyTable = table

    def boxes(self, variables: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        """Detected boxes and which are, of the held-out batches."""
        found = [jax.device_get(self._detect(variables, batch.scenes)) for batch in self.held_out]
        return [(x.box, x.valid) for x in found]

    def quality(self, variables: Any, boxes: Sequence[tuple[np.ndarray, np.ndarray]]) -> Quality:
        """How good boxes of the held-out scenes are."""
        overlaps, softmax, triplet = [], [], []
        for batch, (box, valid) in zip(self.held_out, boxes, strict=True):
            slots = np.zeros_like(np.asarray(batch.people.box))
            identity = np.full(slots.shape[:2], -1)
            for row in range(len(slots)):
                known = _known(batch, row)
                best, overlap = best_boxes(box[row], valid[row], np.asarray(batch.people.box[row])[known])
                overlaps.append(overlap)
                mine = np.asarray(batch.people.identity[row])[known]
                slots[row, : len(best)], identity[row, : len(best)] = (
                    best,
                    np.where(overlap >= FOUND, mine, -1),
                )
            embedding = np.asarray(self._embed(variables, batch.scenes, jnp.asarray(slots)))[identity >= 0]
            who = identity[identity >= 0]
            logits = jnp.asarray(embedding @ self._kernel)
            softmax.append(-np.asarray(jax.nn.log_softmax(logits))[np.arange(len(who)), who])
            feature = jnp.asarray(embedding / np.linalg.norm(embedding, axis=1, keepdims=True))
            margin = self.system.module.margin
            triplet.append(proxy_triplet_loss(feature, jnp.asarray(who), self._table, margin)[0])
        overlap = np.concatenate(overlaps)
        found = overlap >= FOUND
        return Quality(
            float(overlap[found].mean()),
            float(found.mean()),
            float(np.concatenate(softmax).mean()),
            float(np.concatenate(triplet).mean()),
        )


def main(arguments: Sequence[str] | None = None) -> dict[str, Quality]:
    """The command line; returns the qualities by name."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.refinement_mechanism",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dir", default="data/mechanism", help="where the generated scenes are kept")
    parser.add_argument("--weights", default="", help="ImageNet weights of MobileNetV2 for the detector")
    parser.add_argument("--reid_weights", default="", help="weights of OSNet x0.25")
    parser.add_argument("--steps", type=int, nargs=3, default=(250, 300, 200), help="of the three phases")
    parser.add_argument(
        "--padding", type=int, default=PADDING, help="pixels that training crops are moved by at most"
    )
    parser.add_argument("--out", type=Path, help="picture to write")
    options = parser.parse_args(arguments)
    kept, held_out, people = read_batches(options.dir)
    common = {**MODEL, "num_identities": people}
    detector = RDLRSystem({**common, "stage": "detector", "detector_options": DETECTOR})
    reid = RDLRSystem({**common, "stage": "reid", "detector_options": DETECTOR})
    scenes, annotated = kept[0].scenes, kept[0].people
    variables = detector.init(jax.random.key(0), scenes, annotated)
    variables = _with_weights(detector, variables, options.weights, options.reid_weights)

    moved = itertools.cycle([shifted(batch) for batch in kept])
    variables = train(detector, variables, moved, options.steps[0], 1e-3, ADAM)
    crops = crops_of(kept, reid, options.padding, seed=0)
    variables = train(reid, variables, crops, options.steps[1], 1e-3, ADAM)

    judge = Judge(detector, variables, kept, held_out)
    true = [(np.asarray(batch.people.box), np.asarray(batch.people.valid)) for batch in held_out]
    boxes = {"before": judge.boxes(variables)}
    qualities = {
        "true boxes": judge.quality(variables, true),
        "before": judge.quality(variables, boxes["before"]),
    }
    still = {**DETECTOR, "frozen_stages": 4, "freeze_norms": True}
    for name, (system, losses, rate) in VARIANTS.items():
        refine = system(
            {**common, **losses, "stage": "refine", "freeze_proposals": True, "detector_options": still},
        )
        memory = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), refine.template["memory"])
        print(f"refinement: {name}", flush=True)
        refined = train(
            *(refine, {**variables, "memory": memory}, itertools.cycle(kept), options.steps[2], rate, ADAM)
        )
        after = {**refined, "memory": {}}
        boxes[name] = judge.boxes(after)
        qualities[name] = judge.quality(after, boxes[name])
    rows = [
        [name, f"{q.iou:.3f}", f"{100 * q.found:.1f}", f"{q.softmax:.3f}", f"{q.triplet:.3f}"]
        for name, q in qualities.items()
    ]
    print(markdown_table(["boxes", "mean IoU", "found, %", "softmax loss", "proxy triplet loss"], rows))
    if options.out:
        write_atomically(options.out, draw_boxes(_drawn(held_out, boxes, count=6), columns=3))
    return qualities


def _with_weights(system: RDLRSystem, variables: Any, weights: str, reid_weights: str) -> Any:
    """Variables that start from the files that are named."""
    if weights:
        from ps_jax.porting import load_trunk_weights

        trunk = load_trunk_weights(weights, system.trunk_name, system.trunk(variables))
        variables = system.with_trunk(variables, trunk)
    if reid_weights:
        from ps_jax.porting import load_reid_network

        network = load_reid_network(reid_weights, MODEL["reid_trunk"], system.reid_network(variables))
        variables = system.with_reid_network(variables, network)
    return variables


def _known(batch: Batch, row: int) -> np.ndarray:
    """Which slots of a scene hold known people."""
    return np.asarray(batch.people.valid[row]) & (np.asarray(batch.people.identity[row]) >= 0)


def _drawn(held_out, boxes, count):
    """Scenes with true boxes, and those of the people's best detections before and after."""
    scenes = []
    for batch, *found in zip(held_out, boxes["before"], boxes["both"], strict=True):
        for row in range(len(batch.index)):
            true = np.asarray(batch.people.box[row])[_known(batch, row)]
            kinds = {"true": true}
            for name, (box, valid) in zip(("before", "after"), found, strict=True):
                best, overlap = best_boxes(box[row], valid[row], true)
                kinds[name] = best[overlap >= FOUND]
            scenes.append((np.asarray(batch.scenes.raw[row]), kinds))
    return scenes[:count]


if __name__ == "__main__":
    main()
