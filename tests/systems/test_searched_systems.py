"""Every system is searched with, packed and exported alike."""

import json

import jax
import numpy as np
import pytest
from tiny_spnet import batch

from ps_jax.export.programs import export_programs
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
