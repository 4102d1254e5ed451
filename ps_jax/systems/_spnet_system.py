"""SPNet behind the interface of all systems: what its variables start from, and what moves them besides gradients."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ps_jax.errors import ConfigError
from ps_jax.systems._spnet_lwf import CLASSIFIER, TEACHER, copy_teacher
from ps_jax.systems._spnet_reid import ENCODER_PARTS, MOMENTUM_ENCODER, copy_encoder, follow_encoder
from ps_jax.systems._spnet_transfer import carry_over
from ps_jax.systems._system import System, Variables
from ps_jax.systems._trunk_tuning import (
    BACKBONE,
    LORA,
    check_tuning,
    low_rank_factors,
    merge_lora,
    trained_trunk,
)
from ps_jax.systems.spnet import SPNet

LAST_STAGE = "stage4"  # of every trunk


class SPNetSystem(System):
    """SPNet behind the interface of all systems."""

    name = "spnet"
    module_class = SPNet
    test_options = ("nms_threshold", "detections_per_scene", "top_anchors", "query_top_anchors")

    @property
    def search_mode(self) -> str:
        """See `System.search_mode`: the path that was trained."""
        return self.module.mode

    def in_parts(self, count):
        """See `System.in_parts`. Every micro-batch has its part of the batch's pairs and anchors.

        Raises:
          ConfigError: if they cannot be shared evenly.
        """
        module, options = self.module, {}
        names = ("pairs_per_batch", "anchors_per_batch") if module.mode == "qc" else ("anchors_per_batch",)
        for name in names:
            whole = getattr(module, name)
            if whole is not None and whole % count:
                raise ConfigError(
                    f"{name} is {whole}, which {count} micro-batches (accumulate_steps) cannot share"
                )
            options[name] = whole and whole // count
        return self.changed(**options)

    def init(self, rng, scenes, people):
        """See `System.init`. The box embedder's stage starts as a copy of the trunk's last stage."""
        return self._with_copies(_copy_last_stage(super().init(rng, scenes, people)))

    def _initialise(self, rng):
        variables = super()._initialise(rng)
        check_tuning(self.module.backbone_tuning, variables)
        if self.module.backbone_tuning.startswith("lora"):
            factors = low_rank_factors(jax.random.fold_in(rng, 0), variables["params"][BACKBONE])
            variables["params"] = {**variables["params"], LORA: factors}
        return self._with_copies(variables)

    def _with_copies(self, variables: Variables) -> dict[str, Any]:
        """The variables with a momentum encoder and a teacher, where wanted, equal to what is trained."""
        memory, trained = dict(variables["memory"]), self._merged(variables)
        if self.module.reid_objective == "queue":
            memory[MOMENTUM_ENCODER] = copy_encoder(trained)
        if self.module.lwf != "none":
            memory[TEACHER] = copy_teacher(trained)
        return {**variables, "memory": memory}

    def _merged(self, variables: Variables) -> dict[str, Any]:
        """The variables as the module takes them, low-rank changes added to the trunk."""
        return {**variables, "params": merge_lora(variables["params"])}

    def losses(self, variables, scenes, people, rng):
        """See `System.losses`."""
        return super().losses(self._merged(variables), scenes, people, rng)

    def _apply(self, method, variables, scenes, *arguments):
        return super()._apply(method, self._merged(variables), scenes, *arguments)

    def trainable(self, params):
        """See `System.trainable`; what `backbone_tuning` and `reid_only` leave out stays as it is."""
        parts = (*ENCODER_PARTS, LORA, CLASSIFIER) if self.module.reid_only else params
        trained = {part: jax.tree.map(lambda _, part=part: part in parts, params[part]) for part in params}
        return {**trained, BACKBONE: trained_trunk(self.module.backbone_tuning, params[BACKBONE])}

    def group(self, params):
        """See `System.group`. Low-rank changes belong to the trunk."""
        group = super().group(params)
        return group | {LORA: jax.tree.map(lambda _: "backbone", params[LORA])} if LORA in params else group

    @property
    def needs_weights(self) -> bool:
        """See `System.needs_weights`: without them there is nothing not to forget."""
        return self.module.lwf != "none"

    def with_trunk(self, variables, trunk, classifier=None):
        """See `System.with_trunk`. The copies of the trunk or of its last stage become copies of the new one."""
        variables = _copy_last_stage(super().with_trunk(variables, trunk, classifier))
        return self._with_copies(variables)

    def after_step(self, before, after):
        """See `System.after_step`. The momentum encoder follows the parameters that the step began with."""
        if self.module.reid_objective != "queue":
            return after
        encoder = follow_encoder(
            after.memory[MOMENTUM_ENCODER], merge_lora(before.params), self.module.encoder_momentum
        )
        return after.replace(memory={**after.memory, MOMENTUM_ENCODER: encoder})

    def transfer(
        self, pretrained: Variables, fresh: Variables, pretrained_by: System | None = None
    ) -> dict[str, Any]:
        """See `System.transfer` and `ps_jax.systems._spnet_transfer.carry_over`.

        Heads that start anew have the trunk's last stage as it was pre-trained. Low-rank changes are merged into the
        trunk, and a classifier goes where it is not used.

        Raises:
          ConfigError: if the phase is to start from what the one before did not have.
        """
        trained = self._merged(pretrained)
        if self.module.start_from_momentum_encoder:
            if MOMENTUM_ENCODER not in pretrained["memory"]:
                raise ConfigError(
                    "start_from_momentum_encoder is set, but the phase before has no momentum encoder. "
                    "Train that phase with reid_objective 'queue', or leave this option out."
                )
            for name, tree in pretrained["memory"][MOMENTUM_ENCODER].items():
                trained[name] = {**trained[name], **tree}
        trunk = {
            name: trained[name].get(BACKBONE, tree[BACKBONE])
            for name, tree in fresh.items()
            if BACKBONE in tree
        }
        fresh = self.with_trunk(fresh, trunk)
        before = pretrained_by.module if pretrained_by is not None else self.module
        carried = {
            name: carry_over(trained[name], fresh[name], before, self.module)
            for name in ("params", "batch_stats")
        }
        return self._transfer_classifier(self._with_copies({**fresh, **carried}), pretrained)

    def _transfer_classifier(self, variables: Variables, pretrained: Variables) -> dict[str, Any]:
        """Keeps classifier and teacher of the phase before where this one goes on with them, else drops them."""
        if self.module.lwf == "none":
            return {
                name: {part: tree for part, tree in collection.items() if part != CLASSIFIER}
                for name, collection in variables.items()
            }
        if TEACHER not in pretrained["memory"]:
            raise ConfigError(
                f"lwf is {self.module.lwf!r}, but what this phase starts from has no classifier. Use lwf in the "
                "first phase, which starts from config.weights, or in all phases."
            )
        return {**variables, "memory": {**variables["memory"], TEACHER: pretrained["memory"][TEACHER]}}


def _copy_last_stage(variables: Variables) -> dict[str, Any]:
    """Puts copies of the trunk's last stage into all box embedders."""
    result: dict[str, Any] = dict(variables)
    for name in ("params", "batch_stats"):
        collection: Mapping[str, Any] = variables[name]
        if LAST_STAGE in collection.get("backbone", {}):
            result[name] = {
                part: {**tree, "last_stage": jax.tree.map(jnp.copy, collection["backbone"][LAST_STAGE])}
                if "last_stage" in tree
                else tree
                for part, tree in collection.items()
            }
    return result
