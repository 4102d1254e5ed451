"""RDLR behind the interface of all systems: pixels of both networks, the trunk's weights, what is not trained."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ps_jax.backbones import CAFFE_STD
from ps_jax.errors import ConfigError
from ps_jax.systems._system import System, Variables, standardised
from ps_jax.systems._trunk_freezing import trained_in_trunk
from ps_jax.systems.rdlr import CROP_MEAN, CROP_STD, RDLR

DETECTOR, REID, BACKBONE, PROPOSALS = "detector", "reid", "backbone", "rpn"
CLASSIFIER = "classifier"  # of the re-identification network
# RGB, of Caffe's weights as Detectron and maskrcnn-benchmark have it; `CAFFE_MEAN` is MMDetection's.
DETECTRON_MEAN = (122.7717 / 255, 115.9465 / 255, 102.9801 / 255)


class RDLRSystem(System):
    """RDLR behind the interface of all systems."""

    name = "rdlr"
    module_class = RDLR
    test_options: ClassVar[tuple[str, ...]] = ("nms_threshold", "detections_per_scene")

    def __init__(self, model):
        super().__init__(model)
        if self.trunk_name.endswith("_caffe"):
            self.pixel_mean, self.pixel_std = DETECTRON_MEAN, CAFFE_STD

    @property
    def trunk_name(self) -> str:
        """See `System.trunk_name`; the detector's."""
        return self.module.detector_options.get("trunk", "resnet50")

    def losses(self, variables, scenes, people, rng):
        """See `System.losses`. While the re-identification network is trained, scenes are crops, u8 or normalised."""
        if self.module.stage == "reid" and jnp.asarray(scenes.image).dtype == jnp.uint8:
            scenes = scenes._replace(image=standardised(scenes.image, CROP_MEAN, CROP_STD))
        return super().losses(variables, scenes, people, rng)

    def trainable(self, params):
        """See `System.trainable`; only one of the networks is trained."""
        nothing = jax.tree.map(lambda _: False, params)
        everything = super().trainable(params)
        if self.module.stage == "reid":
            reid = everything[REID]
            return {**nothing, REID: {**reid, "bottleneck": {**reid["bottleneck"], "bias": False}}}
        options = {"frozen_stages": 1, "freeze_norms": True} | {
            name: value
            for name, value in self.module.detector_options.items()
            if name in ("frozen_stages", "freeze_norms")
        }
        detector = {**everything[DETECTOR], BACKBONE: trained_in_trunk(params[DETECTOR][BACKBONE], **options)}
        if self.module.stage == "refine" and self.module.freeze_proposals:
            detector[PROPOSALS] = nothing[DETECTOR][PROPOSALS]
        return {**nothing, DETECTOR: detector}

    @property
    def trains(self):
        """See `System.trains`."""
        return (REID, CLASSIFIER) if self.module.stage == "reid" else (DETECTOR,)

    def check_start(self, trained, people):
        """See `System.check_start`; only the refinement builds on anything."""
        if self.module.stage != "refine":
            return
        if DETECTOR not in trained:
            raise ConfigError(
                "the refinement starts from a detector that was never trained: name the work directory of its "
                "training, --config.pretrained=WORKDIR, or put that phase before it"
            )
        if REID not in trained:
            raise ConfigError(
                "the refinement starts from a re-identification network that was never trained: name one, "
                "--config.reid_weights=, a work directory of its training or weights of OSNet or reid_baseline (a "
                "trunk alone, such as torchvision's, is none), or put that phase before it"
            )
        if self.module.softmax and trained.get(CLASSIFIER) != people:
            raise ConfigError(
                "the softmax loss needs a classifier of the people of this training set, and the re-identification "
                "network that the refinement starts from was not trained with one: train it on them (rdlr_reid.py), "
                "or set model.softmax=False"
            )

    def group(self, params):
        """See `System.group`; both networks have a trunk."""
        return {network: super(RDLRSystem, self).group(tree) for network, tree in params.items()}

    def trunk(self, variables: Variables) -> dict[str, Any]:
        """See `System.trunk`; the detector's."""
        return super().trunk({name: tree[DETECTOR] for name, tree in variables.items() if DETECTOR in tree})

    def with_trunk(self, variables, trunk, classifier=None):
        """See `System.with_trunk`; the detector's."""
        detector = {name: tree[DETECTOR] for name, tree in variables.items() if DETECTOR in tree}
        return _with_part(variables, DETECTOR, super().with_trunk(detector, trunk, classifier))

    def reid_network(self, variables: Variables) -> dict[str, PyTree]:
        """The variables of the re-identification network: {"params", "batch_stats"}."""
        return {name: tree[REID] for name, tree in variables.items() if REID in tree}

    def with_reid_network(self, variables: Variables, network: Variables) -> dict[str, PyTree]:
        """Variables with another re-identification network, trained elsewhere.

        Args:
          variables: as `init` makes them.
          network: as `reid_network` returns it, or parts of it; what is missing stays.

        Raises:
          ConfigError: a part has other shapes.
        """
        parts = {}
        for name, tree in self.reid_network(variables).items():
            new = {part: network[name][part] for part in tree if part in network.get(name, {})}
            for part, value in new.items():
                if jax.tree.map(jnp.shape, value) != jax.tree.map(jnp.shape, tree[part]):
                    raise ConfigError(
                        f"the re-identification network has another {part} ({name}) than config.model says: set "
                        "model.reid_trunk to that of its training"
                    )
            parts[name] = {**tree, **new}
        return _with_part(variables, REID, parts)

    def transfer(self, pretrained, fresh, pretrained_by=None):
        """See `System.transfer`. The classifier is left out where this phase has none."""
        carried = super().transfer(pretrained, fresh, pretrained_by)
        parts = {
            name: {part: value for part, value in tree.items() if part in fresh[name][REID]}
            for name, tree in self.reid_network(carried).items()
        }
        return _with_part(carried, REID, parts)


def _with_part(variables: Variables, network: str, parts: Variables) -> dict[str, PyTree]:
    return {
        name: {**tree, network: parts[name]} if name in parts else tree for name, tree in variables.items()
    }
