"""Numbers behind the pictures of AlignPS: sampling points, the plane of embeddings, queries of several systems."""

import io
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation.evaluation_fakes import COLORS, ColorSystem, DrawnSource, draw, make_split, perfect_variables
from PIL import Image

from benchmarks.embedding_map import (
    Embedded,
    choose_people,
    embed_people,
    embedding_picture,
    similarity_table,
    tsne_plane,
)
from benchmarks.query_sheets import check_same_search, most_different, query_sheets
from benchmarks.sampling_points import find_scene, neck_offsets, points_picture, sampling_points
from benchmarks.workloads import fill
from ps_jax.errors import ConfigError, DataError
from ps_jax.evaluation.evaluator import default_search, evaluate
from ps_jax.evaluation.protocols import search_task
from ps_jax.interface import Scenes
from ps_jax.systems import build_system

ALIGNPS = {"num_identities": 3, "trunk": "mobilenet_v2", "width": 32, "queue_size": 4, "freeze_norms": False}


def no_offsets(size=8):
    levels = {"output3": size, "lateral3": size, "lateral4": size // 2, "lateral5": size // 4}
    return {name: np.zeros((side, side, 18)) for name, side in levels.items()}


def test_a_location_sees_nine_places_of_nine_places():
    offsets = no_offsets()
    points = sampling_points(offsets, 3, (4, 2))
    assert points.shape == (81, 2)
    # The first tap's first tap is two cells up and left of the cell whose middle is (20, 36); the last one's last.
    np.testing.assert_array_equal(points[[0, 40, 80]], [[4, 20], [20, 36], [36, 52]])
    # On the map of stride 16, rows 3 to 5 are cells 1, 2 and 2, columns 1 to 3 are 0, 1 and 1.
    points = sampling_points(offsets, 4, (4, 2))
    np.testing.assert_array_equal(points[[0, 40, 80]], [[-8, 8], [24, 40], [40, 56]])
    offsets["output3"][4, 2, :2] = [
        -1.4,
        0.6,
    ]  # the first tap, up and to the right: from cell (3, 1) to (2, 2)
    offsets["lateral3"][2, 2, 8:10] = [0.25, -0.5]  # of the cell it then reads, the middle tap
    points = sampling_points(offsets, 3, (4, 2))
    np.testing.assert_allclose(points[4], [(2 - 0.5 + 0.5) * 8, (2 + 0.25 + 0.5) * 8])


@pytest.mark.slow
def test_offsets_are_those_of_the_neck():
    system = build_system("alignps", ALIGNPS)
    variables = jax.tree.map(jnp.asarray, fill(system.template))
    for number, name in enumerate(("output3", "lateral3", "lateral4", "lateral5")):
        offset = variables["params"]["neck"][name]["offset"]
        offset["kernel"] = jnp.zeros_like(offset["kernel"])
        offset["bias"] = jnp.arange(18.0) + 100 * number
    scenes = Scenes(np.zeros((1, 64, 96, 3), np.uint8), np.array([[64, 96]]))
    offsets = neck_offsets(system, variables, scenes)
    sizes = {"output3": (8, 12), "lateral3": (8, 12), "lateral4": (4, 6), "lateral5": (2, 3)}
    for number, (name, size) in enumerate(sizes.items()):
        expected = np.broadcast_to(np.arange(18) + 100.0 * number, (*size, 18))
        np.testing.assert_array_equal(offsets[name], expected)
    picture = points_picture(np.zeros((64, 96, 3), np.uint8), np.array([[8.0, 8, 40, 56]]), offsets, (3, 4))
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ConfigError, match="needs an AlignPS with deformable lateral and output"):
        neck_offsets(system.changed(output_deformable=False), variables, scenes)


def test_scenes_are_found_by_name_or_by_their_crowd():
    split = make_split()
    source = DrawnSource(split)
    assert int(find_scene(source, split, "scene3.png").index[0]) == 3
    assert int(find_scene(source, split, None).index[0]) == 0  # all show three people
    with pytest.raises(DataError, match=r"no scene named 'scene9\.png'"):
        find_scene(source, split, "scene9.png")


def test_every_box_of_the_chosen_people_is_embedded_by_branch():
    split = make_split(scenes=8, people=4)
    people = choose_people(split, 2, seed=3)
    assert len(people) == len(set(people)) == 2 and set(people) <= set(range(4))
    assert choose_people(split, 9, seed=3)[:2] == people and sorted(choose_people(split, 9, 0)) == [
        0,
        1,
        2,
        3,
    ]

    class WithPeople(DrawnSource):
        def scene_batches(self, partition, batch_size=1):
            for batch in super().scene_batches(partition, batch_size):
                scene = split.scenes[int(batch.index[0])]
                slots = len(scene.people)
                batch.people.box[0, :slots] = scene.boxes * 0.5
                identity, valid = batch.people.identity.copy() - 1, batch.people.valid.copy()
                identity[0, :slots], valid[0, :slots] = scene.identities, True
                yield batch._replace(people=batch.people._replace(identity=identity, valid=valid))

    embedded = embed_people(ColorSystem(), {}, WithPeople(split).scene_batches("test"), split, people)
    assert embedded.embedding.shape == (12, 1, 3)  # each is in six of eight scenes
    for identity, row in zip(embedded.identity, embedded.embedding[:, 0], strict=True):
        color = COLORS[identity] - 120.0
        np.testing.assert_allclose(row, color / np.linalg.norm(color), atol=1e-6)
    assert embedding_picture(embedded)[:8] == b"\x89PNG\r\n\x1a\n"


def test_people_lie_together_in_the_plane_and_few_points_are_refused():
    rng = np.random.default_rng(0)
    people = rng.normal(size=(5, 1, 1, 16))
    near = (people + 0.1 * rng.normal(size=(5, 4, 2, 16))).reshape(40, 16)
    plane = tsne_plane(near, 10.0)
    assert plane.shape == (40, 2)
    np.testing.assert_array_equal(tsne_plane(near, 10.0), plane)
    distance = np.linalg.norm(plane[:, None] - plane, axis=-1) + np.diag(np.full(40, np.inf))
    np.testing.assert_array_equal(distance.argmin(1) // 8, np.arange(40) // 8)
    with pytest.raises(
        DataError, match="there are 2 embeddings to lay out, 4 are needed; choose more people"
    ):
        embedding_picture(Embedded(np.array([7]), np.eye(2)[None]))


def test_cosines_by_branch():
    up, right = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    embedded = Embedded(
        np.array([7, 7, 8]), np.array([[up, right], [up, right], [right, (up + right) / 2**0.5]])
    )
    assert similarity_table(embedded).splitlines()[2:] == [
        "| branch 1 | 1.000 | 0.000 |",
        "| branch 1 with branch 2 | 0.000 | 0.854 |",  # 1 with 0.707 either way, from 7 to 8 and back
        "| branch 2 | 1.000 | 0.707 |",
    ]


def test_sheets_show_the_queries_that_systems_differ_on(tmp_path):
    split = make_split(folder=str(tmp_path))
    for number, scene in enumerate(split.scenes):
        Image.fromarray(draw(scene, number, 1.0)).save(scene.path)
    good, bad = perfect_variables(split), perfect_variables(split)
    bad["box"][1:, 0] = bad["box"][1:, 1]  # the first of every scene but one is found at the second's place
    searches = {}
    for name, variables in (("good", good), ("bad", bad)):
        _, task, searches[name] = default_search(ColorSystem(), variables, DrawnSource(split), {})
        results = evaluate(ColorSystem(), variables, DrawnSource(split), {"pictures": 0}, None)
        assert searches[name].mean_average_precision == results["search"]["rule"]["mAP"]
    losses = searches["good"].average_precisions - searches["bad"].average_precisions
    assert losses.max() > 0 and most_different(searches, 4)[0] == int(np.argmax(losses))
    shown = most_different(searches, 2)
    (sheet,) = query_sheets(DrawnSource(split), split, task, searches, shown, answers=2)
    with Image.open(io.BytesIO(sheet)) as picture:
        # A query's tile, then two blocks of two tiles; two rows under the names.
        assert picture.size == (150 + 2 * (2 * 130 + 20), 30 + 2 * (30 + 216 + 36 + 10) + 10)
    with pytest.raises(ConfigError, match=r"no query 10; the task has 1 \.\. 4"):
        query_sheets(DrawnSource(split), split, task, searches, [9], answers=1)


def test_systems_that_searched_in_other_galleries_are_not_set_beside_each_other():
    split = make_split()
    task = search_task(split, "rule")
    check_same_search(task, search_task(split, "rule"), "b", "a")
    others = (search_task(split, "rule", cross_camera=True), search_task(split, "rule", min_frame_gap=45))
    for other in (*others, replace(task, name="TestG100")):
        with pytest.raises(ConfigError, match=r"b: its gallery is .*, that of a is rule .*min_frame_gap"):
            check_same_search(other, task, "b", "a")
    with pytest.raises(ConfigError, match="b: its queries are others than those of a"):
        check_same_search(replace(task, queries=task.queries[1:]), task, "b", "a")
