"""Every system is searched with, packed and exported alike."""

import json

import jax
import numpy as np
import pytest
from tiny_rdlr import batch as batch_with_originals
from tiny_spnet import batch

from ps_jax.errors import ConfigError
from ps_jax.export.programs import export_programs
from ps_jax.interface import Scenes
from ps_jax.search.detector import Detector
from ps_jax.training.packages import named_leaves

CONFIG = {
    "eval": {"score_threshold": 0.0, "model": {}},
    "data": {"resize": (96, 128)},
    "precision": "float32",
}


@pytest.mark.slow
@pytest.mark.parametrize("build", ["tiny", "tiny_seqnet", "tiny_alignps", "tiny_roi_alignps", "tiny_leaps"])
def test_every_system_is_searched_with_and_exported(build, request):
    system = request.getfixturevalue(build)()
    variables = jax.device_get(system.init(jax.random.key(0), *batch()))
    detector = Detector(system, variables, CONFIG)
    about = json.loads(json.dumps(detector.about))
    assert about == detector.about and about["system"] == system.name
    picture = np.random.default_rng(1).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    found = detector.detect([picture])[0]
    width = about["width"]
    assert len(found.score) > 3 and found.embedding.shape == (len(found.score), width)
    assert detector.gallery_features(found).shape == found.embedding.shape
    own = detector.embed(picture, found.box[:2])
    assert own.shape == (2, width)
    np.testing.assert_allclose(np.linalg.norm(detector.query_features(own), axis=1), 1, atol=1e-5)
    tested = system.changed(score_threshold=0.0)
    programs, takes = export_programs(tested, variables, (96, 128), [(96, 128)])
    assert [one["canvas"] for one in takes] == [[96, 128]]
    program = jax.export.deserialize(bytearray(programs["detect_96x128.stablehlo"]))
    again = program.call(named_leaves(variables), picture[None], np.array([[96, 128]], np.int32))
    kept = np.asarray(again["valid"])[0]
    np.testing.assert_allclose(np.asarray(again["score"])[0][kept], found.score, atol=1e-4)
    np.testing.assert_allclose(np.asarray(again["box"])[0][kept], found.box, atol=1e-2)


@pytest.mark.slow
def test_a_gallery_and_a_program_hold_the_detections_that_are_evaluated(tiny_alignps):
    """AlignPS's threshold looks at the probability, but a detection's score is that times the centerness."""
    system = tiny_alignps()
    variables = jax.device_get(system.init(jax.random.key(0), *batch()))
    picture = np.random.default_rng(1).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    everybody = Detector(system, variables, CONFIG).detect([picture])[0]
    above_all = 1.05 * float(
        everybody.score.max()
    )  # but no probability is that low: centerness is about a half
    high = CONFIG | {"eval": {"score_threshold": above_all, "model": {}}}
    detector = Detector(system, variables, high)
    assert len(detector.look([picture])[0].score) and not len(detector.detect([picture])[0].score)
    least = float(np.median(everybody.score))
    options = {"score_threshold": least, "query": "best_detection", "model": {}}
    detector = Detector(system, variables, CONFIG | {"eval": options})
    looked, found = detector.look([picture])[0], detector.detect([picture])[0]
    np.testing.assert_allclose(looked.score, everybody.score)
    np.testing.assert_array_equal(found.score, looked.score[looked.score >= np.float32(least)])
    assert 0 < len(found.score) < len(looked.score)
    program = export_programs(system, variables, (96, 128), [(96, 128)], least_score=least)[0]
    run = jax.export.deserialize(bytearray(program["detect_96x128.stablehlo"])).call
    again = {
        name: np.asarray(value)[0]
        for name, value in run(
            named_leaves(variables), picture[None], np.array([[96, 128]], np.int32)
        ).items()
    }
    np.testing.assert_array_equal(again["valid"], again["score"] >= np.float32(least))
    np.testing.assert_allclose(again["score"][again["score"] > 0], looked.score, rtol=1e-4)


@pytest.mark.slow
def test_a_system_that_cuts_crops_is_given_the_original_pictures(tiny_rdlr):
    system = tiny_rdlr()
    variables = jax.device_get(system.init(jax.random.key(0), *batch_with_originals()))
    config = CONFIG | {"data": {"resize": (64, 96), "raw": True}}
    detector = Detector(system, variables, config, batch_size=2)
    pictures = [
        np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        for seed, size in enumerate([(96, 128), (128, 160), (96, 128)])
    ]
    both = detector.detect(pictures)
    alone = detector.detect(pictures[2:])[0]
    assert len(alone.score) > 3
    np.testing.assert_array_equal(both[2].box, alone.box)
    np.testing.assert_array_equal(both[2].embedding, alone.embedding)
    box = np.array([[30.0, 20.0, 70.0, 90.0]])
    own = detector.embed(pictures[0], box)
    resized = detector._batch(pictures[:1], [np.array([64, 85])]).scenes
    scenes = Scenes(resized.image[:1], resized.size[:1], pictures[:1], np.array([[96, 128]]))
    resized_box = jax.numpy.asarray(box / np.array([128 / 85, 96 / 64] * 2), np.float32)[None]
    embed = jax.jit(system.embed)
    expected = embed(variables, scenes, resized_box)[0]
    np.testing.assert_allclose(own, expected, atol=1e-5)
    other = scenes._replace(raw=255 - np.asarray(scenes.raw))
    assert np.abs(own - embed(variables, other, resized_box)[0]).max() > 1e-3
    with pytest.raises(ConfigError, match="cuts people out of the pictures before resizing"):
        export_programs(system, variables, (64, 96), [(96, 128)], raw=True)
