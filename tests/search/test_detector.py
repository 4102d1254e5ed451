"""The detector finds what the evaluation finds, whatever pictures it is given together."""

import jax
import numpy as np
import pytest
from PIL import Image
from systems.tiny_spnet import OPTIONS, batch, tiny  # noqa: F401

from input_pipeline.batches import scene_batches
from input_pipeline.scenes import Person, Query, Scene, Split
from ps_jax.errors import CheckpointError, ConfigError
from ps_jax.evaluation.inference import CompiledSystem, run_object_centric
from ps_jax.search.detector import Detector, fingerprint, load_detector
from ps_jax.training.packages import write_package

RESIZE = (96, 160)
CONFIG = {
    "eval": {"score_threshold": 0.0, "model": {"nms_threshold": 0.4}},
    "data": {"resize": RESIZE},
    "precision": "auto",
}
SIZES = [(120, 160), (60, 90), (120, 160), (150, 100)]


@pytest.fixture
def system(tiny):  # noqa: F811
    return tiny()


@pytest.fixture
def variables(system):
    return jax.device_get(system.init(jax.random.key(0), *batch()))


@pytest.fixture
def pictures():
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


class FolderSource:
    def __init__(self, split):
        self._split = split

    def scene_batches(self, partition, batch_size=1):
        return scene_batches(self._split, RESIZE, batch_size)


@pytest.mark.slow
def test_agrees_with_the_evaluation(system, variables, pictures, tmp_path):
    boxes = [(10.0, 20.0, 50.0, 80.0)] * len(pictures)
    scenes = []
    for number, (picture, box) in enumerate(zip(pictures, boxes, strict=True)):
        path = tmp_path / f"{number}.png"
        Image.fromarray(picture).save(path)
        scenes.append(Scene(path.name, str(path), *picture.shape[:2], people=(Person(box, number),)))
    split = Split("drawn", "test", tuple(scenes))
    queries = [Query(scene.name, box, n) for n, (scene, box) in enumerate(zip(scenes, boxes, strict=True))]
    changed = system.changed(score_threshold=0.0, nms_threshold=0.4)
    findings = run_object_centric(
        CompiledSystem(changed, variables),
        FolderSource(split),
        split,
        queries,
        query_rule="box",
        true_boxes=False,
    )
    detector = Detector(system, variables, CONFIG, batch_size=3)
    found = detector.detect(pictures)
    for number, (one, picture) in enumerate(zip(found, pictures, strict=True)):
        rows = findings.detections.rows(number)
        assert len(one.score) == rows.stop - rows.start > 5
        np.testing.assert_allclose(one.box, findings.detections.box[rows], atol=2e-3)
        np.testing.assert_allclose(one.score, findings.detections.score[rows], atol=1e-5)
        np.testing.assert_allclose(one.embedding, findings.detections.embedding[rows], rtol=1e-3, atol=1e-4)
        embedding = detector.embed(picture, np.array([boxes[number]] * 40))
        np.testing.assert_allclose(embedding[0], findings.queries[number], rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(embedding[0], embedding[39])  # of the second chunk
    assert detector.embed(pictures[0], np.zeros((0, 4))).shape == (0, OPTIONS["reid_dim"])


def test_identity_is_that_of_the_model(system, variables, tmp_path):
    detector = Detector(system, variables, CONFIG)
    assert detector.about["width"] == OPTIONS["reid_dim"] and detector.about["system"] == "spnet"
    assert Detector(system, variables, CONFIG, batch_size=2).about == detector.about
    assert Detector(system, variables, CONFIG, stride=64).about != detector.about
    other = jax.tree.map(np.copy, variables)
    leaf = jax.tree.leaves(other["params"])[0]
    leaf.flat[0] += 1
    assert fingerprint(other) != fingerprint(variables)
    assert fingerprint(variables | {"memory": {}}) == fingerprint(variables)
    config = CONFIG | {"seed": 0}
    meta = {
        "system": "spnet",
        "model": OPTIONS,
        "config": config,
        "phase": "finetune",
        "step": 3,
        "leaves": {},
    }
    write_package(tmp_path / "package", variables, meta, {}, "CC0-1.0", {})
    assert load_detector(tmp_path / "package").about == detector.about


def test_numbers_that_are_not_finite_and_impossible_options_are_refused(system, variables, pictures):
    broken = variables | {
        "params": jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), variables["params"])
    }
    with pytest.raises(CheckpointError, match="not finite"):
        Detector(system, broken, CONFIG).embed(pictures[1], np.array([[1.0, 1.0, 40.0, 50.0]]))
    for options in ({"batch_size": 0}, {"stride": 40}):
        with pytest.raises(ConfigError, match="multiple of 32"):
            Detector(system, variables, CONFIG, **options)
