"""SPNet's variables under the names of its authors' module, with what that module has besides."""

from collections.abc import Mapping

import numpy as np

from ps_jax.backbones.window_attention import log_spaced_offsets, relative_position_index
from ps_jax.errors import PortingError
from ps_jax.porting.rules import Rule, with_batch_counters
from ps_jax.porting.spnet import momentum_encoder_rules, spnet_rules
from ps_jax.systems import System

ANCHORS_NORM, FIRST_STAGE_NORM = (
    "head.anchor_classification_head.logits.norm.",
    "head.classification_head.0.head.norm.",
)


def spnet_export_rules(system: System) -> list[Rule]:
    """The table of the way back for one system, with the names that its options give where there are two."""
    module = system.module
    direct = module.bridge_type == "direct"

    def of_the_other_bridge(rule: Rule) -> bool:
        of_combiner = rule.torch.startswith("head.bridge_layer.{t}.linear.")
        return rule.torch.startswith("head.bridge_layer.") and of_combiner == direct

    rules = [rule for rule in spnet_rules(module.trunk) if not of_the_other_bridge(rule)]
    if module.reid_objective == "queue":  # its queue knows people by numbers of its own data
        rules = [rule for rule in rules if not rule.torch.startswith("head.reid_loss.")]
        rules += momentum_encoder_rules(module.trunk)
    return rules


def complete_spnet(tensors: Mapping[str, np.ndarray], system: System) -> dict[str, np.ndarray]:
    """Adds what the authors' module has and our variables do not need.

    Counters of batches (0, they are used nowhere), the Swin trunks' tables of relative positions (they follow from
    the window), and the first stage's second normalisation of logits, which is never trained (a copy of the other).

    Args:
      tensors: restored tensors by their name in the checkpoint.
      system: the system they are of.

    Returns:
      All tensors that its `load_state_dict` wants.

    Raises:
      PortingError: the trunk is SOLIDER's: its module holds copies of whole networks, classifiers too.
    """
    if system.module.trunk.startswith("solider_swin"):
        raise PortingError(
            "SPNet with a SOLIDER trunk cannot be written from scratch: its PyTorch module holds, unused, the whole "
            "network in every box embedder. Only a work directory that was ported from a checkpoint can be."
        )
    complete = with_batch_counters(tensors)
    for name in tensors:
        prefix, _, leaf = name.rpartition(".")
        if leaf == "relative_position_bias_table":
            complete[f"{prefix}.relative_position_index"] = _position_index(7)
        elif leaf == "logit_scale":
            complete[f"{prefix}.relative_position_index"] = _position_index(8)
            complete[f"{prefix}.relative_coords_table"] = log_spaced_offsets(8).reshape(1, 15, 15, 2)
    for name in [name for name in complete if name.startswith(ANCHORS_NORM)]:
        complete.setdefault(FIRST_STAGE_NORM + name.removeprefix(ANCHORS_NORM), complete[name])
    return complete


def _position_index(window: int) -> np.ndarray:
    return relative_position_index(window).reshape(-1).astype(np.int64)
