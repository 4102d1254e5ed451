"""LEAPS behind the interface of all systems: what is not trained, what a pre-trained one is taken over of."""

import jax
from absl import logging

from ps_jax.systems._system import System
from ps_jax.systems._trunk_freezing import trained_in_trunk
from ps_jax.systems.leaps import LEAPS

HEAD = "reid_head_"  # and a number, of the parameters


class LEAPSSystem(System):
    """LEAPS behind the interface of all systems."""

    name = "leaps"
    module_class = LEAPS
    test_options = ()
    embeds_given_boxes = False

    @property
    def branches(self):
        """See `System.branches`."""
        return len(self.module.branches)

    def trainable(self, params):
        """See `System.trainable`; the trunk's first stages as the options say."""
        trained = super().trainable(params)
        trunk = trained_in_trunk(trained["backbone"], self.module.frozen_stages, freeze_norms=False)
        return {**trained, "backbone": trunk}

    def transfer(self, pretrained, fresh, pretrained_by=None):
        """See `System.transfer`; heads that re-identify start anew where the pre-trained ones are built otherwise.

        So a training goes on from a detector alone, or from one with other branches.
        """
        variables = super().transfer(pretrained, fresh, pretrained_by)
        params = dict(variables["params"])
        heads = [name for name in fresh["params"] if name.startswith(HEAD)]
        shapes = [
            jax.tree.map(lambda leaf: leaf.shape, {name: tree.get(name) for name in heads})
            for tree in (params, fresh["params"])
        ]
        if shapes[0] != shapes[1] or any(name.startswith(HEAD) and name not in heads for name in params):
            logging.info(
                "the heads that re-identify are built otherwise than the pre-trained ones; they start anew"
            )
            params = {name: tree for name, tree in params.items() if not name.startswith(HEAD)}
            params |= {name: fresh["params"][name] for name in heads}
        return {**variables, "params": params}
