"""What a phase of SPNet takes over from the one before, which may have had fewer stages or shared heads.

See SPNet, section 9.2, "Cascaded Weight Loading": a large model is fine-tuned from a pre-trained small one.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import PyTree

# Parts that there is one of for each stage, and the number of the first
STAGE_PARTS = {"bridge": 0, "regression_head": 0, "classification_head": 0, "location_embedder": 1}


def carry_over(
    pretrained: Mapping[str, PyTree], fresh: Mapping[str, PyTree], before: nn.Module, after: nn.Module
) -> dict[str, PyTree]:
    """One collection of variables for the next phase.

    Everything comes from the phase before, but for
    - the bridge of a query-centric phase, which did not train it;
    - where that phase located boxes by the embeddings of re-identification and this one has heads for it: the first
      of these gets a copy of that embedder's last stage, and both projections start anew ("PT");
    - stages that the phase before did not have: they start anew, or with `replicate_stages` as copies of the first
      ("PT-Rep").

    Args:
      pretrained: the collection ("params" or "batch_stats") at the end of the phase before.
      fresh: the collection as this phase would start it; says what "anew" is.
      before, after: the two phases' SPNet modules.

    Returns:
      The collection. What does not fit this phase's model is in it as it was.
    """
    carried: dict[str, Any] = dict(pretrained)
    if before.mode == "qc":
        carried = {part: tree for part, tree in carried.items() if not part.startswith("bridge_")}
    if after.separate_location_heads and not before.separate_location_heads:
        shared = carried.pop("box_embedder", {})
        stage = {"last_stage": shared["last_stage"]} if "last_stage" in shared else {}
        heads = ["box_embedder", "location_embedder_1"]
        if after.replicate_stages:
            heads += [f"location_embedder_{step}" for step in range(2, after.num_cascade_steps + 1)]
        carried |= {head: {**fresh[head], **_copy(stage)} for head in heads if head in fresh}
    if after.replicate_stages:
        for part, first in STAGE_PARTS.items():
            for number in range(first + 1, after.num_cascade_steps + 1):
                if f"{part}_{first}" in carried:
                    carried.setdefault(f"{part}_{number}", _copy(carried[f"{part}_{first}"]))
    return {**fresh, **carried}


def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)
