"""Options of SPNet's offsets, logits and losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_spnet import batch, two_views

from ps_jax.errors import ConfigError

VARIANTS = [
    {"logit_scale": "batch"},
    {"logit_scale": "none", "bridge_type": "direct", "score_threshold": 0.4},
    {"combiner": "product", "positive_norm": True},
    {"first_stage_classification": True, "classification_loss": "focal", "num_cascade_steps": 1},
]


def _step(system, variables, scenes, people):
    def total(params):
        rngs = {name: jax.random.key(1) for name in ("sampling", "stochastic_depth")}
        terms, changed = system.module.apply(
            {**variables, "params": params},
            system.normalise(scenes),
            people,
            method="losses",
            rngs=rngs,
            mutable=["intermediates", "batch_stats", "memory"],
        )
        return sum(terms.values()), (terms, changed)

    return jax.jit(jax.value_and_grad(total, has_aux=True))(variables["params"])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["oc", "qc"])
@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(options))
def test_variants_train_and_search(tiny, mode, options):
    system = tiny(mode=mode, **options)
    scenes, people = two_views((3,)) if mode == "qc" else batch()
    variables = system.init(jax.random.key(0), scenes, people)
    (loss, (terms, changed)), gradient = _step(system, variables, scenes, people)
    assert np.isfinite(loss) and all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient))
    assert any(np.any(x) for x in jax.tree.leaves(gradient["bridge_0"])) == (mode == "oc")
    seen = {name: value[0] for name, value in changed["intermediates"].items()}
    stage, logits = seen["stage0"], np.asarray(seen["anchor_logits"])
    np.testing.assert_array_equal(
        stage.logits, np.take_along_axis(logits, np.asarray(seen["sampled_index"]), axis=1)
    )
    if options.get("logit_scale") == "batch":  # normalised over all anchors, with a scale that is trained
        rows = np.asarray(seen["pairs"].valid) if mode == "qc" else slice(None)
        assert abs(logits[rows].mean()) < 1e-4
        assert 0.95 < logits[rows].std() <= 1.0001  # the first lengths are so much alike that epsilon counts
        assert np.any(gradient["classification_head_0"]["norm"]["scale"])
    if options.get("first_stage_classification"):
        samples = jax.tree.map(np.asarray, stage.samples)
        valid = samples.valid & (samples.matched != -2)
        positive, x = (samples.matched >= 0) & valid, np.asarray(stage.logits, np.float64)
        missed = 1 / (1 + np.exp(np.where(positive, x, -x)))  # probability of the wrong answer
        focal = 0.5 * missed * (np.logaddexp(0, x) - x * positive)
        np.testing.assert_allclose(
            terms["classification1"], focal[valid].sum() / max(1, positive.sum()), rtol=1e-4
        )
    found = jax.jit(system.find)(variables, scenes, jnp.ones((2, 16)))
    everybody = jax.jit(system.detect)(variables, scenes)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((found, everybody)))


@pytest.mark.parametrize("positive", [False, True])
def test_the_best_anchors_are_the_shortest_or_the_longest_offsets(tiny, positive):
    system = tiny(positive_norm=positive)
    scenes, people = batch()
    variables = system.init(jax.random.key(0), scenes, people)
    embedder = variables["params"]["anchor_embedder"]["convolution"]
    embedder["bias"] = 1.2 * jax.random.normal(jax.random.key(1), embedder["bias"].shape)

    @jax.jit
    def detect(variables):
        return system.module.apply(
            variables, system.normalise(scenes), method="detect", mutable=["intermediates"]
        )

    found, seen = detect(variables)
    length = np.linalg.norm(np.asarray(seen["intermediates"]["anchor_embedding"][0]), axis=-1)  # o = -a
    length = np.sort(length, axis=1)[:, ::-1] if positive else np.sort(length, axis=1)
    mean, deviation = 3.938026, 0.701408  # of the chi distribution with 16 degrees of freedom
    logits = (length[:, :100] - mean) / deviation * (1 if positive else -1)
    np.testing.assert_allclose(seen["intermediates"]["top_logits"][0], logits, rtol=1e-4, atol=1e-4)
    assert np.all(np.asarray(found.score)[np.asarray(found.valid)] > 0.5) and np.any(found.valid)


@pytest.mark.parametrize(
    ("option", "known"),
    [
        ("combiner", "difference, product"),
        ("bridge_type", "combiner, direct"),
        ("logit_scale", "fixed, batch, none"),
        ("classification_loss", "cross_entropy, focal"),
    ],
)
def test_unknown_choices_are_told_with_the_known_ones(tiny, option, known):
    with pytest.raises(ConfigError, match=f"{option} is 'other'. Use one of: {known}."):
        tiny(**{option: "other"}).template  # noqa: B018
    with pytest.raises(ConfigError, match="num_cascade_steps is -1"):
        tiny(num_cascade_steps=-1).template  # noqa: B018
