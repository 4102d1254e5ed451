"""ROI-AlignPS against the authors' own code, whole model: evaluation of both branches, one training step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden_recipe import golden_order, load_golden
from test_golden_alignps import MODEL, TRUNK, _people, _scenes, _seen, check_gradients

from ps_jax.evaluation.similarity import unit_rows
from ps_jax.porting.alignps import LOOKUP_TABLE, QUEUE
from ps_jax.porting.roi_alignps import port_roi_alignps, roi_alignps_rules
from ps_jax.porting.rules import match_rules
from ps_jax.systems import build_system

RELEASED = {"extra_levels": True, "released_memory": True, "mean_over_known": True, "order": golden_order}


def system_of(golden, **options):
    shapes = dict(golden.meta["params"])
    sizes = {"num_identities": shapes[LOOKUP_TABLE][0], "queue_size": shapes[QUEUE][0]}
    return build_system("roi_alignps", {**sizes, **options})


@pytest.mark.slow
def test_evaluation(golden_dir):
    golden = load_golden(golden_dir, "roi_alignps_eval")
    system = system_of(golden)
    variables = port_roi_alignps(golden.params(), system)
    scenes = _scenes(golden, "image")
    found, collections = jax.jit(
        lambda variables: system.module.apply(variables, scenes, method="detect", mutable=["intermediates"])
    )(variables)
    seen = _seen(collections)
    for name in ("c2", "c3", "c4", "c5"):
        golden.check(name, seen[name], relative=TRUNK)
    golden.check("neck0", seen["p3"], relative=TRUNK)
    found = jax.tree.map(lambda x: np.asarray(x[0]), found)
    valid, stored = found.valid, golden.array("det_boxes")
    ours = np.concatenate([found.box, found.score[:, None]], axis=1)[valid]
    place = np.abs(ours[None] - stored[:, None]).max(-1).argmin(1)
    assert len(ours) == len(stored) == len(set(place))
    golden.check("det_boxes", ours[place], relative=MODEL, layout=None)
    embedding = np.asarray(seen["alignps_embedding"][0])[valid][place]
    golden.check("det_reid", embedding, relative=MODEL, layout=None)
    output = jax.tree.map(lambda x: np.asarray(x[0])[valid][place], seen["box_output"])
    unit = output.embedding / np.linalg.norm(output.embedding, axis=1, keepdims=True)
    golden.check("roi_embedding", unit, relative=MODEL, layout=None)
    golden.check("roi_norm_logit", output.logit, relative=MODEL, layout=None)
    golden.check("roi_box_deltas", output.deltas, relative=MODEL, layout=None)
    final = unit_rows(found.embedding[valid][place], system.branches)  # as it is searched with
    if np.abs(np.linalg.norm(golden.array("final_feature"), axis=1) - 1).max() > 1e-3:
        final = final * np.sqrt(2)  # each half of length one
    golden.check("final_feature", final, relative=MODEL, layout=None)


TERMS = {"roi_head": {"bbox": "box_regression", "cls": "box_classification", "oim": "box_reid"}}
TERMS["alignps_head"] = {
    "bbox": "regression",
    "cls": "classification",
    "centerness": "centerness",
    "oim": "reid",
    "tri": "triplet",
}


@pytest.mark.slow
@pytest.mark.parametrize("item", ["roi_alignps_train", "roi_alignps_train_bound"])
def test_training(golden_dir, item):
    """The first file has a step in which the bound trains its estimator alone, the second one of the others."""
    golden = load_golden(golden_dir, item)
    system = system_of(golden, **RELEASED)
    variables = port_roi_alignps(golden.params(), system)
    count = sum(name.startswith("image") for name in golden.meta["inputs"])
    scenes, people = _scenes(golden, *(f"image{i}" for i in range(count))), _people(golden, count)
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    def total(params, rest, alone, partner):  # one program for both files
        def pairing(key, count, slots):
            return alone, jnp.zeros(slots, jnp.int32).at[: partner.size].set(partner)

        terms, changed = system.module.clone(pairing=pairing).apply(
            {"params": params, **rest},
            *(scenes, people),
            method="losses",
            rngs={"sampling": jax.random.key(0)},
            mutable=["batch_stats", "memory", "intermediates"],
        )
        return sum(terms.values()), (terms, changed)

    step = jax.jit(jax.grad(total, has_aux=True))
    gradients, (terms, changed) = step(variables["params"], rest, *_pairing(golden))
    _check_terms(golden, terms)
    seen = _seen(changed)
    _check_boxes(golden, seen)
    _check_pairs(golden, *seen["mutual_pairs"])
    _check_memory(golden, variables["memory"], changed["memory"])
    _check_statistics(golden, system, variables["batch_stats"], changed["batch_stats"])
    check_gradients(golden, system, roi_alignps_rules(system), gradients)


def _pairing(golden):
    """What the release draws: whether the estimator is trained alone, and everybody with the next one."""
    identity = _identities_of_pairs(golden)
    place = np.argsort(np.argsort(identity))  # ours come by identity
    partner = np.zeros(len(identity), np.int32)
    partner[place] = np.roll(place, -1)
    return jnp.asarray("loss_mi" in golden.meta["losses"]), jnp.asarray(partner)


def _identities_of_pairs(golden):
    """Who the rows of the stored pairs are: theirs have no numbers, but the locations' have."""
    identity, unit = golden.array("alignps_pos_ids"), golden.array("alignps_pos_reid")
    known = np.unique(identity[identity >= 0])
    mean = np.stack([unit[identity == number].mean(0) for number in known])
    cosine = golden.array("mi_alignps") @ (mean / np.linalg.norm(mean, axis=1, keepdims=True)).T
    assert np.all(cosine.max(1) > 1 - 1e-5)
    return known[cosine.argmax(1)]


def _check_terms(golden, terms):
    losses = golden.meta["losses"]
    stored = {"mutual_information": losses.get("loss_mi", losses.get("loss_mi_bound"))}
    stored |= {
        "proposal_classification": losses["loss_rpn_cls"],
        "proposal_regression": losses["loss_rpn_bbox"],
    }
    for head, names in TERMS.items():
        stored |= {ours: golden.meta[f"losses_{head}"][f"loss_{name}"] for name, ours in names.items()}
    assert set(terms) == set(stored)
    for name, value in stored.items():
        # The bound is a small difference of large numbers.
        atol = 1e-7 if name == "mutual_information" else 0
        np.testing.assert_allclose(terms[name], np.squeeze(value), rtol=1e-4, atol=atol, err_msg=name)


def _check_boxes(golden, seen):
    """The same boxes are trained on; ours are in the order of the candidates, theirs positive ones first."""
    box, positive, identity, valid = (np.asarray(x) for x in seen["box_samples"])
    output = jax.tree.map(np.asarray, seen["box_output"])
    assert valid.all()
    order = np.argsort(~positive, axis=1, kind="stable")
    for scene, rows in enumerate(order):
        stored = [golden.array(f"roi_{kind}_boxes{scene}") for kind in ("pos", "neg")]
        assert positive[scene].sum() == len(stored[0])
        noise = max(golden.meta["f32_vs_f64"]["sampled_boxes"]) if "_bound" not in golden.item else 0.0
        stored = np.concatenate(stored)
        distance = np.abs(box[scene][rows][None] - stored[:, None]).max(-1)
        # Several proposals may be clipped to the same box; what the branch says of them is then the same, too.
        for nearest in (distance.min(0), distance.min(1)):
            assert nearest.max() <= max(noise, MODEL * np.abs(stored).max())
        order[scene] = rows[distance.argmin(1)]

    def sorted_rows(x):
        return np.concatenate([x[scene][rows] for scene, rows in enumerate(order)])

    person = np.where(positive, identity, -2)
    np.testing.assert_array_equal(sorted_rows(person), golden.array("roi_pids"))
    unit = output.embedding / np.linalg.norm(output.embedding, axis=-1, keepdims=True)
    for name, value in (("embedding", unit), ("norm_logit", output.logit), ("box_deltas", output.deltas)):
        golden.check(f"roi_{name}", sorted_rows(value), relative=MODEL, layout=None)


def _check_pairs(golden, box, location, identity, exists):
    stored = _identities_of_pairs(golden)
    exists = np.asarray(exists)
    np.testing.assert_array_equal(np.asarray(identity)[exists], np.sort(stored))
    for name, value in (("mi_roi", box), ("mi_alignps", location)):
        golden.check(
            name, np.asarray(value)[exists][np.argsort(np.argsort(stored))], relative=MODEL, layout=None
        )


def _check_memory(golden, before, after):
    """The rows of tables and queues that the step wrote, and where the queues go on."""
    assert after["box_queue_header"] == golden.meta["header_cq_after"]
    assert after["queue_header"] == golden.meta["tail_after"]
    for ours, theirs in (
        ("box_table", "roi_lut"),
        ("box_queue", "roi_cq"),
        ("lookup_table", "alignps_lut"),
        ("queue", "alignps_queue"),
    ):
        (rows,) = np.nonzero(np.any(np.asarray(before[ours]) != np.asarray(after[ours]), axis=1))
        np.testing.assert_array_equal(rows, golden.array(f"{theirs}_changed_rows"))
        golden.check(f"{theirs}_changed_values", after[ours][rows], relative=MODEL, layout=None)


def _check_statistics(golden, system, before, after):
    """Batch statistics of the box branch's own layers moved, those of the trunks did not."""
    flat, old = (traverse_util.flatten_dict(tree, sep="/") for tree in (after, before))
    names = [name for name in golden.names if name.startswith("after:")]
    moved = set()
    for name in names:
        (rule,) = match_rules([name.removeprefix("after:")], roi_alignps_rules(system)).values()
        path = rule.ours.removeprefix("batch_stats/")
        golden.check(name, flat[path], relative=MODEL, layout=None)
        moved.add(path)
    for path in set(flat) - moved:
        np.testing.assert_array_equal(flat[path], old[path], err_msg=path)
