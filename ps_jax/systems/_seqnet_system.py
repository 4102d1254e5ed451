"""The SeqNet family behind the interface of all systems: where trunk weights go, and what is not trained."""

from typing import Any

import jax
import jax.numpy as jnp

from ps_jax.systems._system import System, Variables
from ps_jax.systems._trunk_freezing import STEM
from ps_jax.systems.seqnet import SeqNet

BACKBONE, LAST_STAGE = "backbone", "stage4"  # the trunk's last stage lies in the heads
HEADS = ("box_head", "reid_head")


class SeqNetSystem(System):
    """SeqNet, NAE and OIM behind the interface of all systems."""

    name = "seqnet"
    module_class = SeqNet
    test_options = (
        "first_score",
        "suppress_between",
        "embed_detections",
        "test_proposals",
        "first_nms_threshold",
        "nms_threshold",
        "detections_per_scene",
    )

    def init(self, rng, scenes, people):
        """See `System.init`. Both heads start with equal last stages."""
        variables = super().init(rng, scenes, people)
        return _with_last_stages(variables, _last_stage(variables))

    def trainable(self, params):
        """See `System.trainable`; the trunk's stem is left as it is where `freeze_stem` says so."""
        trained = super().trainable(params)
        if self.module.freeze_stem:
            for part in STEM:
                if part in trained[BACKBONE]:
                    trained[BACKBONE][part] = jax.tree.map(lambda _: False, trained[BACKBONE][part])
        return trained

    def trunk(self, variables: Variables) -> dict[str, Any]:
        """See `System.trunk`."""
        whole = super().trunk(variables)
        for name, stage in _last_stage(variables).items():
            whole[name] = {**whole.get(name, {}), LAST_STAGE: stage}
        return whole

    def with_trunk(self, variables, trunk, classifier=None):
        """See `System.with_trunk`. The trunk's last stage goes into every head."""
        last = {name: tree[LAST_STAGE] for name, tree in trunk.items() if LAST_STAGE in tree}
        stem = {
            name: {part: value for part, value in tree.items() if part != LAST_STAGE}
            for name, tree in trunk.items()
        }
        return _with_last_stages(super().with_trunk(variables, stem, classifier), last)


def _last_stage(variables: Variables) -> dict[str, Any]:
    """The collections of the re-identification head's copy of the trunk's last stage."""
    return {
        name: collection["reid_head"]["last_stage"]
        for name, collection in variables.items()
        if "last_stage" in collection.get("reid_head", {})
    }


def _with_last_stages(variables: Variables, last: Variables) -> dict[str, Any]:
    """The variables with copies of one last stage in all heads."""
    result: dict[str, Any] = dict(variables)
    for name, stage in last.items():
        copies = {
            head: {**variables[name][head], "last_stage": jax.tree.map(jnp.copy, stage)}
            for head in HEADS
            if head in variables[name]
        }
        result[name] = {**variables[name], **copies}
    return result
