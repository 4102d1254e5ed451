"""SeqNet and NAE against the authors' own code, whole model: evaluation stage by stage, one training step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from golden_recipe import Golden, golden_order, load_golden, normalised
from spnet_cases import padded_scenes

from ps_jax.boxes import BACKGROUND
from ps_jax.heads import choose_proposals
from ps_jax.interface import People
from ps_jax.porting.rules import match_rules
from ps_jax.porting.seqnet import port_seqnet, seqnet_rules
from ps_jax.systems import _seqnet_training, build_system
from ps_jax.training.optimizers import make_optimizer

MODEL, LOSS = 1e-3, 1e-4
UNLABELLED = 5555
NAE = {"sequential": False, "match_low": 0.1}


def system_of(golden: Golden, **options):
    tables = {name: shape for name, shape in golden.meta["params"] if "reid_loss" in name}
    return build_system(
        "seqnet",
        {
            "num_identities": tables["roi_heads.reid_loss.lut"][0],
            "queue_size": tables["roi_heads.reid_loss.cq"][0],
            "order": golden_order,
            **options,
        },
    )


def _seen(collections) -> dict:
    return {name: value[0] for name, value in collections["intermediates"].items()}


def _unit(rows) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _per_anchor(stored: np.ndarray, numbers: int) -> np.ndarray:
    """[1, anchors of a cell * numbers, height, width] in our order, [anchor, numbers]."""
    return stored[0].reshape(-1, numbers, *stored.shape[2:]).transpose(2, 3, 0, 1).reshape(-1, numbers)


def _same_set(ours: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """For each stored box the number of ours that lies on it; the two sets are the same."""
    distance = np.abs(ours[None] - stored[:, None]).max(-1)
    nearest = distance.argmin(1)
    assert len(ours) == len(stored) == len(set(nearest))
    assert distance.min(1).max() <= MODEL * np.abs(stored).max()
    return nearest


def _look(golden, system, scenes, scale):
    """Detections, what was seen on the way, and the embedding of the file's true box."""
    boxes = jnp.asarray(golden.array("gt_box") * scale)[None]

    @jax.jit
    def look(variables):
        found, seen = system.module.apply(variables, scenes, method="detect", mutable=["intermediates"])
        return found, seen, system.embed(variables, scenes, boxes)

    found, seen, query = look(port_seqnet(golden.params(), system))
    return found, _seen(seen), query


@pytest.mark.parametrize("item", ["seqnet_eval", pytest.param("seqnet_eval_resized", marks=pytest.mark.slow)])
def test_seqnet_evaluation(golden_dir, item):
    golden = load_golden(golden_dir, item)
    system = system_of(golden)
    scenes, scale = _eval_scenes(golden)
    golden.check("input_batch", scenes.image, relative=1e-5)
    found, seen, query = _look(golden, system, scenes, scale)
    golden.check("feat_res4", seen["features"], relative=1e-4)
    for name, ours, numbers in (
        ("rpn_objectness", "objectness", 1),
        ("rpn_deltas", "proposal_deltas", 4),
    ):
        stored = _per_anchor(golden.array(name), numbers)
        np.testing.assert_allclose(
            np.asarray(seen[ours][0]).reshape(stored.shape), stored, rtol=0, atol=1e-4 * np.abs(stored).max()
        )
    place = _same_set(np.asarray(seen["proposals"][0]), golden.array("proposals"))
    golden.check("prop_cls_logits", seen["first_logits"][0][place], relative=MODEL, layout=None)
    stored = golden.array("prop_regs")[:, 4:]
    np.testing.assert_allclose(
        seen["first_deltas"][0][place], stored, rtol=0, atol=MODEL * np.abs(stored).max()
    )
    valid = np.asarray(seen["first_valid"][0])
    place = _same_set(np.asarray(seen["first_boxes"][0])[valid], golden.array("boxes1"))
    golden.check("scores1", np.asarray(seen["first_scores"][0])[valid][place], relative=MODEL, layout=None)
    output = jax.tree.map(lambda x: np.asarray(x[0])[valid][place], seen["reid_output"])
    golden.check("raw_norm_logits", output.logit, relative=MODEL, layout=None)
    golden.check("raw_embeddings", _unit(output.embedding), relative=MODEL, layout=None)
    stored = golden.array("box_regs2")[:, 4:]
    np.testing.assert_allclose(output.deltas, stored, rtol=0, atol=MODEL * np.abs(stored).max())

    golden.check("query_embedding", _unit(query[0]), relative=MODEL, layout=None)
    _check_found(golden, jax.tree.map(lambda x: np.asarray(x[0]), found), scale)


def _eval_scenes(golden):
    """The scene of a file at the size that SeqNet looks at it, and the scale (x, y, x, y) from the file's pixels."""
    image = normalised(golden.input("image"))
    scale = np.ones(4, np.float32)
    if golden.item.startswith("seqnet"):
        shorter, longer = golden.meta["cfg"]["MIN_SIZE"], golden.meta["cfg"]["MAX_SIZE"]
        old = np.array(image.shape[1:])
        new = (old * min(shorter / old.min(), longer / old.max())).astype(int)
        image = np.asarray(jax.image.resize(image, (3, *new), "bilinear", antialias=False))
        scale = np.tile((new / old)[::-1], 2).astype(np.float32)
    return padded_scenes([image]), scale


def _check_found(golden, found, scale):
    """The stored boxes are in the file's pixels, the embeddings are multiplied by the score."""
    valid = found.valid
    stored = golden.array("det_boxes")
    assert valid.sum() == len(stored)
    place = _same_set(found.box[valid] / scale, stored)
    score, embedding = found.score[valid][place], _unit(found.embedding[valid][place])
    golden.check("det_scores", score, relative=MODEL, layout=None)
    golden.check("det_embeddings", score[:, None] * embedding, relative=MODEL, layout=None)
    assert np.all(np.diff(found.score[valid]) <= 0)


def test_nae_evaluation(golden_dir):
    golden = load_golden(golden_dir, "nae_eval")
    system = system_of(golden, **NAE)
    scenes, scale = _eval_scenes(golden)
    found, seen, query = _look(golden, system, scenes, scale)
    place = _same_set(np.asarray(seen["proposals"][0]), golden.array("proposals"))
    output = jax.tree.map(lambda x: np.asarray(x[0])[place], seen["reid_output"])
    golden.check("norm_logits", output.logit[:, None], relative=MODEL, layout=None)
    golden.check("norms", np.linalg.norm(output.embedding, axis=1)[:, None], relative=MODEL, layout=None)
    golden.check("query_embedding", _unit(query[0]), relative=MODEL, layout=None)
    _check_found(golden, jax.tree.map(lambda x: np.asarray(x[0]), found), scale)


def _training_batch(golden, spare_slots=1):
    count = len(golden.meta["sizes"])
    scenes = padded_scenes([normalised(golden.input(f"image{i}")) for i in range(count)])
    slots = max(len(golden.array(f"boxes{i}")) for i in range(count)) + spare_slots
    box = np.zeros((count, slots, 4), np.float32)
    identity = np.full((count, slots), -1, np.int32)
    valid = np.zeros((count, slots), bool)
    for i in range(count):
        labels = golden.array(f"labels{i}")
        n = len(labels)
        box[i, :n], valid[i, :n] = golden.array(f"boxes{i}"), True
        identity[i, :n] = np.where(labels == UNLABELLED, -1, labels - 1)
    person = np.where(identity >= 0, identity, 10_000 + np.arange(identity.size).reshape(identity.shape))
    return scenes, People(*map(jnp.asarray, (box, identity, person.astype(np.int32), valid)))


def _step(golden, system):
    variables = port_seqnet(golden.params(), system)
    scenes, people = _training_batch(golden)

    def total(params, rest):
        terms, changed = system.module.apply(
            {"params": params, **rest},
            scenes,
            people,
            method="losses",
            rngs={"sampling": jax.random.key(0)},
            mutable=["batch_stats", "memory", "intermediates"],
        )
        return sum(terms.values()), (terms, changed)

    rest = {name: tree for name, tree in variables.items() if name != "params"}
    gradients, (terms, changed) = jax.jit(jax.grad(total, has_aux=True))(variables["params"], rest)
    return variables, gradients, terms, changed


TERMS = {
    "loss_rpn_cls": "proposal_classification",
    "loss_rpn_reg": "proposal_regression",
    "loss_proposal_cls": "first_classification",
    "loss_proposal_reg": "first_regression",
    "loss_box_cls": "classification",
    "loss_box_reg": "regression",
    "loss_box_reid": "reid",
    "loss_objectness": "proposal_classification",
    "loss_rpn_box_reg": "proposal_regression",
    "loss_detection": "classification",
    "loss_reid": "reid",
}


def _check_terms(golden, terms):
    for name, ours in TERMS.items():
        if name in golden.meta["losses"]:
            if golden.item.startswith("nae") and name == "loss_box_reg":
                ours = "regression"
            np.testing.assert_allclose(terms[ours], golden.meta["losses"][name], rtol=LOSS, err_msg=name)


def _torch_gradients(golden, gradients, system):
    """Gradients under the names of the checkpoint."""
    flat = traverse_util.flatten_dict(gradients, sep="/")
    names = [name for name, _ in golden.meta["params"]]
    rules = match_rules(names, seqnet_rules(system))
    return {
        name: np.asarray(flat[rule.ours.removeprefix("params/")])
        for name, rule in rules.items()
        if rule.ours and rule.ours.startswith("params/")
    }


def _check_gradients(golden, gradients, system, spread):
    """Norms of all gradients, and their norm before clipping."""
    ours = _torch_gradients(golden, gradients, system)
    stored = {name: norm for name, norm in golden.meta["grad_l2"].items() if name in ours}
    assert len(stored) > 150
    for name, norm in stored.items():
        np.testing.assert_allclose(np.linalg.norm(ours[name]), norm, rtol=spread, atol=1e-6, err_msg=name)
    return ours


@pytest.mark.slow
def test_nae_training(golden_dir):
    golden = load_golden(golden_dir, "nae_train")
    system = system_of(golden, **NAE)
    _, gradients, terms, changed = _step(golden, system)
    sampled = _seen(changed)["sampled"]
    for i in range(len(golden.meta["sizes"])):
        golden.check(f"sampled_boxes{i}", sampled.box[i], relative=MODEL, layout=None)
        _check_identities(golden, sampled, i, f"sampled_pids{i}")
    _check_terms(golden, terms)
    _check_gradients(golden, gradients, system, spread=1e-2)


def _in_stored_order(golden, choose_proposals=choose_proposals):
    """`choose_proposals`, with our proposals in the order of the stored ones.

    Proposals whose objectness differs by less than the noise of float32 change places, and the sampling by place would
    then take other ones.
    """

    def order(box, valid, stored):
        distance = jnp.abs(box[None] - stored[:, None]).max(-1)
        place = jnp.argmin(jnp.where(valid[None], distance, jnp.inf), axis=1)
        count = len(stored)
        return jnp.zeros_like(box).at[:count].set(box[place]), jnp.arange(len(box)) < count

    def choose(*arguments, **options):
        box, valid = choose_proposals(*arguments, **options)
        rows = [order(box[i], valid[i], golden.array(f"proposals{i}")) for i in range(len(box))]
        return tuple(map(jnp.stack, zip(*rows, strict=True)))

    return choose


def _check_anchors(golden, seen, i):
    """Labels of a scene's anchors, and those that are sampled."""
    labels = np.asarray(seen["anchor_matched"][i])
    stored = golden.array(f"rpn_labels{i}")
    np.testing.assert_array_equal(np.where(labels >= 0, 1, np.where(labels == BACKGROUND, 0, -1)), stored)
    for name, ours in (("pos", "positive"), ("neg", "negative")):
        (index,) = np.nonzero(np.asarray(seen[f"anchor_{ours}"][i]))
        np.testing.assert_array_equal(index, np.sort(golden.array(f"rpn_{name}_idx{i}")))


@pytest.mark.slow
def test_seqnet_training(golden_dir, monkeypatch):
    golden = load_golden(golden_dir, "seqnet_train")
    system = system_of(golden)
    monkeypatch.setattr(_seqnet_training, "choose_proposals", _in_stored_order(golden))
    variables, gradients, terms, changed = _step(golden, system)
    seen = _seen(changed)
    for i in range(len(golden.meta["sizes"])):
        _check_anchors(golden, seen, i)
        exists = np.asarray(seen["proposals_exist"][i])
        _same_set(np.asarray(seen["proposals"][i])[exists], golden.array(f"proposals{i}"))
        for stage, sampled in ((1, seen["first_sampled"]), (2, seen["sampled"])):
            golden.check(f"stage{stage}_boxes{i}", sampled.box[i], relative=MODEL, layout=None)
            _check_identities(golden, sampled, i, f"stage{stage}_pids{i}")
    _check_terms(golden, terms)
    _check_memory(golden, variables["memory"], changed["memory"])
    ours = _check_gradients(golden, gradients, system, spread=1e-2)
    total = np.sqrt(sum(np.sum(np.square(g)) for n, g in ours.items() if n in golden.meta["grad_l2"]))
    np.testing.assert_allclose(total, golden.meta["total_norm_before_clip"], rtol=5e-3)
    _check_step(golden, system, variables["params"], gradients)
    _check_statistics(golden, system, changed["batch_stats"])


def _check_identities(golden, sampled, scene, name):
    stored = golden.array(name)
    np.testing.assert_array_equal(np.asarray(sampled.positive[scene]), stored > 0)
    identity = np.where(sampled.positive[scene], sampled.identity[scene], -2)
    expected = np.where(stored == 0, -2, np.where(stored == UNLABELLED, -1, stored - 1))
    np.testing.assert_array_equal(identity, expected)


def _check_memory(golden, before, after):
    """The rows of lookup table and queue that the step wrote, and where the queue goes on."""
    assert after["queue_header"] == golden.meta["header_cq_after"]
    for ours, theirs in (("lookup_table", "lut"), ("queue", "cq")):
        (rows,) = np.nonzero(np.any(np.asarray(before[ours]) != np.asarray(after[ours]), axis=1))
        np.testing.assert_array_equal(rows, golden.array(f"{theirs}_changed_rows"))
        golden.check(f"{theirs}_changed_values", after[ours][rows], relative=MODEL, layout=None)


def _check_step(golden, system, params, gradients):
    """Clipping and one step of SGD as in the paper's schedule after the warm-up."""
    phase = {"optimizer": "sgd", "learning_rate": 0.003, "weight_decay": 5e-4, "clip_norm": 10.0}
    trained = system.trainable(params)
    gradients = jax.tree.map(lambda x, trained: x if trained else jnp.zeros_like(x), gradients, trained)
    optimizer = make_optimizer(phase, lambda peak: lambda count: peak, system.group(params), trained)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    after = traverse_util.flatten_dict(optax.apply_updates(params, updates), sep="/")
    before = traverse_util.flatten_dict(params, sep="/")
    for name, rule in _rules(golden, system, "after_step:").items():
        moved = np.abs(np.asarray(after[rule]) - np.asarray(before[rule])).max()
        assert moved > 0
        layout = "OIHW" if after[rule].ndim == 4 else "OI" if after[rule].ndim == 2 else None
        golden.check(name, after[rule], relative=1e-5, layout=layout, noise=0.05 * moved)


def _check_statistics(golden, system, statistics):
    """Running statistics after the step."""
    flat = traverse_util.flatten_dict(statistics, sep="/")
    for name, path in _rules(golden, system, "after:").items():
        golden.check(name, flat[path], relative=MODEL, layout=None)


def _rules(golden, system, prefix):
    """Stored arrays with a prefix, and the paths of our variables, without collection, that they are of."""
    names = [name for name in golden.names if name.startswith(prefix)]
    rules = match_rules([name.removeprefix(prefix) for name in names], seqnet_rules(system))
    assert len(rules) == len(names) > 0
    return {prefix + name: rule.ours.partition("/")[2] for name, rule in rules.items()}
