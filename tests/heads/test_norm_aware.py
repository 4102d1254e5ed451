"""Norm-aware embedding and its box regressor against the released code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_recipe import det_normal, fill_params, load_golden

from ps_jax.heads import NormalisedBoxRegressor, NormAwareEmbedding
from ps_jax.porting.rules import batch_norm_rules, linear_rules, port_tensors

OPERATION = 1e-5


@pytest.fixture
def golden(golden_dir):
    return load_golden(golden_dir, "heads")


def _features(golden):
    rows = golden.array("seqnet_nae_eval_emb").shape[0]
    return [
        jnp.abs(det_normal(golden.seed, f"nae.{name}", (rows, width, 1, 1)))[:, :, 0, 0]
        for name, width in (("x4", 1024), ("x5", 2048))
    ]


def _embedding(golden):
    """The module, its variables from the file, and the two features."""
    rules = []
    for name, half in (("feat_res4", "shallow"), ("feat_res5", "deep")):
        rules += linear_rules(f"seqnet_nae.projectors.{name}.0", f"projector/{half}_linear")
        rules += batch_norm_rules(f"seqnet_nae.projectors.{name}.1", f"projector/{half}_norm")
    rules += batch_norm_rules("seqnet_nae.rescaler", "rescaler")
    features, module = _features(golden), NormAwareEmbedding(golden.array("seqnet_nae_eval_emb").shape[1])
    valid = jnp.ones(len(features[0]), bool)
    template = jax.eval_shape(lambda: module.init(jax.random.key(0), *features, valid, False))
    return (
        module,
        port_tensors(fill_params(golden.meta, "seqnet_nae_params"), rules, template),
        features,
        valid,
    )


@pytest.mark.parametrize("train", [False, True])
def test_embedding_and_logit(golden, train):
    module, variables, features, valid = _embedding(golden)
    (embedding, logit), changed = module.apply(variables, *features, valid, train, mutable=["batch_stats"])
    prefix = "seqnet_nae_train" if train else "seqnet_nae_eval"
    unit = embedding / jnp.linalg.norm(embedding, axis=1, keepdims=True)
    golden.check(f"{prefix}_emb", unit, relative=OPERATION)
    golden.check(f"{prefix}_logit", logit, relative=OPERATION)
    if train:
        statistics = changed["batch_stats"]
        for theirs, ours in (
            ("projectors.feat_res4.1", statistics["projector"]["shallow_norm"]),
            ("projectors.feat_res5.1", statistics["projector"]["deep_norm"]),
            ("rescaler", statistics["rescaler"]),
        ):
            for their_name, name in (("running_mean", "mean"), ("running_var", "var")):
                golden.check(
                    f"seqnet_nae_after_train:{theirs}.{their_name}",
                    ours[name],
                    relative=OPERATION,
                )


def test_rows_that_do_not_exist_count_nowhere(golden):
    module, variables, features, valid = _embedding(golden)
    whole = module.apply(variables, *(x[:6] for x in features), valid[:6], True, mutable=["batch_stats"])
    padded = [x.at[6:].set(1e3) for x in features]
    masked = module.apply(variables, *padded, jnp.arange(len(valid)) < 6, True, mutable=["batch_stats"])
    np.testing.assert_allclose(masked[0][0][:6], whole[0][0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(masked[0][1][:6], whole[0][1], rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), masked[1], whole[1])


def test_an_embedding_of_length_zero_has_a_gradient(golden):
    module, variables, features, valid = _embedding(golden)
    variables = jax.tree.map(jnp.zeros_like, variables)
    gradient = jax.grad(lambda x: module.apply(variables, x, features[1], valid, False)[1].sum())(features[0])
    assert np.isfinite(gradient).all()


def test_box_regressor(golden):
    rules = linear_rules("seqnet_bbox.bbox_pred.0", "linear") + batch_norm_rules(
        "seqnet_bbox.bbox_pred.1", "norm"
    )
    (_, deep), module = _features(golden), NormalisedBoxRegressor()
    valid = jnp.ones(len(deep), bool)
    template = jax.eval_shape(lambda: module.init(jax.random.key(0), deep, valid, False))
    variables = port_tensors(fill_params(golden.meta, "seqnet_bbox_params"), rules, template)
    stored = golden.array("seqnet_bbox_eval")
    deltas = module.apply(variables, deep, valid, False)
    np.testing.assert_allclose(deltas, stored[:, 4:], rtol=0, atol=OPERATION * np.abs(stored).max())
