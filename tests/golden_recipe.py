"""Weights and inputs made from a name and a shape, and the stored numbers they lead to.

tests/golden/README.md says the same in words. Everything is numpy, drawn in float64 and cast to float32 at
the very end. Seed, sizes, names and options of a golden file come from its `meta`, so any file of the same
kind, made with another seed or other sizes, can be put in place of the one in the repository.
"""

import ast
import json
import math
import re
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

DEFAULT_GOLDEN_DIR = Path(__file__).parent / "golden"
IMAGE_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGE_STD = np.array([0.229, 0.224, 0.225], np.float32)

# Our axes -> the axes as stored: "NCHW" is "NHWC" with us, "OIHW" is "HWIO", "OI" is "IO".
_TO_STORED = {"NCHW": (0, 3, 1, 2), "OIHW": (3, 2, 0, 1), "OI": (1, 0)}

_UNIT_ROWS = {"lut", "cq", "emb_cq", "lookup_table", "queue"}
_TENTH = {
    "running_mean",
    "relative_position_bias_table",
    "absolute_pos_embed",
    "absolute_position_embed",
    "cls_token",
    "mask_token",
    *("pos_embed" + suffix for suffix in ("", "1", "2", "3", "4")),
    *("part_token" + suffix for suffix in ("1", "2", "3")),
}
_LAYER_SCALE = {"layer_scale", "gamma", "gamma_1", "gamma_2"}


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream that belongs to a name: its own for every name, so the order of drawing is free."""
    entropy = [seed, zlib.crc32(name.encode("utf-8"))]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def det_tensor(seed: int, name: str, shape: tuple[int, ...], factor: float = 1.0) -> np.ndarray:
    """A parameter or buffer: the last part of its name decides how the drawn numbers are scaled.

    Args:
      seed: seed of the file.
      name: full dotted name in the PyTorch checkpoint.
      shape: PyTorch shape.
      factor: the tensor's factor in `meta["overrides"]`.

    Returns:
      A float32 array of that shape.
    """
    shape = tuple(shape)
    rng = stream(seed, name)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        value = rng.uniform(0.5, 1.5, size=shape)
    else:
        z = rng.standard_normal(size=shape)
        if leaf in _UNIT_ROWS:
            value = z / np.linalg.norm(z, axis=-1, keepdims=True)
        elif leaf in _TENTH:
            value = 0.1 * z
        elif leaf in _LAYER_SCALE:
            value = 0.3 * (1.0 + 0.1 * z)
        elif leaf.endswith("bias"):
            value = 0.05 * z
        elif len(shape) <= 1:
            value = 1.0 + 0.1 * z
        else:
            value = z / math.sqrt(math.prod(shape[1:]))
    return np.asarray(value * factor, np.float32)


def fill_params(meta: dict, key: str = "params") -> dict[str, np.ndarray]:
    """All weights of a file: PyTorch name -> array, from the list `meta[key]` of [name, shape]."""
    overrides = meta.get("overrides", {})
    return {
        name: det_tensor(meta["seed"], name, tuple(shape), overrides.get(name, 1.0))
        for name, shape in meta[key]
    }


def det_normal(seed: int, name: str, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    return (stream(seed, name).standard_normal(size=tuple(shape)) * scale).astype(np.float32)


def det_uniform(
    seed: int, name: str, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0
) -> np.ndarray:
    return stream(seed, name).uniform(low, high, size=tuple(shape)).astype(np.float32)


def det_image(seed: int, name: str, height: int, width: int) -> np.ndarray:
    """An image f32[3, height, width] in 0 .. 1: coarse 8x8 cells under fine noise."""
    rng = stream(seed, name)
    coarse = rng.uniform(0.0, 1.0, (3, math.ceil(height / 8), math.ceil(width / 8)))
    fine = rng.uniform(0.0, 1.0, (3, height, width))
    cells = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    return (0.7 * cells + 0.3 * fine).astype(np.float32)


def normalised(image: np.ndarray) -> np.ndarray:
    """A [3, height, width] image in 0 .. 1, less the ImageNet mean, over its deviation, in float32."""
    return (image - IMAGE_MEAN[:, None, None]) / IMAGE_STD[:, None, None]


def det_boxes(
    seed: int, name: str, count: int, height: int, width: int, min_size: float = 8.0, max_frac: float = 0.6
) -> np.ndarray:
    """Boxes f32[count, 4], xyxy in quarters of a pixel, inside a height x width image."""
    u = stream(seed, name).uniform(0.0, 1.0, (count, 4))
    box_width = min_size + u[:, 2] * (0.6 * max_frac * width - min_size)
    box_height = np.minimum(min_size + u[:, 3] * (1.3 * max_frac * height - min_size), height - 1)
    x1 = u[:, 0] * (width - box_width)
    y1 = u[:, 1] * (height - box_height)
    corners = np.stack([x1, y1, x1 + box_width, y1 + box_height], axis=1)
    return (np.round(corners * 4) / 4).astype(np.float32)


def _permutation_step(n: int) -> int:
    if n <= 2:
        return 1
    step = max(1, (618 * n) // 1000)
    while math.gcd(step, n) != 1:
        step += 1
    return step


def golden_perm(n: int) -> np.ndarray:
    """The fixed permutation of 0 .. n-1 that stands for every random permutation of the stored runs."""
    return (np.arange(n, dtype=np.int64) * _permutation_step(n)) % max(n, 1)


def golden_order(key: jax.Array, mask: jax.Array) -> jax.Array:
    """`golden_perm` in the form of `ps_jax.boxes.random_order`: each candidate's place in the permutation.

    Works under jit and vmap although the number of candidates is known only at run time.

    Args:
      key: not used; there so that the signature is that of `random_order`.
      mask: bool[n], the candidates.

    Returns:
      f32[n]: 0 for the candidate drawn first, 1 for the next, ...; infinity where `mask` is false.
    """
    del key
    size = mask.shape[-1]
    if size > 65000:
        raise ValueError(f"mask has {size} entries; products of indices are exact up to 65000")
    steps = jnp.asarray([_permutation_step(n) for n in range(size + 1)], jnp.uint32)
    count = jnp.sum(mask).astype(jnp.uint32)
    turn = jnp.arange(size, dtype=jnp.uint32)
    drawn = (turn * steps[count]) % jnp.maximum(count, 1)  # the turn-th draw is candidate number `drawn`
    drawn = jnp.where(turn < count, drawn, size)  # dropped below
    turn_of_candidate = jnp.zeros(size, jnp.float32).at[drawn].set(turn.astype(jnp.float32), mode="drop")
    candidate = jnp.cumsum(mask) - 1
    return jnp.where(mask, turn_of_candidate[jnp.maximum(candidate, 0)], jnp.inf)


class Golden:
    """One file of stored numbers.

    Attributes:
      item: name of the file without its ending.
      meta: its description: seed, names and shapes of weights, options, measured float32 noise.
    """

    def __init__(self, path: Path):
        self.item = path.stem
        with np.load(path, allow_pickle=False) as file:
            self._arrays = {name: file[name] for name in file.files}
        self.meta = json.loads(str(self._arrays.pop("meta")))

    @property
    def seed(self) -> int:
        return self.meta["seed"]

    @property
    def names(self) -> list[str]:
        """Names of the stored arrays; one that is stored as a slice is listed once, by its bare name."""
        return list(
            dict.fromkeys(name.removesuffix("@slice") for name in self._arrays if "@stats" not in name)
        )

    def __contains__(self, name: str) -> bool:
        return name in self._arrays or f"{name}@slice" in self._arrays

    def array(self, name: str, layout: str | None = None) -> np.ndarray:
        """A stored array as it is, or with `layout` (its own axes, "NCHW", "OIHW", "OI") in our axes."""
        value = self._arrays[name]
        return value if layout is None else value.transpose(np.argsort(_TO_STORED[layout]))

    def input(self, name: str, layout: str | None = None) -> np.ndarray:
        """An input: the stored array, or what the recipe in `meta["inputs"]` makes, its checksum verified."""
        if name in self._arrays:
            return self.array(name, layout)
        entry = self.meta["inputs"][name]
        value = _follow_recipe(entry["recipe"]).reshape(entry["shape"])
        if zlib.crc32(value.tobytes()) != int(entry["crc32"], 16):
            raise AssertionError(f"{self.item}: input {name} made by {entry['recipe']} has another checksum")
        return value if layout is None else value.transpose(np.argsort(_TO_STORED[layout]))

    def params(self, key: str = "params") -> dict[str, np.ndarray]:
        return fill_params(self.meta, key)

    def noise(self, name: str) -> float:
        """The largest difference measured between float32 and float64 for an array, 0 where not measured."""
        for key in ("f32_vs_f64", "f32_vs_f64_maxabs"):
            measured = self.meta.get(key, {})
            if isinstance(measured, dict) and isinstance(measured.get(name), float):
                return measured[name]
        return 0.0

    def check(
        self,
        name: str,
        value: jax.Array | np.ndarray,
        *,
        relative: float,
        layout: str | None = "NCHW",
        noise: float | None = None,
    ) -> None:
        """Asserts that a value is the stored one.

        Args:
          name: stored array; where only a slice and statistics are stored, both are compared.
          value: our value, channels last; `layout` names the axes of the stored array.
          relative: allowed difference over the largest magnitude of the stored array.
          layout: "NCHW" (applies to arrays of four axes only), "OIHW", "OI", or None: same axes as stored.
          noise: absolute difference that is allowed in any case; default: what `meta` measured for `name`.

        Raises:
          AssertionError: states the measured and the allowed difference, or the shapes.
        """
        value = np.asarray(value)
        if layout is not None and not (layout == "NCHW" and value.ndim != 4):
            value = value.transpose(_TO_STORED[layout])
        label = f"{self.item}: {name}"
        sliced = f"{name}@slice" in self._arrays
        stored = self._arrays[f"{name}@slice" if sliced else name]
        shape = tuple(self.meta["slices"][name]["shape"]) if sliced else stored.shape
        if value.shape != shape:
            raise AssertionError(f"{label}: shape {value.shape}, stored {shape}")
        if value.size == 0:
            return
        value = value.astype(np.float64)
        stored = stored.astype(np.float64)
        stats = self._arrays[f"{name}@stats"].astype(np.float64) if sliced else None
        largest = float(stats[2]) if sliced else float(np.abs(stored).max())
        allowed = max(relative * largest, self.noise(name) if noise is None else noise)

        def compare(what: str, difference: float, bound: float) -> None:
            if not difference <= bound:  # also catches NaN
                raise AssertionError(f"{label}: {what} differs by {difference:.3e}, allowed {bound:.3e}")

        if sliced:
            part = value.ravel()[:: self.meta["slices"][name]["stride"]]
            compare("a value of the slice", float(np.abs(part - stored).max()), allowed)
            # Differences of at most `allowed` in every element keep the statistics within these bounds.
            ours = (value.mean(), value.std(), np.abs(value).max(), np.linalg.norm(value))
            spread = 1e-6 * np.abs(stats)  # the statistics themselves are stored in float32
            bounds = np.array([allowed, allowed, allowed, allowed * math.sqrt(value.size)]) + spread
            for what, ours_, stored_, bound in zip(
                ("the mean", "the standard deviation", "the largest magnitude", "the norm"),
                ours,
                stats,
                bounds,
                strict=True,
            ):
                compare(what, abs(float(ours_) - float(stored_)), float(bound))
        else:
            compare("a value", float(np.abs(value - stored).max()), allowed)


def load_golden(golden_dir: str | Path, item: str) -> Golden:
    """Reads one file of golden numbers.

    A folder given with --golden_dir may hold only some of the files: a test whose file is missing there is
    skipped. In the repository's own folder a missing file is an error.
    """
    path = Path(golden_dir) / f"{item}.npz"
    if not path.exists() and path.parent.resolve() != DEFAULT_GOLDEN_DIR.resolve():
        pytest.skip(f"{path} does not exist")
    return Golden(path)


def _follow_recipe(text: str) -> np.ndarray:
    """Evaluates a recipe like `normalised det_image(0,"name",224,320)`."""
    match = re.fullmatch(r"(normalised )?(det_\w+)(\(.*\))", text.strip())
    makers = {
        "det_image": det_image,
        "det_normal": det_normal,
        "det_uniform": det_uniform,
        "det_boxes": det_boxes,
    }
    if match is None or match[2] not in makers:
        raise ValueError(f"recipe {text!r} is not one of {sorted(makers)}")
    value = makers[match[2]](*ast.literal_eval(match[3]))
    return normalised(value) if match[1] else value
