import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_spnet import OPTIONS, batch

from ps_jax.errors import ConfigError
from ps_jax.interface import Scenes
from ps_jax.systems import build_system


def test_unknown_names_are_listed_with_the_remedy():
    with pytest.raises(
        ConfigError,
        match=r"no system 'spent'. Choose one of: alignps, leaps, rdlr, roi_alignps, seqnet, spnet",
    ):
        build_system("spent", {})
    with pytest.raises(ConfigError, match=r"no option 'embeding_dim'. Its options: .*embedding_dim"):
        build_system("spnet", {"num_identities": 3, "embeding_dim": 128})
    with pytest.raises(ConfigError, match="needs 'num_identities'"):
        build_system("spnet", {})


def test_contradicting_options_are_refused(tiny):
    with pytest.raises(ConfigError, match="mode is 'both'"):
        tiny(mode="both").template  # noqa: B018
    with pytest.raises(
        ConfigError, match="reid_dim is 32, but queries and cascades need embeddings of length 16"
    ):
        tiny(mode="qc", reid_dim=32).template  # noqa: B018


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_dim": 0}, "embedding_dim is 0. Use 1 or more"),
        ({"reid_dim": 15}, "reid_dim is 15. Use an even number"),
        (
            {"logit_scale": "none"},
            "'none' scores at most 0.5, so that nobody would ever be detected: set positive",
        ),
        ({"trunk": "mobilenet_v2", "stochastic_depth": 0.1}, "'mobilenet_v2' has no stochastic depth"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    system = build_system("spnet", {"num_identities": 3, "trunk": "mobilenet_v2"} | options)
    with pytest.raises(ConfigError, match=message):
        system.template  # noqa: B018


def test_a_search_by_query_needs_embeddings_of_one_length(tiny):
    system = tiny(mode="oc", reid_dim=32)
    assert system.search_mode == "oc" and tiny(mode="qc").search_mode == "qc"
    scenes, _ = batch()
    with pytest.raises(
        ConfigError, match="reid_dim is 32, but queries and cascades need embeddings of length 16"
    ):
        jax.eval_shape(system.find, system.template, scenes, jnp.zeros((1, 32)))


def test_changed_options_leave_the_others(tiny):
    system = tiny(mode="qc")
    changed = system.changed(score_threshold=0.2)
    assert changed.module.score_threshold == 0.2 and system.module.score_threshold == 0.5
    assert changed.module.mode == "qc" and changed.template.keys() == system.template.keys()
    assert jax.tree.structure(changed.template) == jax.tree.structure(system.template)


def test_images_are_normalised_and_padding_is_zero(tiny):
    image = jnp.full((1, 64, 64, 3), 255, jnp.uint8)
    normalised = tiny().normalise(Scenes(image, jnp.asarray([[40, 50]])))
    inside, outside = normalised.image[0, :40, :50], normalised.image[0, 40:]
    np.testing.assert_allclose(
        inside[0, 0], [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], rtol=1e-6
    )
    assert np.all(inside == inside[0, 0]) and not np.any(outside) and not np.any(normalised.image[0, :, 50:])
    floats = Scenes(jnp.full((1, 64, 64, 3), 2.5), jnp.asarray([[40, 50]]))
    np.testing.assert_array_equal(tiny().normalise(floats).image, floats.image)


def test_initial_variables(tiny):
    system = tiny()
    variables = system.init(jax.random.key(0), *batch())
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), variables)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), system.template)
    assert set(variables) == {"params", "batch_stats", "memory"}
    params, memory = variables["params"], variables["memory"]
    assert {name: x.shape for name, x in memory.items()} == {
        "lookup_table": (6, 16),
        "queue": (5, 16),
        "queue_header": (),
    }
    assert not any(np.any(x) for x in memory.values())
    assert not any(np.any(x) for x in jax.tree.leaves(params["bridge_0"]))
    # The embedder's stage is a copy of the trunk's last one, in buffers of its own.
    for a, b in zip(
        jax.tree.leaves(params["backbone"]["stage4"]),
        jax.tree.leaves(params["box_embedder"]["last_stage"]),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
        assert a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer()
    other = system.init(jax.random.key(1), *batch())["params"]
    assert np.any(
        other["regression_head_0"]["deltas"]["kernel"] != params["regression_head_0"]["deltas"]["kernel"]
    )


def test_groups_and_trainable_parameters(tiny):
    system = tiny()
    params = system.template["params"]
    groups, trainable = system.group(params), system.trainable(params)
    assert jax.tree.structure(groups) == jax.tree.structure(params) == jax.tree.structure(trainable)
    assert all(jax.tree.leaves(trainable))
    assert set(jax.tree.leaves(groups["backbone"])) == {"backbone"}
    assert set(jax.tree.leaves({k: v for k, v in groups.items() if k != "backbone"})) == {"head"}


def test_new_trunk_weights_reach_the_copy_of_its_last_stage(tiny):
    system = tiny()
    variables = system.init(jax.random.key(0), *batch())
    trunk = {"params": jax.tree.map(lambda x: x + 1.0, variables["params"]["backbone"]), "batch_stats": {}}
    changed = system.with_trunk(variables, trunk)
    jax.tree.map(np.testing.assert_array_equal, changed["params"]["backbone"], trunk["params"])
    jax.tree.map(
        np.testing.assert_array_equal,
        changed["params"]["box_embedder"]["last_stage"],
        trunk["params"]["stage4"],
    )
    jax.tree.map(np.testing.assert_array_equal, changed["params"]["fpn"], variables["params"]["fpn"])


@pytest.mark.parametrize("mode", ["oc", "qc"])
def test_transfer_keeps_everything_but_memory_and_an_untrained_bridge(tiny, mode):
    before, after = tiny(mode=mode, num_identities=2, queue_size=3), tiny()
    pretrained = jax.tree.map(lambda x: x + 1, before.init(jax.random.key(0), *batch()))
    fresh = after.init(jax.random.key(1), *batch())
    result = after.transfer(pretrained, fresh, pretrained_by=before)
    bridge = fresh if mode == "qc" else pretrained
    for name, tree in result["params"].items():
        source = bridge if name == "bridge_0" else pretrained
        jax.tree.map(np.testing.assert_array_equal, tree, source["params"][name])
    jax.tree.map(np.testing.assert_array_equal, result["memory"], fresh["memory"])
    jax.tree.map(np.testing.assert_array_equal, result["batch_stats"], pretrained["batch_stats"])


def test_options_of_the_tests_are_those_of_the_module():
    assert {"num_identities", "trunk"} <= set(OPTIONS)
    state = object()
    assert build_system("spnet", {"num_identities": 1}).after_step(None, state) is state
