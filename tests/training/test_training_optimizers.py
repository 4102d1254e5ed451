import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from ps_jax.errors import ConfigError
from ps_jax.training.optimizers import (
    clip_by_global_norm,
    learning_rate_schedule,
    make_optimizer,
    warmup_length,
)


def test_schedule_has_the_values_worked_out_by_hand():
    schedule = learning_rate_schedule(1e-4, total_steps=24, warmup_steps=4)
    expected = {
        0: 1e-7,  # lr / 1000
        1: 1e-4 * (0.001 + 0.999 / 4),
        2: 1e-4 * (0.001 + 0.999 / 2),
        4: 1e-4,
        9: 1e-4 * 0.5 * (1 + np.sqrt(0.5)),  # a quarter of the cosine's 20 steps
        14: 0.5e-4,
        19: 1e-4 * 0.5 * (1 - np.sqrt(0.5)),
        24: 0.0,
    }
    for step, value in expected.items():
        assert float(schedule(step)) == pytest.approx(value, rel=1e-5, abs=1e-11), step


def test_schedule_without_warmup_begins_at_the_peak():
    assert float(learning_rate_schedule(0.5, 10, 0)(0)) == 0.5


@pytest.mark.parametrize(
    ("given", "steps_per_epoch", "total", "expected"),
    [
        (None, 10, 300, 9),
        (None, 5000, 150000, 1000),
        (None, 1, 30, 0),
        (0, 10, 300, 0),
        (25, 10, 300, 25),
        (25, 10, 20, 19),
    ],
)
def test_warmup_length(given, steps_per_epoch, total, expected):
    assert warmup_length({"warmup_steps": given}, steps_per_epoch, total) == expected


def test_a_whole_epoch_of_warmup_has_no_other_limit():
    assert warmup_length({"whole_epoch_warmup": True}, 5000, 150000) == 4999
    assert warmup_length({"whole_epoch_warmup": True, "warmup_steps": 7}, 5000, 150000) == 7


def test_schedule_with_steps_down():
    schedule = learning_rate_schedule(0.003, total_steps=40, warmup_steps=4, milestones=(10, 20))
    expected = {
        0: 3e-6,
        2: 0.003 * (0.001 + 0.999 / 2),
        4: 0.003,
        9: 0.003,
        10: 3e-4,
        19: 3e-4,
        20: 3e-5,
        39: 3e-5,
    }
    for step, value in expected.items():
        assert float(schedule(step)) == pytest.approx(value, rel=1e-5), step


def test_clipping_is_torchs():
    gradients = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([12.0])}  # norm 13
    clipped, _ = clip_by_global_norm(10.0).update(gradients, optax.EmptyState())
    np.testing.assert_allclose(clipped["a"], np.array([3.0, 4.0]) * 10 / (13 + 1e-6), rtol=1e-6)
    untouched, _ = clip_by_global_norm(14.0).update(gradients, optax.EmptyState())
    assert untouched["b"] == gradients["b"]


def adamw(value, gradients, learning_rates, decay, decoupled=True):
    """The loop of torch.optim.AdamW, or (not decoupled) of torch.optim.Adam, in numpy, float64."""
    first = second = 0.0
    for step, (gradient, rate) in enumerate(zip(gradients, learning_rates, strict=True), 1):
        if decoupled:
            value = value * (1 - rate * decay)
        else:
            gradient = gradient + decay * value
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        denominator = np.sqrt(second) / np.sqrt(1 - 0.999**step) + 1e-8
        value = value - rate / (1 - 0.9**step) * first / denominator
    return value


def test_groups_decay_and_freezing():
    settings = {
        "learning_rate": 0.1,
        "weight_decay": 0.5,
        "backbone_learning_rate": 0.01,
        "backbone_weight_decay": 0.0,
        "clip_norm": 1e6,
    }
    params = {"trunk": jnp.array(2.0), "norm_bias": jnp.array(-1.0), "stem": jnp.array(3.0)}
    groups = {"trunk": "backbone", "norm_bias": "head", "stem": "backbone"}
    trainable = {"trunk": True, "norm_bias": True, "stem": False}
    optimizer = make_optimizer(settings, lambda peak: learning_rate_schedule(peak, 10, 0), groups, trainable)
    state = optimizer.init(params)
    gradients = [0.3, -1.0, 0.2]
    for gradient in gradients:
        gradient_tree = jax.tree.map(lambda _, g=gradient: jnp.array(g), params)
        updates, state = optimizer.update(gradient_tree, state, params)
        params = optax.apply_updates(params, updates)
    cosine = [0.5 * (1 + np.cos(np.pi * step / 10)) for step in range(3)]
    rates = np.array(cosine)
    assert float(params["trunk"]) == pytest.approx(adamw(2.0, gradients, 0.01 * rates, 0.0), rel=1e-6)
    assert float(params["norm_bias"]) == pytest.approx(adamw(-1.0, gradients, 0.1 * rates, 0.5), rel=1e-6)
    assert float(params["stem"]) == 3.0


def test_the_backbone_takes_the_heads_settings_where_it_has_none():
    settings = {
        "learning_rate": 0.1,
        "weight_decay": 0.5,
        "backbone_learning_rate": None,
        "backbone_weight_decay": None,
        "clip_norm": 0.0,
    }
    params = {"a": jnp.array(1.0), "b": jnp.array(1.0)}
    optimizer = make_optimizer(
        settings,
        lambda peak: optax.constant_schedule(peak),
        {"a": "backbone", "b": "head"},
        {"a": True, "b": True},
    )
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    # rate * (1 + decay); 1 - 0.999 in float32 is 2e-5 off, its square root 1e-5
    assert updates["a"] == updates["b"] == pytest.approx(-0.15, rel=1e-5)


def sgd(value, gradients, learning_rate, decay):
    """torch.optim.SGD's loop with momentum 0.9, float64."""
    velocity = 0.0
    for gradient in gradients:
        velocity = 0.9 * velocity + gradient + decay * value
        value = value - learning_rate * velocity
    return value


def adam(value, gradients, learning_rate, decay):
    """torch.optim.Adam's loop, whose decay is added to the gradient."""
    return adamw(value, gradients, [learning_rate] * len(gradients), decay, decoupled=False)


@pytest.mark.parametrize("decay_biases", [True, False])
@pytest.mark.parametrize("rule", [sgd, adam])
def test_decay_that_is_added_to_the_gradient(rule, decay_biases):
    settings = {
        "optimizer": rule.__name__,
        "learning_rate": 0.1,
        "weight_decay": 0.5,
        "decay_biases": decay_biases,
        "clip_norm": 0.0,
    }
    params = {"layer": {"kernel": jnp.array(2.0), "bias": jnp.array(-1.0)}}
    groups = jax.tree.map(lambda _: "head", params)
    optimizer = make_optimizer(
        settings, optax.constant_schedule, groups, jax.tree.map(lambda _: True, params)
    )
    state = optimizer.init(params)
    gradients = [0.3, -1.0, 0.2]
    for gradient in gradients:
        updates, state = optimizer.update(
            jax.tree.map(lambda _, g=gradient: jnp.array(g), params), state, params
        )
        params = optax.apply_updates(params, updates)
    # 1 - 0.999 in float32 is 2e-5 off, its square root 1e-5
    tolerance = 1e-6 if rule is sgd else 1e-5
    expected = rule(2.0, gradients, 0.1, 0.5)
    assert float(params["layer"]["kernel"]) == pytest.approx(expected, rel=tolerance)
    expected = rule(-1.0, gradients, 0.1, 0.5 if decay_biases else 0.0)
    assert float(params["layer"]["bias"]) == pytest.approx(expected, rel=tolerance)


def test_an_unknown_optimiser_is_refused():
    settings = {"optimizer": "lion", "learning_rate": 0.1, "weight_decay": 0.5, "clip_norm": 0.0}
    with pytest.raises(ConfigError, match="optimizer is 'lion'; use one of adamw, adam, sgd"):
        make_optimizer(settings, optax.constant_schedule, {"a": "head"}, {"a": True})


def test_warmup_begins_where_a_phase_says():
    schedule = learning_rate_schedule(
        0.3, total_steps=40, warmup_steps=4, milestones=(10,), warmup_start=1 / 3
    )
    np.testing.assert_allclose([schedule(count) for count in (0, 2, 4)], [0.1, 0.2, 0.3], rtol=1e-6)


def test_biases_of_normalisation_and_offsets_are_treated_as_kernels_are():
    """MMCV 1.1.5 with bias_lr_mult 2 and bias_decay_mult 0, as AlignPS's release sets them."""
    layer = {"kernel": jnp.ones(2), "bias": jnp.ones(2)}
    params = {
        "conv": layer,
        "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
        "deformable": {**layer, "offset": layer},
    }
    everything = jax.tree.map(lambda _: True, params)
    groups = jax.tree.map(lambda _: "head", params)
    # rate * (gradient 1 + decay 0.5): undecayed and twice as fast, or decayed at the rate of the rest
    layers = {("conv", "bias"), ("deformable", "bias")}
    for optimizer, norms, others in (("sgd", True, -0.15), ("sgd", None, -0.15), ("adamw", True, -0.15)):
        phase = {"optimizer": optimizer, "learning_rate": 0.1, "weight_decay": 0.5, "clip_norm": 0}
        phase |= {"bias_rate": 2.0, "decay_biases": False}
        phase |= {"decay_norm_biases": norms} if norms is not None else {}
        rule = make_optimizer(phase, optax.constant_schedule, groups, everything)
        updates, _ = rule.update(params, rule.init(params), params)
        for path, update in flatten_dict(updates).items():
            undecayed = norms is None and path[-1] == "bias"
            expected = -0.2 if path in layers else -0.1 if undecayed else others
            np.testing.assert_allclose(update, expected, rtol=1e-4, err_msg=str(path))


def test_frozen_parts_and_other_groups_do_not_change_whose_bias_is_decayed():
    params = {part: {"scale": jnp.ones(2), "bias": jnp.ones(2)} for part in ("backbone", "head")}
    groups = {part: {"scale": part, "bias": part} for part in params}
    trainable = {part: {"scale": False, "bias": True} for part in params}
    phase = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.5, "clip_norm": 0}
    phase |= {"decay_biases": False, "decay_norm_biases": True, "bias_rate": 2.0}
    rule = make_optimizer(phase, optax.constant_schedule, groups, trainable)
    updates, _ = rule.update(params, rule.init(params), params)
    for part in params:
        np.testing.assert_allclose(updates[part]["bias"], -0.15, rtol=1e-6)
        np.testing.assert_array_equal(updates[part]["scale"], 0)


def test_a_warm_up_is_given_in_steps_or_epochs():
    assert warmup_length({"warmup_steps": 500}, 100, 40000) == 500
    assert warmup_length({"warmup_epochs": 10.0}, 185, 22200) == 1850
    assert warmup_length({"warmup_steps": 7, "warmup_epochs": 1.0}, 100, 1000) == 7
