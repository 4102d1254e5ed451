"""The interface that the trainer, the evaluator and the porter know; they know no system by name."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree

from ps_jax.errors import ConfigError
from ps_jax.interface import ArrayLike, Detections, People, Scenes

Variables = Mapping[str, Any]


def standardised(
    image: ArrayLike, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> Float[Array, "*rows channel"]:
    """Pixels 0 .. 255 as float32, less the mean, over the deviation, of channels in 0 .. 1."""
    return (jnp.asarray(image).astype(jnp.float32) / 255.0 - jnp.asarray(mean)) / jnp.asarray(deviation)


class System:
    """A person-search model as functions of its variables.

    Variables are {"params", "batch_stats", "memory"}; `memory` holds what is neither trained nor a statistic
    of the images (lookup tables, queues) and may be empty. All methods are pure and can be jitted.

    A subclass names its Linen module class, which has the methods `initialise()`, `losses(scenes, people)`,
    `detect(scenes)`, `embed(scenes, boxes)` and, where it searches query by query, `look(scenes)`,
    `find(scenes, queries, looked)` and possibly `embed_queries(scenes, boxes)`, all taking normalised images.

    Attributes:
      name: the system's name in a configuration.
      module_class: class of the Linen module.
      pixel_mean, pixel_std: mean and standard deviation of the RGB channels in 0 .. 1 that images are
        normalised with (ImageNet's).
      module: the module, built from the keyword arguments in `model`.
      test_options: options of the module that change what it finds, but no variables and no training.
      embeds_given_boxes: whether `embed` looks at the given boxes; False: at the prediction that overlaps each most.
    """

    name: ClassVar[str]
    module_class: ClassVar[type[nn.Module]]
    test_options: ClassVar[tuple[str, ...]] = ("nms_threshold", "detections_per_scene")
    embeds_given_boxes: ClassVar[bool] = True
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __init__(self, model: Mapping[str, Any]):
        known = {f.name: f for f in dataclasses.fields(self.module_class) if f.name not in ("parent", "name")}
        for key in model:
            if key not in known:
                options = ", ".join(sorted(known))
                raise ConfigError(f"{self.name}: the model has no option {key!r}. Its options: {options}.")
        for key, field in known.items():
            required = field.default is field.default_factory is dataclasses.MISSING
            if required and key not in model:
                raise ConfigError(f"{self.name}: the model needs {key!r}. Add it to the model's options.")
        self.module = self.module_class(**model)

    def changed(self, **model: Any) -> "System":
        """The same system with other options of its module."""
        options = {f.name: getattr(self.module, f.name) for f in dataclasses.fields(self.module_class)}
        options = {name: value for name, value in options.items() if name not in ("parent", "name")}
        return type(self)(options | model)

    def in_parts(self, count: int) -> "System":
        """The system for a step that takes its batch in `count` micro-batches; the same unless it counts in batches."""
        del count
        return self

    @property
    def search_mode(self) -> str:
        """How the system is searched with: "oc", everybody found at once, or "qc", query by query."""
        return "oc"

    def normalise(self, scenes: Scenes) -> Scenes:
        """Turns u8 images into normalised float32 ones with zeros in the padding; leaves float images as are."""
        image = jnp.asarray(scenes.image)
        if image.dtype != jnp.uint8:
            return scenes
        image = standardised(image, self.pixel_mean, self.pixel_std)
        size = jnp.asarray(scenes.size)[:, None, None, :]
        rows = jnp.arange(image.shape[1])[:, None] < size[..., 0]
        columns = jnp.arange(image.shape[2])[None, :] < size[..., 1]
        return scenes._replace(image=jnp.where((rows & columns)[..., None], image, 0.0))

    def init(self, rng: Key[Array, ""], scenes: Scenes, people: People) -> dict[str, PyTree]:
        """Makes the variables before training.

        Args:
          rng: random key.
          scenes, people: a batch, so that systems whose variables depend on sizes can see them.

        Returns:
          {"params", "batch_stats", "memory"}.
        """
        del scenes, people
        return self._initialise(rng)

    def _initialise(self, rng: Key[Array, ""]) -> dict[str, PyTree]:
        def make(rng):
            # The hardware's generator compiles in a third of the time of the default one.
            data = jax.random.key_data(rng).reshape(-1)
            key = jax.random.wrap_key_data(jnp.resize(data, 4), impl="rbg")
            return self.module.init(key, method="initialise")

        variables = jax.jit(make)(rng)
        return {name: variables.get(name, {}) for name in ("params", "batch_stats", "memory")}

    @functools.cached_property
    def template(self) -> dict[str, PyTree]:
        """Shapes and types of all variables, without computing any."""
        return jax.eval_shape(self._initialise, jax.random.key(0))

    def losses(
        self, variables: Variables, scenes: Scenes, people: People, rng: Key[Array, ""]
    ) -> tuple[dict[str, Float[Array, ""]], dict[str, PyTree]]:
        """The terms of the training loss and what changes beside the parameters.

        Args:
          variables: {"params", "batch_stats", "memory"}.
          scenes, people: a batch; under a device axis, this device's part of it.
          rng: random key of the step, the same on all devices.

        Returns:
          Named scalar terms whose sum is the loss (under a device axis: this device's share; the sum over
          devices is the loss of the global batch), and the new {"batch_stats", "memory"}.
        """
        sampling, stochastic_depth = jax.random.split(rng)
        terms, changed = self.module.apply(
            variables,
            self.normalise(scenes),
            people,
            method="losses",
            rngs={"sampling": sampling, "stochastic_depth": stochastic_depth},
            mutable=["batch_stats", "memory"],
        )
        return terms, {name: changed.get(name, {}) for name in ("batch_stats", "memory")}

    def detect(self, variables: Variables, scenes: Scenes) -> Detections:
        """Finds people and embeds them: `Detections` with arrays [B, K, ...]."""
        return self._apply("detect", variables, scenes)

    def embed(
        self, variables: Variables, scenes: Scenes, boxes: Float[Array, "batch box 4"]
    ) -> Float[Array, "batch box dimension"]:
        """Embeds given boxes of every scene, queries for example, for comparison with what is detected or found."""
        return self._apply("embed", variables, scenes, boxes)

    def embed_queries(
        self, variables: Variables, scenes: Scenes, boxes: Float[Array, "batch box 4"]
    ) -> Float[Array, "batch box dimension"]:
        """Embeds given boxes of every scene for `find`; as `embed`, unless a system searches by other embeddings."""
        method = "embed_queries" if hasattr(self.module, "embed_queries") else "embed"
        return self._apply(method, variables, scenes, boxes)

    def look(self, variables: Variables, scenes: Scenes) -> PyTree:
        """What `find` makes of scenes before it knows a query, to be handed to it with many of them.

        Raises:
          ValueError: if the system does not search query by query.
        """
        self._check_find()
        return self._apply("look", variables, scenes)

    def find(
        self,
        variables: Variables,
        scenes: Scenes,
        queries: Float[Array, "query dimension"],
        looked: PyTree | None = None,
    ) -> Detections:
        """Looks for each query, as `embed_queries` makes them, in each scene: `Detections` with arrays [B, Q, K, ...].

        Args:
          variables: {"params", "batch_stats", "memory"}.
          scenes: B scenes.
          queries: Q queries.
          looked: what `look` made of the scenes; None computes it.

        Raises:
          ValueError: if the system does not search query by query.
        """
        self._check_find()
        return self._apply("find", variables, scenes, queries, looked)

    def _check_find(self) -> None:
        if not hasattr(self.module, "find"):
            raise ValueError(f"{self.name} has no query-centric search")

    def _apply(self, method: str, variables: Variables, scenes: Scenes, *arguments: Any) -> Any:
        return self.module.apply(variables, self.normalise(scenes), *arguments, method=method)

    def trainable(self, params: PyTree) -> PyTree:
        """Which parameters are trained: a tree of bool, all of them unless a system freezes some."""
        return jax.tree.map(lambda _: True, params)

    def group(self, params: PyTree) -> PyTree:
        """The optimiser group of each parameter: "backbone" for the trunk, "head" for all others."""
        return {
            name: jax.tree.map(lambda _, name=name: "backbone" if name == "backbone" else "head", tree)
            for name, tree in params.items()
        }

    def after_step(self, before: Any, after: Any) -> Any:
        """What a system does to the training state after each optimiser step; nothing by default.

        Args:
          before: the state that the step began with; its parameters made the losses.
          after: the state after the optimiser step.

        Returns:
          The state that the next step begins with.
        """
        del before
        return after

    @property
    def branches(self) -> int:
        """How many embeddings of equal width lie side by side in each that `embed` and `detect` return."""
        return 1

    @property
    def needs_weights(self) -> bool:
        """Whether training makes no sense from scratch: it needs the weights of a trained trunk."""
        return False

    @property
    def trains(self) -> tuple[str, ...]:
        """Parts that are trained as it is configured, by names for `check_start`; () where no phase asks for them."""
        return ()

    def check_start(self, trained: Mapping[str, str], people: str) -> None:
        """Checks that what a phase builds on was trained before it.

        Args:
          trained: the parts that were, by those names, each with the checksum of the people it was trained on.
          people: that of the training set.

        Raises:
          ConfigError: a part was not, or on other people where it must know these.
        """

    @property
    def trunk_name(self) -> str:
        """Name of the trunk that `trunk` returns; see `ps_jax.backbones.build_trunk`."""
        return self.module.trunk

    def trunk(self, variables: Variables) -> dict[str, PyTree]:
        """The trunk's part of the variables: {"params"} and, where it has statistics, {"batch_stats"}."""
        return {name: tree["backbone"] for name, tree in variables.items() if "backbone" in tree}

    def with_trunk(
        self, variables: Variables, trunk: Variables, classifier: Variables | None = None
    ) -> dict[str, PyTree]:
        """Variables whose trunk has the given ones, for example ported ImageNet weights.

        Args:
          variables: as `init` makes them.
          trunk: what `trunk` returns, with other values.
          classifier: the same of the classifier behind it, for a system that has one.
        """
        parts = {"backbone": trunk, "classifier": classifier or {}}
        return {
            name: tree | {part: new[name] for part, new in parts.items() if part in tree and name in new}
            for name, tree in variables.items()
        }

    def transfer(
        self, pretrained: Variables, fresh: Variables, pretrained_by: "System | None" = None
    ) -> dict[str, PyTree]:
        """Variables for the next phase of training: everything pre-trained but the memory, which starts anew.

        Args:
          pretrained: variables at the end of the phase before.
          fresh: variables of this phase as `init` makes them.
          pretrained_by: the system of the phase before, where it was configured differently.
        """
        del pretrained_by
        return {**pretrained, "memory": fresh["memory"]}
