"""The whole evaluation of a system without weights on drawn scenes."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_fakes import ColorSystem, DrawnSource, draw, make_split, perfect_variables, person_box
from PIL import Image

from input_pipeline.scenes import Gallery, GalleryItem, Query
from ps_jax.errors import CheckpointError, ConfigError, DataError
from ps_jax.evaluation import Settings, check_evaluation, evaluate
from ps_jax.evaluation.evaluator import _model_settings
from ps_jax.evaluation.inference import BoxRequests, CompiledSystem, SideBySide, run_object_centric
from ps_jax.systems import build_system

QUICK = {"pictures": 0}


def run(split, config=None, variables=None, source=None, out_dir=None, **more):
    source = source or DrawnSource(split)
    variables = perfect_variables(split) if variables is None else variables
    return evaluate(ColorSystem(), variables, source, QUICK | (config or {}), out_dir, **more)


def numbers(results):
    return {kind: results[kind] for kind in ("search", "search_true_boxes", "detection") if kind in results}


def test_a_perfect_system():
    split = make_split()
    results = run(split)
    rule = results["search"]["rule"]
    assert (rule["mAP"], rule["top1"], rule["top10"]) == (1.0, 1.0, 1.0)
    assert results["search_true_boxes"]["rule"]["mAP"] == 1.0
    detection = results["detection"]
    assert (detection["recall"], detection["AP"], detection["people"]) == (1.0, 1.0, 18)
    assert (detection["labelled_recall"], detection["labelled_AP"]) == (1.0, 1.0)
    assert (rule["queries"], rule["scenes"]) == (4, 5.0)
    assert "answerable" not in rule


def test_boxes_come_back_in_original_pixels():
    split = make_split()
    queries = split.galleries["rule"].queries
    compiled = CompiledSystem(ColorSystem(), perfect_variables(split))
    findings = run_object_centric(
        compiled, DrawnSource(split), split, queries, query_rule="box", true_boxes=True, batch_size=2
    )
    for position, scene in enumerate(split.scenes):
        rows = findings.detections.rows(position)
        np.testing.assert_allclose(findings.detections.box[rows], scene.boxes, atol=1e-3)
        np.testing.assert_allclose(findings.people.box[findings.people.rows(position)], scene.boxes)
    assert findings.queries.shape == (4, 3)
    # One program for each of the two padded sizes, whatever the number of scenes.
    assert dict(compiled.traces) == {"detect_and_embed": 2}


@pytest.mark.parametrize("mode", ["oc", "qc"])
def test_independent_of_order_and_batch_size(mode):
    split = make_split(scenes=7, people=5)
    variables = perfect_variables(split)
    variables["score"][:, 1] = 0.55  # so that average precisions are not all alike
    variables["box"][2, 0] += 0.03
    variables["score"][4, 0] = 0.2
    config = {"mode": mode, "similarity": "score_cosine", "score_threshold": 0.4, "query_chunk": 2}
    first = numbers(run(split, config, variables))
    assert 0 < first["search"]["rule"]["mAP"] < 1
    for order, batch_size in (([6, 5, 4, 3, 2, 1, 0], 1), ([3, 0, 6, 2, 5, 1, 4], 3)):
        other = run(split, config | {"batch_size": batch_size}, variables, DrawnSource(split, order))
        assert numbers(other) == first


def test_query_centric_search():
    split = make_split()
    results = run(split, {"mode": "qc", "query_chunk": 3})
    assert results["search"]["rule"]["mAP"] == 1.0
    detection = results["detection"]
    # Pairs of a query and another scene that shows its person.
    pairs = sum(
        query.identity in scene.identities and scene.name != query.scene
        for query in split.galleries["rule"].queries
        for scene in split.scenes
    )
    assert (detection["people"], detection["recall"]) == (pairs, 1.0)
    assert "labelled_recall" not in detection


def test_query_centric_programs_and_relevance():
    split = make_split()
    first = split.galleries["rule"].queries[0]
    gallery = Gallery(
        "two", (first,), ((GalleryItem("scene2.png", person_box(2, 0)), GalleryItem("scene4.png")),)
    )
    asked = []

    class Counting(ColorSystem):
        def find(self, variables, scenes, queries, looked):
            asked.append((scenes.image.shape, queries.shape))
            return super().find(variables, scenes, queries, looked)

    split = make_split(two=gallery)
    results = evaluate(
        Counting(),
        perfect_variables(split),
        DrawnSource(split),
        QUICK | {"mode": "qc", "galleries": ("two",)},
        None,
    )
    assert results["search"]["two"]["mAP"] == 1.0
    # Scenes 2 and 4 share a size: traced once, with a full chunk of queries.
    assert asked == [((1, 128, 160, 3), (16, 3))]


def test_a_search_looks_for_the_embeddings_of_queries_and_compares_the_others():
    class Separate(ColorSystem):
        """Looks for queries twice as long as the embeddings it compares, and of the colours turned round."""

        def embed_queries(self, variables, scenes, boxes):
            color = self.embed(variables, scenes, boxes)
            return jnp.concatenate([color[..., ::-1], color], axis=-1)

        def find(self, variables, scenes, queries, looked):
            return super().find(variables, scenes, queries[:, 2::-1], looked)

    split = make_split()
    options = QUICK | {"mode": "qc", "query_chunk": 3}
    results = evaluate(Separate(), perfect_variables(split), DrawnSource(split), options, None)
    assert numbers(results) == numbers(run(split, {"mode": "qc", "query_chunk": 3}))
    assert results["search"]["rule"]["mAP"] == 1.0


def test_mode_and_threshold_reach_the_system():
    split = make_split()
    system = ColorSystem()
    system.search_mode = "qc"
    options = QUICK | {"score_threshold": 0.3, "detection_threshold": 0.2}
    results = evaluate(system, perfect_variables(split), DrawnSource(split), options, None)
    assert results["settings"]["mode"] == "query-centric"  # as it was trained
    assert system.score_threshold == 0.2
    results = evaluate(system, perfect_variables(split), DrawnSource(split), options | {"mode": "oc"}, None)
    assert results["settings"]["mode"] == "object-centric"


def test_an_evaluation_is_checked_before_the_training():
    source = DrawnSource(make_split())
    check_evaluation(source, QUICK)
    with pytest.raises(ConfigError, match="'TestG50' is unknown; drawn test has rule"):
        check_evaluation(source, QUICK | {"galleries": ("TestG50",)})
    with pytest.raises(ConfigError, match=r"eval\.iuo: there is no such option"):
        check_evaluation(source, QUICK | {"iuo": "fixed"})


def test_a_query_box_nobody_annotated():
    split = make_split()
    box = tuple(value + 3 for value in person_box(0, 1))
    gallery = Gallery("shifted", (Query("scene0.png", box, 1),))
    split = make_split(shifted=gallery)
    results = run(split, {"galleries": ("shifted",)})
    assert results["search"]["shifted"]["mAP"] == 1.0
    requests = BoxRequests(split, gallery.queries, true_boxes=True)
    assert requests.places == [(0, 3)]  # after the three annotated people
    assert requests.chunk == 8
    assert BoxRequests(split, gallery.queries, true_boxes=False).places == [(0, 0)]


def test_query_of_the_best_detection():
    split = make_split()
    x1, y1, x2, y2 = person_box(0, 1)
    beside = (x1 + 20, y1, x2 + 20, y2)  # its middle shows the background, it overlaps person 1
    split = make_split(beside=Gallery("beside", (Query("scene0.png", beside, 1),)))
    at_box = run(split, {"galleries": ("beside",)})["search"]["beside"]
    best = run(split, {"galleries": ("beside",), "query": "best_detection"})["search"]["beside"]
    assert (at_box["top1"], best["top1"], best["mAP"]) == (0.0, 1.0, 1.0)
    nowhere = (x1, 180.0, x2, 199.0)  # overlaps nobody: embedded at the box
    split = make_split(nowhere=Gallery("nowhere", (Query("scene0.png", nowhere, 1),)))
    config = {"galleries": ("nowhere",)}
    assert numbers(run(split, config)) == numbers(run(split, config | {"query": "best_detection"}))


@pytest.mark.parametrize("detector", [False, True])
def test_a_query_may_be_a_detection_below_the_thresholds(detector):
    """The person who fits the box, not a neighbour of a higher score; in the gallery nobody of a low score is found."""
    split = make_split()
    x1, y1, x2, y2 = person_box(0, 1)
    wide = (x1 - 40, y1, x2, y2)  # reaches over most of the gap to the neighbour and a little of that one
    split = make_split(wide=Gallery("wide", (Query("scene0.png", wide, 1),)))
    variables = perfect_variables(split)
    variables["box"][0, 1] = variables["box"][0, 0]  # slots of scene 0: persons 1, 2, 3
    variables["box"][0, 1, [0, 2]] -= 62 / split.scenes[0].width  # a neighbour on the left
    variables["score"][0, 0] = 0.12
    options = {"galleries": ("wide",), "query": "best_detection", "true_boxes": False}
    more = {"detector": (ColorSystem(), variables)} if detector else {}
    results = run(split, options, perfect_variables(split) if detector else variables, **more)
    assert results["search"]["wide"]["mAP"] == 1.0
    assert results["detection"]["recall"] == pytest.approx(16 / 18)  # without the two of scene 0
    nobody = variables | {"score": np.where(variables["score"] > 0, np.float32(0.12), 0)}
    more = {"detector": (ColorSystem(), nobody)} if detector else {}
    results = run(split, options, perfect_variables(split) if detector else nobody, **more)
    assert results["search"]["wide"]["mAP"] == 0.0 and results["detection"]["detections"] == 0


def test_more_boxes_than_a_chunk_holds():
    split = make_split(scenes=2, people=40)
    source = DrawnSource(split)
    queries = split.galleries["rule"].queries
    compiled = CompiledSystem(ColorSystem(), perfect_variables(make_split(scenes=2)))
    findings = run_object_centric(compiled, source, split, queries, query_rule="box", true_boxes=True)
    assert len(findings.people.score) == 78
    assert dict(compiled.traces) == {"detect_and_embed": 2, "embed": 2}


def test_nothing_detected_is_zero():
    split = make_split()
    variables = perfect_variables(split)
    variables["score"][:] = 0
    for mode in ("oc", "qc"):
        results = run(split, {"mode": mode}, variables)
        search, detection = results["search"]["rule"], results["detection"]
        assert (search["mAP"], search["top1"], search["top5"], search["top10"]) == (0, 0, 0, 0)
        assert (detection["recall"], detection["AP"], detection["detections"]) == (0, 0, 0)
        assert results["search_true_boxes"]["rule"]["mAP"] == 1.0


def test_thresholds_cut_detections():
    split = make_split()
    results = run(split, {"detection_threshold": 0.895})  # scores 0.9, 0.89, 0.88 in each scene
    assert results["detection"]["recall"] == pytest.approx(1 / 3)
    assert results["search"]["rule"]["mAP"] == 1.0
    results = run(split, {"score_threshold": 0.895})
    assert results["detection"]["recall"] == 1.0
    assert results["search"]["rule"]["mAP"] < 0.5


def test_context_matching_is_reported_beside():
    split = make_split()
    results = run(split, {"cbgm": {"k1": 3, "k2": 2}})
    assert results["search"]["rule"]["mAP"] == 1.0
    assert 0 < results["search_cbgm"]["rule"]["mAP"] <= 1
    assert results["settings"]["cbgm"] == "k1=3 k2=2 candidates=detections"
    assert run(split, {"cbgm": {"k1": 0, "k2": 0}})["settings"]["cbgm"] == "off"


def test_results_state_the_protocol(capsys, tmp_path):
    split = make_split()
    config = {"min_frame_gap": 45, "cross_camera": True, "true_boxes": False}
    results = run(split, config, out_dir=tmp_path, provenance={"checkpoint_step": 700, "config": "ab12"})
    assert results["settings"] == {
        "mode": "object-centric",
        "similarity": "cosine",
        "branches": 1,
        "query": "box",
        "score_threshold": 0.5,
        "detection_threshold": 0.5,
        "iou": "variable",
        "cross_camera": True,
        "min_frame_gap": 45,
        "cbgm": "off",
        "shift": 0.0,
    }
    assert results["versions"]["checkpoint_step"] == 700
    assert {"ps_jax", "jax", "numpy"} <= results["versions"].keys()
    rule = "every scene but the query's own, other cameras only, "
    rule += "none closer than 45 frames in the query's recording"
    assert results["search"]["rule"]["gallery"] == rule
    assert "search_true_boxes" not in results
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]  # no pictures, nothing left over
    printed = capsys.readouterr().out
    for text in (
        "mAP",
        "100.00",
        rule,
        "min_frame_gap 45",
        "checkpoint_step 700",
        "recall 100.00, AP 100.00",
    ):
        assert text in printed


def test_queries_with_nobody_to_find():
    split = make_split(scenes=4, people=4)
    alone = Gallery("alone", split.galleries["rule"].queries, ((),) * 3 + ((GalleryItem("scene1.png"),),))
    results = run(make_split(scenes=4, people=4, alone=alone), {"galleries": ("all",)})
    assert results["search"]["alone"]["mAP"] == 0.0
    assert results["search"]["alone"]["answerable"] == {
        "queries": 0,
        "mAP": 0.0,
        "top1": 0.0,
        "top5": 0.0,
        "top10": 0.0,
    }
    items = list(listed_galleries(split)["TestG4"].items)
    items[0] = tuple(GalleryItem(item.scene) for item in items[0])
    one = Gallery("one", split.galleries["rule"].queries, tuple(items))
    results = run(make_split(scenes=4, people=4, one=one), {"galleries": ("one",)})["search"]["one"]
    assert (results["mAP"], results["top1"]) == (0.75, 0.75)
    assert results["answerable"]["queries"] == 3
    assert (results["answerable"]["mAP"], results["answerable"]["top1"]) == (1.0, 1.0)


def test_settings_errors():
    for config, message in (
        ({"mode": "both"}, "eval.mode: 'both' is unknown; choose one of auto, oc, qc"),
        ({"similarity": "dot"}, "eval.similarity: 'dot' is unknown"),
        ({"query": "crop"}, "eval.query: 'crop' is unknown; choose one of box, best_detection"),
        ({"iou": "none"}, "eval.iou: 'none' is unknown"),
        ({"gallery": "all"}, "eval.gallery: there is no such option"),
        ({"batch_size": 0}, "eval.batch_size: 0 is not a positive number"),
        ({"mode": "qc", "cbgm": {"k1": 10, "k2": 3}}, "eval.cbgm needs detections that do not depend"),
        ({"mode": "qc", "query": "best_detection"}, 'a query-centric search takes queries at their "box"'),
        ({"cbgm": {"k1": 10, "k2": 0}}, "k1 = 10 and k2 = 0 must both be at least 1"),
    ):
        with pytest.raises(ConfigError) as error:
            Settings.of(config)
        assert message in str(error.value)


def test_weights_and_sources_gone_wrong():
    split = make_split()
    variables = perfect_variables(split)
    variables["box"][3, 0, 0] = np.nan
    with pytest.raises(CheckpointError, match=r"scene scene3\.png: the model's numbers are not finite"):
        run(split, variables=variables)
    for order in ([0, 1, 2, 3, 5], [0, 1, 2, 3, 4, 4, 5]):
        with pytest.raises(DataError, match=r"1 scenes, such as scene4\.png, came not once from the source"):
            run(split, source=DrawnSource(split, order))

    class ObjectCentric:
        detect, embed = ColorSystem.detect, ColorSystem.embed
        module = None

    with pytest.raises(ConfigError, match=r"eval\.mode: this system has no query-centric search"):
        evaluate(ObjectCentric(), variables, DrawnSource(split), QUICK | {"mode": "qc"}, None)
    with pytest.raises(ConfigError, match="'TestG50' is unknown; drawn test has rule"):
        run(split, {"galleries": ("TestG50",)})


def imperfect(split):
    """Half of the detections misplaced, some people missed."""
    variables = perfect_variables(split)
    variables["box"][::2, 0, ::2] += 0.2
    variables["score"][1, 1] = 0.0
    return variables


def check_picture(path, minimum_colors=30):
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.std() > 10, "the picture is blank"
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > minimum_colors
    return pixels


def listed_galleries(split):
    """Galleries of two and four scenes from the rule gallery's queries."""
    queries = split.galleries["rule"].queries
    galleries = {}
    for size in (2, 4):
        items = []
        for query in queries:
            others = [scene for scene in split.scenes if scene.name != query.scene][:size]
            boxes = (
                {person.identity: person.box for person in scene.people}.get(query.identity)
                for scene in others
            )
            items.append(tuple(GalleryItem(s.name, box) for s, box in zip(others, boxes, strict=True)))
        galleries[f"TestG{size}"] = Gallery(f"TestG{size}", queries, tuple(items))
    return galleries


def test_report_with_pictures(tmp_path):
    split = make_split()
    galleries = listed_galleries(split)
    queries, items = galleries["TestG2"].queries, galleries["TestG2"].items
    galleries["Occlusion"] = Gallery("Occlusion", queries[:1], items[:1])
    split = make_split(**galleries)
    variables = imperfect(split)
    results = run(split, {"pictures": 4, "galleries": ("all",)}, variables, out_dir=tmp_path)
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {"precision_recall.png", "gallery_size.png", "rule_01.png"}  # of the default gallery
    assert results["sizes"] == ["TestG2", "TestG4", "rule"]  # not the one with other queries
    page = (tmp_path / "index.html").read_text()
    for name in names:
        check_picture(tmp_path / "pictures" / name)
        assert f'src="pictures/{name}"' in page
    assert f"{100 * results['search']['TestG2']['mAP']:.2f}" in page
    sheet = check_picture(tmp_path / "pictures" / "rule_01.png")
    for color in ((24, 140, 66), (200, 40, 40), (38, 84, 160)):  # right, wrong and query frames
        assert (sheet == color).all(-1).sum() > 500


def test_pictures_are_cut_from_the_files_where_there_are_any(tmp_path):
    split = make_split(folder=str(tmp_path / "scenes"))
    (tmp_path / "scenes").mkdir()
    for number, scene in enumerate(split.scenes):
        Image.fromarray(draw(scene, number, 1.0)).save(scene.path)

    class WithoutSecondPass(DrawnSource):
        passes = 0

        def scene_batches(self, *args, **kwargs):
            self.passes += 1
            return super().scene_batches(*args, **kwargs)

    source = WithoutSecondPass(split)
    run(split, {"pictures": 2}, imperfect(split), source, tmp_path / "out")
    assert source.passes == 1
    check_picture(tmp_path / "out" / "pictures" / "rule_01.png")
    assert not (tmp_path / "out" / "pictures" / "gallery_size.png").exists()


def test_pictures_without_any_detection(tmp_path):
    split = make_split()
    variables = perfect_variables(split)
    variables["score"][:] = 0
    run(split, {"pictures": 2}, variables, out_dir=tmp_path)
    check_picture(tmp_path / "pictures" / "rule_01.png")
    assert "<td>0.00</td>" in (tmp_path / "index.html").read_text()


def test_options_of_the_model_that_change_what_it_finds_stand_in_the_result():
    system = build_system("spnet", {"num_identities": 3, "nms_threshold": 0.4, "dtype": jnp.bfloat16})
    assert _model_settings(system) == {
        "nms_threshold": 0.4,
        "detections_per_scene": 300,
        "top_anchors": 1000,
        "query_top_anchors": 100,
        "precision": "bfloat16",
    }


def test_options_of_the_model_hold_for_testing_alone():
    split = make_split()
    moved = run(split, {"model": {"shift": 30.0}})
    assert moved["settings"]["shift"] == 30.0 and moved["detection"]["recall"] < 0.5
    assert run(split, {"model": {"shift": None}})["detection"]["recall"] == 1.0  # none: as the model has it
    with pytest.raises(
        ConfigError, match=r"eval.model.width: color has no such option for testing; there are shift"
    ):
        run(split, {"model": {"width": 3}})


def test_another_systems_detections_are_embedded_in_place_of_ones_own():
    """The re-identifier alone finds everybody; where the detector misses or misplaces, it does, too."""
    split = make_split(scenes=7, people=5)
    variables = perfect_variables(split)
    worse = {**variables, "score": np.array(variables["score"])}
    worse["score"][1:4, 1] = 0.0  # not detected
    worse["score"][:, 0] = 0.6
    swapped = run(split, detector=(ColorSystem(), worse))
    alone = run(split, variables=worse)
    assert numbers(swapped) == numbers(alone) != numbers(run(split))
    # Embeddings are the first system's: one that embeds nothing finds nobody among the other's boxes.
    blind = ColorSystem()
    blind.embed = lambda variables, scenes, boxes: jnp.ones((*boxes.shape[:2], 3))
    found = evaluate(blind, variables, DrawnSource(split), QUICK, None, detector=(ColorSystem(), variables))
    assert found["detection"]["recall"] == 1.0 and found["search"]["rule"]["mAP"] < 0.7
    with pytest.raises(ConfigError, match="need no query"):
        run(split, {"mode": "qc"}, detector=(ColorSystem(), variables))


def test_embeddings_of_two_systems_lie_side_by_side():
    """Detections are the first one's; each half is of unit length, so one that embeds nothing does not outweigh."""
    split = make_split(scenes=7, people=5)
    variables = perfect_variables(split)
    alone, twice = run(split), run(split, beside=(ColorSystem(), variables))
    assert numbers(twice) == numbers(alone)
    blind = ColorSystem()
    blind.embed = lambda variables, scenes, boxes: jnp.full((*boxes.shape[:2], 2), 1e3)
    assert run(split, beside=(blind, variables))["search"] == alone["search"]
    worse = {
        **variables,
        "score": np.zeros_like(variables["score"]),
    }  # of the second one nobody asks for detections
    assert numbers(run(split, beside=(ColorSystem(), worse))) == numbers(alone)
    first = CompiledSystem(ColorSystem(), variables)
    pair = SideBySide(first, CompiledSystem(blind, variables))
    batch = next(iter(DrawnSource(split).scene_batches("test", batch_size=2)))
    found, embedded = pair("detect_and_embed", batch, first("detect", batch).box)
    assert found.embedding.shape[-1] == embedded.shape[-1] == 3 + 2
    np.testing.assert_allclose(found.embedding[found.valid], embedded[found.valid], atol=1e-6)
    halves = found.embedding[found.valid]
    np.testing.assert_allclose(np.linalg.norm(halves[:, :3], axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(halves[:, 3:], np.sqrt(0.5), rtol=1e-6)
    assert not found.embedding[~found.valid].any()
    with pytest.raises(ConfigError, match="need no query"):
        run(split, {"mode": "qc"}, beside=(ColorSystem(), variables))
