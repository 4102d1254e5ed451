"""What of SPNet is trained: by re-identification alone, parts of the trunk, without forgetting its classes."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from tiny_spnet import OPTIONS, batch, tiny_trunk, two_views
from tiny_training import first_state, trainer

from ps_jax.backbones import MobileNetV2, build_trunk
from ps_jax.errors import ConfigError
from ps_jax.systems import build_system, spnet
from ps_jax.systems._trunk_tuning import low_rank_factors, merge_lora, trained_trunk
from ps_jax.training.phases import Phase

TERMS = {"anchor_classification", "bbox_regression1", "reid"}


def _start(system, scenes, people):
    """Variables whose losses have gradients: no tiny branches, a table that knows everybody."""
    variables = system.init(jax.random.key(0), scenes, people)
    flat = traverse_util.flatten_dict(variables["params"])
    flat = {path: jnp.ones_like(x) if path[-1] == "layer_scale" else x for path, x in flat.items()}
    projector = ("box_embedder", "projector")
    for half in ("shallow_linear", "deep_linear"):
        flat[(*projector, half, "kernel")] = 100.0 * flat[(*projector, half, "kernel")]
    variables["params"] = traverse_util.unflatten_dict(flat)
    table = jax.random.normal(jax.random.key(1), variables["memory"]["lookup_table"].shape)
    variables["memory"]["lookup_table"] = table / jnp.linalg.norm(table, axis=1, keepdims=True)
    return variables


def _moved(before, after) -> set[str]:
    """Paths of the leaves that are not bit for bit the same."""
    before, after = (traverse_util.flatten_dict(jax.device_get(tree), sep="/") for tree in (before, after))
    return {path for path in before if not np.array_equal(before[path], after[path])}


@pytest.mark.parametrize("mode", [pytest.param("oc", marks=pytest.mark.slow), "qc"])
def test_true_boxes_only_are_the_rows_of_annotated_people(tiny, mode):
    scenes, people = two_views((3,))
    system = tiny(mode=mode, reid_gt_only=True)
    variables = _start(system, scenes, people)

    def run(system):
        return jax.jit(
            lambda variables: system.module.apply(
                variables,
                system.normalise(scenes),
                people,
                method="losses",
                rngs={"sampling": jax.random.key(1), "stochastic_depth": jax.random.key(2)},
                mutable=["batch_stats", "memory", "intermediates"],
            )
        )(variables)

    terms, changed = run(system)
    assert set(terms) == TERMS and "reid_embedding" not in changed["intermediates"]
    embedding = np.asarray(changed["intermediates"]["people_embedding"][0], np.float64)
    valid, identity = np.asarray(people.valid), np.asarray(people.identity)
    x = embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)
    losses = []
    for row, someone in zip(x[valid], identity[valid], strict=True):
        logits = 30.0 * np.concatenate([np.asarray(variables["memory"]["lookup_table"]) @ row, -np.ones(5)])
        losses.append(np.log(np.exp(logits).sum()) - logits[someone] if someone >= 0 else 0.0)
    np.testing.assert_allclose(terms["reid"], np.mean(losses), rtol=1e-4)


@pytest.mark.slow
def test_re_identification_alone_leaves_the_detector_untouched(tiny):
    scenes, people = batch()
    system = tiny(reid_only=True, reid_gt_only=True)
    variables = _start(system, scenes, people)
    terms, _ = jax.jit(system.losses)(variables, scenes, people, jax.random.key(0))
    assert set(terms) == {"reid"} and terms["reid"] > 0.01
    trained = system.trainable(variables["params"])
    assert {part for part, tree in trained.items() if any(jax.tree.leaves(tree))} == {
        "backbone",
        "fpn",
        "box_embedder",
    }
    state = first_state(system, variables)
    after = trainer(system)(state, [(scenes, people)])
    assert {path.split("/")[0] for path in _moved(state.params, after.params)} == {
        "backbone",
        "fpn",
        "box_embedder",
    }


@pytest.mark.parametrize(
    "tuning",
    [
        "frozen",
        pytest.param("norm", marks=pytest.mark.slow),
        pytest.param("lora", marks=pytest.mark.slow),
        pytest.param("lora_linear", marks=pytest.mark.slow),
    ],
)
def test_frozen_leaves_of_the_trunk_stay_bit_for_bit(tiny, tuning):
    scenes, people = batch()
    system = tiny(backbone_tuning=tuning, reid_only=True, reid_gt_only=True)
    state = first_state(system, _start(system, scenes, people))
    after = trainer(system)(state, [(scenes, people)] * 2)
    moved = _moved(state.params["backbone"], after.params["backbone"])
    leaves = traverse_util.flatten_dict(state.params["backbone"], sep="/")
    expected = {
        "frozen": set(),
        "norm": {path for path in leaves if "norm" in path},
        "lora": set(),
        "lora_linear": {path for path in leaves if "expand" in path or "project" in path},
    }[tuning]
    assert moved == expected and (tuning != "norm" or len(moved) == 2 * (1 + 3 + 4))
    # The rest is trained, the box embedder's own copy of the last stage too.
    assert _moved(state.params["fpn"], after.params["fpn"])
    stage = state.params["box_embedder"]["last_stage"]
    assert _moved(stage, after.params["box_embedder"]["last_stage"]) == set(
        traverse_util.flatten_dict(stage, sep="/")
    )
    if tuning.startswith("lora"):
        assert _moved(state.params["lora"], after.params["lora"]) == set(
            traverse_util.flatten_dict(state.params["lora"], sep="/")
        )


@pytest.mark.slow
def test_low_rank_changes_start_at_nothing_and_merge_into_the_same_model(tiny):
    scenes, people = batch()
    system, plain = tiny(backbone_tuning="lora"), tiny()
    variables = _start(system, scenes, people)
    boxes = people.box
    embed = jax.jit(plain.embed)
    without = {part: tree for part, tree in variables["params"].items() if part != "lora"}
    at_start = jax.jit(system.embed)(variables, scenes, boxes)
    np.testing.assert_allclose(
        at_start, embed({**variables, "params": without}, scenes, boxes), rtol=1e-6, atol=1e-6
    )

    factors = variables["params"]["lora"]
    leaves, structure = jax.tree.flatten(factors)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    drawn = [0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    variables["params"] = {**variables["params"], "lora": jax.tree.unflatten(structure, drawn)}
    adapted = jax.jit(system.embed)(variables, scenes, boxes)
    assert np.abs(adapted - at_start).max() > 0.01

    fresh = plain.init(jax.random.key(1), scenes, people)
    merged = plain.transfer(variables, fresh, pretrained_by=system)
    assert jax.tree.structure(merged) == jax.tree.structure(fresh)
    difference = np.abs(embed(merged, scenes, boxes) - adapted).max()
    assert difference < 1e-5 * np.abs(adapted).max()

    again = system.transfer(variables, system.init(jax.random.key(1), scenes, people), pretrained_by=system)
    assert not any(np.any(x["b"]) for x in _factor_pairs(again["params"]["lora"]))
    difference = np.abs(jax.jit(system.embed)(again, scenes, boxes) - adapted).max()
    assert difference < 1e-5 * np.abs(adapted).max()


def _factor_pairs(tree):
    if "a" in tree:
        return [tree]
    return [pair for branch in tree.values() for pair in _factor_pairs(branch)]


def test_a_merged_kernel_is_the_sum_of_the_kernel_and_the_product(tiny):
    params = {
        "backbone": {"stage": {"expand": {"kernel": np.ones((3, 2)), "bias": np.zeros(2)}}},
        "lora": {"stage": {"expand": {"a": np.array([[1.0], [2.0], [3.0]]), "b": np.array([[10.0, 0.0]])}}},
        "head": {"kernel": np.ones((2, 2))},
    }
    merged = merge_lora(params)
    assert set(merged) == {"backbone", "head"}
    np.testing.assert_array_equal(
        merged["backbone"]["stage"]["expand"]["kernel"], [[11, 1], [21, 1], [31, 1]]
    )


def test_swin_transformers_have_what_is_tuned():
    trunk = build_trunk("swin_tiny")
    params = jax.eval_shape(lambda: trunk.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))["params"]
    flat = traverse_util.flatten_dict(trained_trunk("norm", params), sep="/")
    normed = {path.rsplit("/", 1)[0] for path, trained in flat.items() if trained}
    assert len(normed) == 1 + 3 + 2 * 12 and all("norm" in path for path in normed)
    factors = jax.eval_shape(lambda: low_rank_factors(jax.random.key(0), params))
    assert (
        len(_factor_pairs(factors)) == 3 + 4 * 12
    )  # merging of patches; qkv, projection, perceptron of each block


def test_low_rank_changes_are_in_the_trunks_optimiser_group(tiny):
    system = tiny(backbone_tuning="lora")
    groups = system.group(system.template["params"])
    assert set(jax.tree.leaves(groups["lora"])) == {"backbone"} == set(jax.tree.leaves(groups["backbone"]))
    assert jax.tree.structure(groups) == jax.tree.structure(system.template["params"])


def test_tunings_that_a_trunk_cannot_have_are_refused(tiny, monkeypatch):
    with pytest.raises(ConfigError, match=r"backbone_tuning is 'half'. Use one of: full, frozen, norm"):
        tiny(backbone_tuning="half").template  # noqa: B018
    monkeypatch.setattr(spnet, "build_trunk", lambda name, **options: MobileNetV2(**options))
    for tuning in ("norm", "lora"):
        with pytest.raises(ConfigError, match=f"'{tuning}', but the trunk has neither linear layers nor"):
            build_system("spnet", OPTIONS | {"backbone_tuning": tuning}).template  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize("form", ["kl", "bce"])
def test_nothing_is_forgotten_at_the_start_and_something_after_a_step(tiny, form):
    """The divergence is zero while trunk and teacher are equal; the released form has another floor."""
    scenes, people = batch()
    system = tiny(lwf=form, stochastic_depth=0.0)
    variables = _start(system, scenes, people)
    trunk = {"params": variables["params"]["backbone"]}
    variables = system.with_trunk(variables, trunk, {"params": variables["params"]["classifier"]})
    losses = jax.jit(system.losses)
    terms, changed = losses(variables, scenes, people, jax.random.key(0))
    assert set(terms) == TERMS | {"lwf"}

    state = first_state(system, variables)
    after = trainer(system)(state, [(scenes, people)])
    later, _ = losses(after.variables, scenes, people, jax.random.key(0))
    if form == "kl":
        assert abs(terms["lwf"]) < 1e-5 and later["lwf"] > 1e-3
    else:
        logits = np.asarray(_class_logits(system, variables, scenes), np.float64)
        target = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
        expected = np.mean(np.log1p(target) - target * np.log(target))
        np.testing.assert_allclose(terms["lwf"], expected, rtol=1e-4)
    # The teacher never moves; trunk and classifier do.
    teacher = variables["memory"]["teacher"]
    for found in (changed["memory"]["teacher"], after.memory["teacher"]):
        jax.tree.map(np.testing.assert_array_equal, found, teacher)
    assert _moved(state.params["classifier"], after.params["classifier"])
    assert _moved(teacher["params"]["backbone"], after.params["backbone"])


def _class_logits(system, variables, scenes):
    def classify(module, scenes):
        return module.classify(module.trunk_features(scenes, False), False)

    return system.module.apply(variables, system.normalise(scenes), method=classify)


def _torchvision_file(path, widths=(8, 12, 16, 24), classifier=True):
    """A ConvNeXt of one block a stage under torchvision's names, drawn at random."""
    shapes = {"features.0.0": (widths[0], 3, 4, 4), "features.0.1": (widths[0],)}
    for index, width in enumerate(widths):
        if index:
            before = widths[index - 1]
            shapes |= {f"features.{2 * index}.0": (before,), f"features.{2 * index}.1": (width, before, 2, 2)}
        block = f"features.{2 * index + 1}.0"
        shapes |= {
            f"{block}.block.0": (width, 1, 7, 7),
            f"{block}.block.2": (width,),
            f"{block}.block.3": (4 * width, width),
            f"{block}.block.5": (width, 4 * width),
            f"{block}.layer_scale": (width, 1, 1),
        }
    if classifier:
        shapes |= {"classifier.0": (widths[-1],), "classifier.2": (1000, widths[-1])}
    rng, tensors = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        if name.endswith("layer_scale"):
            tensors[name] = rng.normal(size=shape).astype(np.float32)
        else:
            tensors[f"{name}.weight"] = rng.normal(size=shape).astype(np.float32)
            tensors[f"{name}.bias"] = rng.normal(size=shape[0]).astype(np.float32)
    np.savez(path, **tensors)
    return tensors


@pytest.mark.slow
def test_a_phase_starts_from_a_weights_file_with_its_classifier(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(spnet, "build_trunk", lambda name, **options: tiny_trunk("tiny", **options))
    system = build_system(
        "spnet",
        OPTIONS | {"lwf": "bce", "reid_objective": "queue", "queue_size": 16, "trunk": "convnext_tiny"},
    )
    phase = SimpleNamespace(
        name="pretrain",
        system=system,
        _first_state=lambda variables: first_state(system, variables),
        _fresh_variables=lambda: system.init(jax.random.key(0), *batch()),
    )
    tensors = _torchvision_file(tmp_path / "whole.npz")
    state = Phase.start(phase, str(tmp_path / "whole.npz"), None)
    params, memory = state.params, state.memory
    np.testing.assert_array_equal(params["classifier"]["linear"]["kernel"], tensors["classifier.2.weight"].T)
    np.testing.assert_array_equal(params["classifier"]["norm"]["scale"], tensors["classifier.0.weight"])
    np.testing.assert_array_equal(
        params["backbone"]["stage4"]["block0"]["expand"]["kernel"], tensors["features.7.0.block.3.weight"].T
    )
    teacher, momentum = memory["teacher"]["params"], memory["momentum_encoder"]["params"]
    for part in ("backbone", "classifier"):
        jax.tree.map(np.testing.assert_array_equal, teacher[part], params[part])
    jax.tree.map(np.testing.assert_array_equal, momentum["backbone"], params["backbone"])
    jax.tree.map(
        np.testing.assert_array_equal, momentum["box_embedder"]["last_stage"], params["backbone"]["stage4"]
    )

    with pytest.raises(ConfigError, match=r"phase pretrain needs the weights .* --config.weights=FILE"):
        Phase.start(phase, "", None)
    _torchvision_file(tmp_path / "trunk.npz", classifier=False)
    with pytest.raises(ConfigError, match=r"hold no classifier \(classifier.2.weight\)"):
        Phase.start(phase, str(tmp_path / "trunk.npz"), None)


def test_fine_tuning_goes_on_without_the_classifier_or_with_the_first_teacher(tiny):
    scenes, people = batch()
    first, plain = tiny(lwf="kl"), tiny()
    pretrained = jax.tree.map(lambda x: x + 1, first.init(jax.random.key(0), scenes, people))
    fresh = plain.init(jax.random.key(1), scenes, people)
    without = plain.transfer(pretrained, fresh, pretrained_by=first)
    assert jax.tree.structure(without) == jax.tree.structure(fresh)
    jax.tree.map(
        np.testing.assert_array_equal, without["params"]["backbone"], pretrained["params"]["backbone"]
    )
    with_fresh = first.init(jax.random.key(1), scenes, people)
    again = first.transfer(pretrained, with_fresh, pretrained_by=first)
    assert jax.tree.structure(again) == jax.tree.structure(with_fresh)
    jax.tree.map(np.testing.assert_array_equal, again["memory"]["teacher"], pretrained["memory"]["teacher"])
    with pytest.raises(ConfigError, match="what this phase starts from has no classifier"):
        first.transfer(fresh, with_fresh, pretrained_by=plain)


def test_learning_without_forgetting_needs_weights_and_a_known_form(tiny):
    assert tiny(lwf="kl").needs_weights and not tiny().needs_weights
    with pytest.raises(ConfigError, match=r"lwf is 'mse'. Use one of: none, kl, bce"):
        tiny(lwf="mse").template  # noqa: B018
