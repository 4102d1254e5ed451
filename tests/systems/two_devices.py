"""Run as a program on two CPU devices: prints how far a step on two devices is from one on a single device.

Arguments: mode (of SPNet "oc" or "qc", else "seqnet", "nae", "alignps", "roi_alignps" or "leaps"), trunk ("tiny" or a
trunk's name), variant (of SPNet "", "queue" or "large").
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import tiny_alignps
import tiny_leaps
import tiny_roi_alignps
import tiny_seqnet
from test_leaps import spread
from tiny_spnet import LARGE, OPTIONS, batch, tiny_trunk, two_views

from ps_jax.interface import People, Scenes
from ps_jax.systems import alignps, build_system, leaps, seqnet, spnet

AXIS = "device"
# For a mode the system, and its options beside the trunk.
SYSTEMS = {
    "oc": ("spnet", OPTIONS | {"mode": "oc"}),
    "qc": ("spnet", OPTIONS | {"mode": "qc"}),
    "seqnet": ("seqnet", tiny_seqnet.OPTIONS),
    "nae": ("seqnet", tiny_seqnet.OPTIONS | tiny_seqnet.NAE),
    "alignps": ("alignps", tiny_alignps.OPTIONS),
    "roi_alignps": ("roi_alignps", tiny_roi_alignps.OPTIONS | tiny_roi_alignps.MUTUAL),
    "leaps": ("leaps", tiny_leaps.OPTIONS | {"triplet": True, "match_threshold": 0.2}),
}


def projectors(params):
    """The projections to embeddings of boxes, of whatever system."""
    for name in ("box_embedder", "reid_predictor"):
        part = params.get(name, {})
        part = part.get("embedding", part)
        if "projector" in part:
            yield part["projector"]


def main(mode: str, trunk: str, variant: str) -> None:
    assert jax.device_count() == 2
    name, options = SYSTEMS[mode]
    options = options | {"trunk": trunk, "num_identities": 12}
    if variant == "queue":  # at a temperature at which the momentum encoder's own people are not certain
        options |= {"reid_objective": "queue", "queue_size": 20, "oim_scale": 2.0}
    if variant == "large":  # with a batch normalisation of lengths, too
        options |= LARGE | {"logit_scale": "batch"}
    if trunk == "tiny":
        spnet.build_trunk = seqnet.build_trunk = alignps.build_trunk = leaps.build_trunk = tiny_trunk
        if name in ("spnet", "seqnet"):
            options["stochastic_depth"] = 0.5
    scenes, people = batch((2, 0, 3, 1))
    if mode == "qc":  # the views of a picture lie on different devices
        scenes, people = jax.tree.map(lambda x: x[jnp.array([0, 2, 1, 3])], two_views((2, 1)))
    one, two = build_system(name, options), build_system(name, options | {"axis_name": AXIS})
    variables = one.init(jax.random.key(0), scenes, people)
    if variant != "queue":  # memories that are partly filled, so that there is a re-identification loss
        for number, table_name in enumerate(("lookup_table", "box_table")):
            if table_name in variables["memory"]:
                table = variables["memory"][table_name]
                table = jax.random.normal(jax.random.key(1 + 10 * number), table.shape)
                table = table / jnp.linalg.norm(table, axis=-1, keepdims=True)
                variables["memory"][table_name] = table.at[..., 1, :].set(0.0)
    if name == "leaps":
        variables = spread(variables)
    # The initial projection is so small that the normalisation behind it would magnify rounding.
    encoders = [variables, variables["memory"].get("momentum_encoder")]
    for encoder in filter(None, encoders):
        for projector in projectors(encoder["params"]):
            for half in ("shallow_linear", "deep_linear"):
                projector[half]["kernel"] = 100.0 * projector[half]["kernel"]

    def step(system, variables, scenes, people, key):
        def total(params):
            terms, changed = system.losses({**variables, "params": params}, scenes, people, key)
            return sum(terms.values()), (terms, changed)

        gradient, (terms, changed) = jax.grad(total, has_aux=True)(variables["params"])
        return gradient, terms, changed

    def shared_step(variables, scenes, people, key):
        gradient, terms, changed = step(two, variables, scenes, people, key)
        return jax.lax.psum((gradient, terms), AXIS), changed

    key = jax.random.key(2)
    gradient, terms, changed = jax.jit(lambda *args: step(one, *args))(variables, scenes, people, key)

    def split(tree):
        return jax.tree.map(lambda x: x.reshape(2, x.shape[0] // 2, *x.shape[1:]), tree)

    shares = jax.pmap(shared_step, AXIS, in_axes=(None, 0, 0, None))(
        variables,
        split(Scenes(scenes.image, scenes.size)),
        split(People(*people)),
        key,
    )
    (gradient_, terms_), changed_ = jax.device_get(shares)

    def difference(a, b):
        a, b = jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(b)
        largest = max((float(np.abs(x).max()) for x in a), default=0.0)
        differences = (float(np.abs(x - y[0]).max()) for x, y in zip(a, b, strict=True))
        return max(differences, default=0.0) / max(largest, 1e-9)

    def replicas(tree):
        return max(float(np.abs(x[0] - x[1]).max()) for x in jax.tree.leaves(tree))

    memories = {
        name: difference(memory, changed_["memory"][name]) for name, memory in changed["memory"].items()
    }
    report = {
        "terms": {name: float(value) for name, value in terms.items()},
        "term": max(
            abs(float(terms[name]) - float(terms_[name][0])) / abs(float(terms[name])) for name in terms
        ),
        "gradient": difference(gradient, gradient_),
        "memory": memories,
        "batch_stats": difference(*(tree.get("batch_stats", {}) for tree in (changed, changed_))),
        "replicas": replicas(changed_),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
