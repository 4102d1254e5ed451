"""Which of a trunk's parameters stay as they were loaded."""

from typing import Any

from flax import traverse_util

STEM = ("stem_conv", "stem_norm", "stem")


def trained_in_trunk(params: dict[str, Any], frozen_stages: int, freeze_norms: bool) -> dict[str, Any]:
    """Which parameters of a trunk are trained: a tree of bool.

    Args:
      params: of the trunk, or anything of the same structure.
      frozen_stages: the stem and so many of the stages are not; -1: all are.
      freeze_norms: scales and biases of normalisation are not.
    """
    stages = tuple(f"stage{number}" for number in range(1, frozen_stages + 1))
    frozen = (*STEM, *stages) if frozen_stages >= 0 else ()

    def is_trained(path):
        return path[0] not in frozen and not (freeze_norms and any("norm" in part for part in path))

    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: is_trained(path) for path in flat})
