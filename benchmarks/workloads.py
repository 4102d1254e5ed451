"""Work to be timed: trunks, inference and training steps of a system, on random weights and pictures.

Times depend on shapes, not on values, but for the number of boxes a detector keeps. So inference is told to keep all
candidates: the most work that a scene can be.
"""

import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ps_jax.backbones import build_trunk
from ps_jax.interface import Batch, People, Scenes
from ps_jax.systems import System, build_system
from ps_jax.training.phases import prepare_phase
from ps_jax.training.step import replicate

IDENTITIES = 483  # of PRW's training set
PEOPLE = 6  # in a scene
KEEP_ALL = {"score_threshold": -1.0, "nms_threshold": 1.0}
KEEP_ALL_PROPOSALS = {"proposal_nms_threshold": 1.0, "first_nms_threshold": 1.0}  # of SeqNet, too


def fill(template: Any, seed: int = 0) -> Any:
    """Arrays for a tree of shapes: random kernels, ones for scales and variances, zeros for the rest.

    Many times faster than drawing proper initial values, and a forward pass stays finite.
    """
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        name = getattr(path[-1], "key", "")
        if name == "kernel":
            fan_in = max(1, int(np.prod(shape.shape[:-1])))
            return rng.standard_normal(shape.shape, np.float32) / np.sqrt(fan_in)
        return np.full(shape.shape, 1.0 if name in ("scale", "var") else 0.0, shape.dtype)

    return jax.tree_util.tree_map_with_path(leaf, template)


def random_scenes(height: int, width: int, batch: int = 1, seed: int = 0) -> Scenes:
    """Scenes of noise, u8 [batch, height, width, 3], without padding."""
    image = np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    return Scenes(jnp.asarray(image), jnp.tile(jnp.array([[height, width]]), (batch, 1)))


def trunk_forward(name: str, height: int, width: int, batch: int, dtype: str) -> Callable[[], Any]:
    """The forward pass of a trunk in evaluation mode, compiled, as a function without arguments."""
    trunk = build_trunk(name, dtype=jnp.dtype(dtype))
    image = _noise(batch, height, width)
    variables = jax.device_put(
        fill(jax.eval_shape(lambda: trunk.init(jax.random.key(0), image, train=False)))
    )
    forward = jax.jit(lambda variables, image: trunk.apply(variables, image, train=False))
    return lambda: forward(variables, image)


def trunk_step(name: str, height: int, width: int, batch: int, dtype: str) -> Callable[[], Any]:
    """Forward in training mode and gradient of all parameters, compiled, as a function without arguments."""
    trunk = build_trunk(name, dtype=jnp.dtype(dtype))
    image = _noise(batch, height, width)
    variables = jax.device_put(
        fill(jax.eval_shape(lambda: trunk.init(jax.random.key(0), image, train=False)))
    )

    def loss(params, others, image):
        maps, _ = trunk.apply(
            {"params": params, **others},
            image,
            train=True,
            mutable=list(others),
            rngs={"stochastic_depth": jax.random.key(1)},
        )
        return sum(jnp.mean(jnp.square(value.astype(jnp.float32))) for value in maps.values())

    others = {key: value for key, value in variables.items() if key != "params"}
    gradient = jax.jit(jax.value_and_grad(loss))
    return lambda: gradient(variables["params"], others, image)


def _noise(batch: int, height: int, width: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (batch, height, width, 3))


def spnet(dtype: str, **model: Any) -> System:
    """SPNet with the paper's numbers but for what is named.

    Raises:
      ConfigError: the module has no such option.
    """
    return build_system("spnet", {"num_identities": IDENTITIES, "dtype": jnp.dtype(dtype), **model})


def seqnet(dtype: str, **model: Any) -> System:
    """SeqNet with the paper's numbers but for what is named, keeping every proposal.

    Raises:
      ConfigError: the module has no such option.
    """
    options = {"num_identities": IDENTITIES, "dtype": jnp.dtype(dtype), **KEEP_ALL_PROPOSALS, **model}
    return build_system("seqnet", options)


def alignps(dtype: str, **model: Any) -> System:
    """AlignPS with the paper's numbers but for what is named.

    Raises:
      ConfigError: the module has no such option.
    """
    return build_system("alignps", {"num_identities": IDENTITIES, "dtype": jnp.dtype(dtype), **model})


def detection(system: System, height: int, width: int) -> Callable[[], Any]:
    """Detection in one scene, every candidate kept, compiled, as a function without arguments."""
    system = system.changed(**{name: x for name, x in KEEP_ALL.items() if hasattr(system.module, name)})
    variables = jax.device_put(fill(system.template))
    scenes = random_scenes(height, width)
    detect = jax.jit(system.detect)
    return lambda: detect(variables, scenes)


def query_search(system: System, queries: int, height: int, width: int) -> tuple[Callable[[], Any], int]:
    """Query-centric search of one scene, with the thresholds of the system.

    Returns:
      The compiled search as a function without arguments, and the bytes of working memory that the compiler
      plans for it, without weights, picture and results.
    """
    variables = jax.device_put(fill(system.template))
    scenes = random_scenes(height, width)
    embedding = jax.random.normal(jax.random.key(2), (queries, system.module.embedding_dim))
    compiled = jax.jit(system.find).lower(variables, scenes, embedding).compile()
    memory = compiled.memory_analysis()
    assert memory is not None, "every XLA compiler plans its memory"
    return lambda: compiled(variables, scenes, embedding), memory.temp_size_in_bytes


def training_step(config: ConfigDict, phase: str) -> Callable[[], Any]:
    """The training step of a phase on one device, as a function without arguments; trains as it is called."""
    devices = jax.local_devices()[:1]
    index = list(config.phases).index(phase)
    source = RandomSource(config.data.max_people)
    prepared = prepare_phase(config, index, source, build_system, devices)
    state = replicate(_first_state(prepared.template), devices)
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], next(source.train_batches(config[phase], 0)))

    def call():
        nonlocal state
        state, metrics = prepared.step(state, batch)
        return metrics

    return call


def _first_state(template: Any) -> Any:
    rng = jax.random.key(0)
    shapes = template.replace(rng=None, opt_state=None)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), template.opt_state)
    return fill(shapes).replace(rng=rng, opt_state=zeros)


class RandomSource:
    """Training batches of noise with a few people in every scene, as `prepare_phase` takes them.

    Args:
      max_people: slots for people in a scene.
    """

    def __init__(self, max_people: int):
        self._max_people = max_people

    def split(self, partition: str) -> Any:
        """What the trainer asks a split for: its identities."""
        return SimpleNamespace(num_identities=IDENTITIES)

    def steps_per_epoch(self, phase: Any) -> int:
        """Any number: nobody trains to the end."""
        return 1000

    def train_batches(self, phase: Any, seed: int, start_step: int = 0) -> Iterator[Batch]:
        """The same batch again and again: `phase.batch_size` crops, in `phase.views` views of each scene."""
        rng = np.random.default_rng(seed)
        rows, side, views = phase.batch_size, phase.crop, phase.views
        corner = rng.uniform(0, 0.6 * side, (rows, PEOPLE, 2))
        size = np.stack([rng.uniform(0.1, 0.2, (rows, PEOPLE)), rng.uniform(0.2, 0.4, (rows, PEOPLE))], -1)
        box = np.zeros((rows, self._max_people, 4), np.float32)
        box[:, :PEOPLE] = np.concatenate([corner, corner + size * side], -1)
        number = np.arange(rows // views * PEOPLE).reshape(-1, PEOPLE).repeat(views, axis=0)
        identity = np.full((rows, self._max_people), -1, np.int32)
        identity[:, :PEOPLE] = number % IDENTITIES
        valid = identity >= 0
        scenes = Scenes(*(np.asarray(leaf) for leaf in random_scenes(side, side, rows, seed)[:2]))
        batch = Batch(scenes, People(box, identity, identity, valid), np.arange(rows, dtype=np.int32))
        return itertools.repeat(batch)
