"""The porting engine: a table of rules carries foreign tensors to our variables, all or nothing.

The same table is the way back (`restore_tensors`).

A rule says under which name a tensor stands in the PyTorch checkpoint, where it goes in our variables and
how its axes move. Names may hold placeholders in braces that stand for one number, the same on both sides:

    Rule("layer{i}.{j}.conv1.weight", "params/stage{i}/block{j}/conv1/kernel", convolution_kernel)

Nothing is skipped in silence: a tensor without a rule, a variable without a tensor and a shape that does
not fit are all collected and raised in one error. What a checkpoint holds but we have no use for is named
by a rule with `ours=None`. Several names for one variable (aliases of one tensor in PyTorch) must hold equal values.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ps_jax.errors import PortingError


@dataclasses.dataclass(frozen=True)
class Transform:
    """What becomes of a tensor's axes, and the way back.

    Attributes:
      forward: PyTorch's array -> ours; must raise ValueError if its axes are not as expected, as numpy's transpose
        does.
      inverse: ours -> PyTorch's, bit for bit what it was.
    """

    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]

    def __call__(self, tensor: np.ndarray) -> np.ndarray:
        return self.forward(tensor)


# Leaves the tensor as it is.
identity = Transform(lambda tensor: tensor, lambda value: value)

# (out, in / groups, height, width) -> (height, width, in / groups, out); depthwise kernels too.
convolution_kernel = Transform(
    lambda tensor: tensor.transpose(2, 3, 1, 0), lambda value: value.transpose(3, 2, 0, 1)
)

# The same of a first convolution that takes blue, green, red.
bgr_kernel = Transform(
    lambda tensor: tensor.transpose(2, 3, 1, 0)[:, :, ::-1],
    lambda value: np.ascontiguousarray(value[:, :, ::-1].transpose(3, 2, 0, 1)),
)

# (out, in) -> (in, out).
linear_kernel = Transform(lambda tensor: tensor.transpose(1, 0), lambda value: value.transpose(1, 0))

# (channel, 1, 1) -> (channel), for factors of channels or heads.
flatten = Transform(lambda tensor: tensor.reshape(-1), lambda value: value.reshape(-1, 1, 1))


class Rule(NamedTuple):
    """One line of a porting table.

    Attributes:
      torch: name in the checkpoint, with {placeholders} for numbers.
      ours: path "collection/module/.../leaf" in our variables, with the same placeholders; None drops the
        tensor on purpose.
      transform: what becomes of the array, a `Transform`; a plain function does where there is no way back.
    """

    torch: str
    ours: str | None
    transform: Callable[[np.ndarray], np.ndarray] = identity


def convolution_rules(torch: str, ours: str) -> list[Rule]:
    """Rules of a convolution: `torch` and `ours` are the two modules' paths, ours without collection."""
    return [
        Rule(f"{torch}.weight", f"params/{ours}/kernel", convolution_kernel),
        Rule(f"{torch}.bias", f"params/{ours}/bias"),
    ]


def linear_rules(torch: str, ours: str) -> list[Rule]:
    """Rules of a fully connected layer."""
    return [
        Rule(f"{torch}.weight", f"params/{ours}/kernel", linear_kernel),
        Rule(f"{torch}.bias", f"params/{ours}/bias"),
    ]


def layer_norm_rules(torch: str, ours: str) -> list[Rule]:
    """Rules of a normalisation without running statistics."""
    return [
        Rule(f"{torch}.weight", f"params/{ours}/scale"),
        Rule(f"{torch}.bias", f"params/{ours}/bias"),
    ]


def batch_norm_rules(torch: str, ours: str) -> list[Rule]:
    """Rules of a batch normalisation; its counter of batches has no use here and is dropped."""
    return [
        *layer_norm_rules(torch, ours),
        Rule(f"{torch}.running_mean", f"batch_stats/{ours}/mean"),
        Rule(f"{torch}.running_var", f"batch_stats/{ours}/var"),
        Rule(f"{torch}.num_batches_tracked", None),
    ]


def match_rules(names: Iterable[str], rules: Iterable[Rule]) -> dict[str, Rule]:
    """Finds the rule of every name, its placeholders filled in.

    Args:
      names: names in the checkpoint.
      rules: the table; the first rule that fits a name counts.

    Returns:
      Each name that a rule takes, with that rule written out for it.
    """
    table = [(_pattern(rule.torch), rule) for rule in rules]
    placed = {}
    for name in names:
        for pattern, rule in table:
            if match := pattern.fullmatch(name):
                path = None if rule.ours is None else rule.ours.format(**match.groupdict())
                placed[name] = Rule(name, path, rule.transform)
                break
    return placed


def port_tensors(
    tensors: Mapping[str, np.ndarray],
    rules: Iterable[Rule],
    template: Mapping[str, Any],
    ignore: Iterable[str] = (),
) -> dict[str, Any]:
    """Carries checkpoint tensors to our variables.

    Args:
      tensors: arrays by their name in the checkpoint.
      rules: the table; the first rule that fits a name counts.
      template: the variables to fill: nested dictionaries, collections on top, of arrays or
        `jax.ShapeDtypeStruct` (from `jax.eval_shape`). Only structure, shapes and types are used.
      ignore: names of tensors to leave out, as in rules with {placeholders}; a name that ends in "*" stands
        for everything that begins so.

    Returns:
      New variables, structured, shaped and typed as the template, every entry from the checkpoint.

    Raises:
      PortingError: listing every tensor that no rule takes to a variable, every variable that no tensor
        reaches, and every tensor whose shape does not fit.
    """
    wanted = traverse_util.flatten_dict(_as_dict(template), sep="/")
    ignored = [_pattern(name) for name in ignore]
    kept = [name for name in tensors if not any(pattern.fullmatch(name) for pattern in ignored)]
    placed = match_rules(kept, rules)
    ported: dict[str, jax.Array] = {}
    source: dict[str, str] = {}
    unmatched, misshapen = [], []
    for name in kept:
        tensor = tensors[name]
        if name not in placed:
            unmatched.append(f"{name} {_shape(tensor)}: no rule takes this name")
            continue
        path, transform = placed[name].ours, placed[name].transform
        if path is None:
            continue
        if path not in wanted:
            unmatched.append(f"{name} {_shape(tensor)}: the model has no {path}")
            continue
        if path in source:
            if not _equal(transform, tensor, tensors[source[path]]):
                unmatched.append(
                    f"{name} {_shape(tensor)}: {path} is already filled by {source[path]}, with other values"
                )
            continue
        source[path] = name
        try:
            value = transform(tensor)
        except ValueError:
            value = tensor
        if value.shape != tuple(wanted[path].shape):
            misshapen.append(
                f"{name} {_shape(tensor)} becomes {_shape(value)}, but {path} is {_shape(wanted[path])}"
            )
            continue
        ported[path] = jnp.asarray(value, wanted[path].dtype)
    missing = [f"{path} {_shape(leaf)}" for path, leaf in wanted.items() if path not in source]
    _raise_if_any(unmatched, missing, misshapen)
    return traverse_util.unflatten_dict(ported, sep="/")


def restore_tensors(
    variables: Mapping[str, Any], rules: Iterable[Rule], names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Carries our variables back to checkpoint tensors, the inverse of `port_tensors`.

    Args:
      variables: nested dictionaries of arrays, collections on top.
      rules: the table.
      names: names in the checkpoint; those that no rule takes to one of the variables are left out. None: one name
        for every variable that a rule leads to, by the first such rule.

    Returns:
      Arrays by their name in the checkpoint.

    Raises:
      PortingError: a rule's transform has no inverse.
    """
    values = traverse_util.flatten_dict(_as_dict(variables), sep="/")
    rules = list(rules)
    names = _names_of(values, rules) if names is None else list(names)
    restored = {}
    for name, rule in match_rules(names, rules).items():
        if rule.ours not in values:
            continue
        if not isinstance(rule.transform, Transform):
            raise PortingError(f"{rule.ours} cannot be carried back to {name}: its transform has no inverse.")
        restored[name] = rule.transform.inverse(np.asarray(values[rule.ours]))
    return restored


def with_batch_counters(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Restored tensors with the counter of batches that every batch normalisation of PyTorch's has; 0 here."""
    counters = {
        f"{name.removesuffix('running_mean')}num_batches_tracked": np.zeros((), np.int64)
        for name in tensors
        if name.endswith(".running_mean")
    }
    return {**tensors, **counters}


def _names_of(paths: Iterable[str], rules: Iterable[Rule]) -> list[str]:
    """Names in the checkpoint of our variables: for each the first rule that leads to it."""
    table = [(_pattern(rule.ours), rule.torch) for rule in rules if rule.ours is not None]
    names = []
    for path in paths:
        for pattern, torch in table:
            if match := pattern.fullmatch(path):
                names.append(torch.format(**match.groupdict()))
                break
    return names


def _equal(transform: Callable[[np.ndarray], np.ndarray], one: np.ndarray, other: np.ndarray) -> bool:
    try:
        return np.array_equal(transform(one), transform(other))
    except ValueError:
        return False


def _as_dict(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _as_dict(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _shape(array: Any) -> str:
    return "x".join(map(str, array.shape)) or "scalar"


def _pattern(name: str) -> re.Pattern[str]:
    """Compiles a checkpoint name with {placeholders} and possibly a "*" at its end."""
    prefix = name.endswith("*")
    pieces = re.split(r"\{(\w+)\}", name.removesuffix("*"))
    seen: set[str] = set()
    expression = ""
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            expression += re.escape(piece)
        else:
            expression += f"(?P={piece})" if piece in seen else rf"(?P<{piece}>\d+)"
            seen.add(piece)
    return re.compile(expression + (".*" if prefix else ""))


def _raise_if_any(unmatched: list[str], missing: list[str], misshapen: list[str]) -> None:
    parts = []
    for title, lines in (
        ("tensors of the checkpoint that have no place in the model", unmatched),
        ("variables of the model that the checkpoint does not fill", missing),
        ("tensors whose shape does not fit", misshapen),
    ):
        if lines:
            parts.append("\n  ".join([f"{len(lines)} {title}:", *lines]))
    if parts:
        raise PortingError("The weights do not fit the model.\n" + "\n".join(parts))
