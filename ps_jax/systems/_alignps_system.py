"""AlignPS and ROI-AlignPS behind the interface of all systems: pixels, the trunk's weights, what is not trained."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import traverse_util

from ps_jax.backbones import CAFFE_MEAN, CAFFE_STD
from ps_jax.systems._system import System, Variables
from ps_jax.systems._trunk_freezing import trained_in_trunk
from ps_jax.systems.alignps import AlignPS
from ps_jax.systems.roi_alignps import ROIAlignPS

BACKBONE, LAST_STAGE, OFFSET = "backbone", "stage4", "offset"


class AlignPSSystem(System):
    """AlignPS and AlignPS+ behind the interface of all systems."""

    name = "alignps"
    module_class = AlignPS
    test_options: ClassVar[tuple[str, ...]] = ("nms_threshold", "detections_per_scene", "top_locations")

    def __init__(self, model):
        super().__init__(model)
        if self.module.trunk.endswith("_caffe"):
            self.pixel_mean, self.pixel_std = CAFFE_MEAN, CAFFE_STD

    def trainable(self, params):
        """See `System.trainable`; the trunk's first stages and normalisation as the options say."""
        trained = super().trainable(params)
        trunk = trained_in_trunk(trained[BACKBONE], self.module.frozen_stages, self.module.freeze_norms)
        return {**trained, BACKBONE: trunk}

    def trunk(self, variables: Variables) -> dict[str, Any]:
        """See `System.trunk`; without offsets, which no trunk that was trained to classify has."""
        return {
            name: traverse_util.unflatten_dict(
                {path: leaf for path, leaf in traverse_util.flatten_dict(tree).items() if OFFSET not in path}
            )
            for name, tree in super().trunk(variables).items()
        }

    def with_trunk(self, variables, trunk, classifier=None):
        """See `System.with_trunk`; offsets stay as they are."""
        whole = {
            name: traverse_util.unflatten_dict(
                traverse_util.flatten_dict(variables[name][BACKBONE]) | traverse_util.flatten_dict(tree)
            )
            for name, tree in trunk.items()
        }
        return super().with_trunk(variables, whole, classifier)


class ROIAlignPSSystem(AlignPSSystem):
    """ROI-AlignPS behind the interface of all systems."""

    name = "roi_alignps"
    module_class = ROIAlignPS
    test_options = (*AlignPSSystem.test_options, "branch")

    @property
    def branches(self):
        """See `System.branches`."""
        return 2 if self.module.branch == "both" else 1

    def init(self, rng, scenes, people):
        """See `System.init`. The box branch starts with the trunk's last stage."""
        return _with_last_stage(super().init(rng, scenes, people))

    def trainable(self, params):
        """See `AlignPSSystem.trainable`; the box branch's last stage is trained as the trunk's."""
        trained = super().trainable(params)
        return {**trained, "reid_head": {"last_stage": trained[BACKBONE][LAST_STAGE]}}

    def with_trunk(self, variables, trunk, classifier=None):
        """See `System.with_trunk`. The trunk's last stage goes into the box branch, too."""
        return _with_last_stage(super().with_trunk(variables, trunk, classifier))


def _with_last_stage(variables):
    """The variables with a copy of the trunk's last stage in the box branch."""
    result = dict(variables)
    for name, collection in variables.items():
        if LAST_STAGE in collection.get(BACKBONE, {}):
            stage = jax.tree.map(jnp.copy, collection[BACKBONE][LAST_STAGE])
            result[name] = {
                **collection,
                "reid_head": {**collection.get("reid_head", {}), "last_stage": stage},
            }
    return result
