"""The porting engine: names, axes, and one error that lists everything that does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.errors import PortingError
from ps_jax.porting import (
    Rule,
    batch_norm_rules,
    convolution_kernel,
    convolution_rules,
    flatten,
    identity,
    linear_kernel,
    linear_rules,
    match_rules,
    port_tensors,
    restore_tensors,
)
from ps_jax.porting.swin import unfolded_kernel, unfolded_vector

RULES = [
    *convolution_rules("body.{i}.conv", "stage{i}/conv"),
    *batch_norm_rules("body.{i}.bn", "stage{i}/norm"),
    *linear_rules("fc", "head"),
    Rule("gamma", "params/layer_scale", flatten),
]


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


TEMPLATE = {
    "params": {
        "stage12": {
            "conv": {"kernel": leaf(3, 2, 5, 4)},
            "norm": {"scale": leaf(4), "bias": leaf(4)},
        },
        "head": {"kernel": leaf(4, 7), "bias": leaf(7)},
        "layer_scale": leaf(4),
    },
    "batch_stats": {"stage12": {"norm": {"mean": leaf(4), "var": leaf(4)}}},
}


def checkpoint():
    rng = np.random.default_rng(0)
    shapes = {
        "body.12.conv.weight": (4, 5, 3, 2),
        "body.12.bn.weight": (4,),
        "body.12.bn.bias": (4,),
        "body.12.bn.running_mean": (4,),
        "body.12.bn.running_var": (4,),
        "fc.weight": (7, 4),
        "fc.bias": (7,),
        "gamma": (4, 1, 1),
    }
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return tensors | {"body.12.bn.num_batches_tracked": np.asarray(3)}


def test_every_tensor_lands_in_its_place_with_its_axes_moved():
    tensors = checkpoint()
    variables = port_tensors(tensors, RULES, TEMPLATE)
    assert jax.tree.structure(variables) == jax.tree.structure(TEMPLATE)
    stage = variables["params"]["stage12"]
    np.testing.assert_array_equal(
        stage["conv"]["kernel"][2, 1, 4, 3], tensors["body.12.conv.weight"][3, 4, 2, 1]
    )
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], tensors["fc.weight"].T)
    np.testing.assert_array_equal(variables["params"]["layer_scale"], tensors["gamma"][:, 0, 0])
    np.testing.assert_array_equal(stage["norm"]["scale"], tensors["body.12.bn.weight"])
    np.testing.assert_array_equal(stage["norm"]["bias"], tensors["body.12.bn.bias"])
    stats = variables["batch_stats"]["stage12"]["norm"]
    np.testing.assert_array_equal(stats["mean"], tensors["body.12.bn.running_mean"])
    np.testing.assert_array_equal(stats["var"], tensors["body.12.bn.running_var"])


def test_values_take_the_types_of_the_template():
    tensors = {name: value.astype(np.float16) for name, value in checkpoint().items()}
    variables = port_tensors(tensors, RULES, TEMPLATE)
    assert {value.dtype for value in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_one_error_lists_all_that_does_not_fit():
    tensors = checkpoint()
    del tensors["body.12.bn.bias"], tensors["body.12.bn.running_var"]
    tensors["surplus.weight"] = np.zeros((2, 3))
    tensors["body.9.conv.weight"] = np.zeros((1, 1, 1, 1))
    tensors["fc.weight"] = np.zeros((8, 4))
    tensors["body.12.conv.weight"] = np.zeros((4, 5, 3))  # an axis short
    with pytest.raises(PortingError) as caught:
        port_tensors(tensors, RULES, TEMPLATE)
    assert str(caught.value).splitlines() == [
        "The weights do not fit the model.",
        "2 tensors of the checkpoint that have no place in the model:",
        "  surplus.weight 2x3: no rule takes this name",
        "  body.9.conv.weight 1x1x1x1: the model has no params/stage9/conv/kernel",
        "2 variables of the model that the checkpoint does not fill:",
        "  params/stage12/norm/bias 4",
        "  batch_stats/stage12/norm/var 4",
        "2 tensors whose shape does not fit:",
        "  body.12.conv.weight 4x5x3 becomes 4x5x3, but params/stage12/conv/kernel is 3x2x5x4",
        "  fc.weight 8x4 becomes 4x8, but params/head/kernel is 4x7",
    ]


def test_two_tensors_for_one_variable_are_an_error():
    rules = [*RULES, Rule("scale", "params/layer_scale")]
    message = "scale 4: params/layer_scale is already filled by gamma, with other values"
    with pytest.raises(PortingError, match=message):
        port_tensors(checkpoint() | {"scale": np.zeros(4)}, rules, TEMPLATE)


def test_aliases_with_equal_values_are_one():
    rules = [*RULES, *linear_rules("alias.fc", "head")]
    tensors = checkpoint()
    tensors |= {f"alias.{name}": tensors[name] for name in ("fc.weight", "fc.bias")}
    variables = port_tensors(tensors, rules, TEMPLATE)
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], tensors["fc.weight"].T)
    for different in (tensors["fc.weight"] + 1, np.zeros((3, 3)), np.zeros(4)):
        with pytest.raises(PortingError, match=r"alias\.fc\.weight .* already filled by fc\.weight"):
            port_tensors(tensors | {"alias.fc.weight": different}, rules, TEMPLATE)


def test_the_way_back_gives_every_tensor_bit_for_bit():
    tensors = checkpoint()
    counter = tensors.pop("body.12.bn.num_batches_tracked")
    variables = port_tensors(tensors, RULES, TEMPLATE)
    for names in (None, [*tensors, "body.12.bn.num_batches_tracked", "surprise"]):
        restored = restore_tensors(variables, RULES, names)
        assert set(restored) == set(tensors)
        for name, tensor in tensors.items():
            assert restored[name].shape == tensor.shape and restored[name].dtype == tensor.dtype
            np.testing.assert_array_equal(restored[name], tensor)
    assert counter == 3  # has no variable; whoever writes a file adds it


def test_transforms_and_their_inverses():
    rng = np.random.default_rng(0)
    for transform, shape in (
        (identity, (3, 2)),
        (convolution_kernel, (5, 4, 3, 2)),
        (linear_kernel, (5, 3)),
        (flatten, (7, 1, 1)),
        (unfolded_kernel, (6, 20)),
        (unfolded_vector, (20,)),
    ):
        tensor = rng.normal(size=shape)
        np.testing.assert_array_equal(transform.inverse(transform(tensor)), tensor)


def test_a_transform_without_a_way_back_is_named():
    rules = [Rule("a", "params/b", lambda tensor: tensor[::-1])]
    variables = port_tensors({"a": np.arange(3.0)}, rules, {"params": {"b": leaf(3)}})
    with pytest.raises(PortingError, match="params/b cannot be carried back to a"):
        restore_tensors(variables, rules)


def test_ignored_names_are_exact_or_prefixes():
    tensors = checkpoint() | {
        "classifier.weight": np.zeros(1),
        "classifier.bias": np.zeros(1),
        "n.3.x": np.zeros(1),
    }
    port_tensors(tensors, RULES, TEMPLATE, ignore=("classifier.*", "n.{i}.x"))
    with pytest.raises(PortingError) as caught:
        port_tensors(tensors, RULES, TEMPLATE, ignore=("classifier", "classifier.w", "n.{i}"))
    assert str(caught.value).splitlines()[1].startswith("3 tensors of the checkpoint")


def test_dots_and_placeholders_of_a_name_are_taken_literally():
    rules = [Rule("a.{i}.b{j}.{i}", "params/{j}/{i}")]
    placed = match_rules(["a.1.b23.1", "a.1.b2.3", "a.x.b2.x", "axb", "a.1.b2.1.c", "a1.b2.1"], rules)
    assert {name: rule.ours for name, rule in placed.items()} == {"a.1.b23.1": "params/23/1"}


def test_the_first_rule_that_fits_counts():
    rules = [Rule("a.{i}", "params/special"), Rule("a.0", None)]
    assert match_rules(["a.0"], rules)["a.0"].ours == "params/special"
