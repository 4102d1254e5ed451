"""The one place that resolves the `implementation` argument of the operations."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np

from kernels._choices import MEASURED
from kernels._launch import why_not

# Of each operation the form where nothing is measured.
_UNMEASURED = {
    "roi_align": "at_once",
    "deform_conv": "gather",
    "grid_sample": "gather",
    "roi_transform": "gather",
    "nms": "tiles",
}


_only: ContextVar[str | None] = ContextVar("only", default=None)


@contextlib.contextmanager
def only_form(name: str) -> Iterator[None]:
    """Operations traced within it run the form of this name, whatever is measured. For tests and measuring."""
    token = _only.set(name)
    try:
        yield
    finally:
        _only.reset(token)


def check_implementation(operation: str, implementation: str | None, has_kernel: bool = True) -> None:
    """Raises unless the named implementation of an operation can be had.

    Args:
      operation: its name, for the message.
      implementation: None (choose), "xla" (plain JAX) or "pallas" (hand-written kernel).
      has_kernel: whether there is a hand-written kernel of it.

    Raises:
      ValueError: for "pallas" where there is no kernel or it cannot run here, and for any other name.
    """
    if implementation not in (None, "xla", "pallas"):
        raise ValueError(f'{operation}: implementation is {implementation!r}, wanted None, "xla" or "pallas"')
    if implementation == "pallas":
        reason = why_not() if has_kernel else "this operation has no kernel"
        if reason:
            raise ValueError(
                f'{operation}: implementation="pallas" is not available: {reason}; use "xla" or None'
            )


def run_form(
    operation: str, implementation: str | None, forms: Mapping[str, Callable[..., Any]], *arrays: Any
) -> Any:
    """Runs the form of an operation that an implementation means, on whatever platform it is compiled for.

    "pallas" is the form of that name; "xla" the quickest measured one of the others on the platform; None the
    quickest of all that can run here. Where nothing is measured, one form in plain JAX is the choice.

    Args:
      operation: its name in the table of measured cases.
      implementation: None, "xla" or "pallas", checked before.
      forms: functions of the arrays that compute the same, by the names of the table.
      *arrays: arguments.

    Returns:
      What the form returns.
    """
    if name := _only.get() or ("pallas" if implementation == "pallas" else None):
        return forms[name](*arrays)
    allowed = set(forms) - ({"pallas"} if implementation == "xla" or why_not() else set())
    default = forms[_UNMEASURED[operation]]
    branches = {platform: forms[quickest(operation, platform, allowed)] for platform in MEASURED}
    branches = {platform: form for platform, form in branches.items() if form is not default}
    if not branches:
        return default(*arrays)
    return jax.lax.platform_dependent(*arrays, default=default, **branches)


def quickest(operation: str, platform: str, allowed: set[str]) -> str:
    """The form of an operation that took the least time on a platform.

    Forms are compared by the geometric mean over the cases that were measured with all of them, of the time of
    the gradient with its forward.

    Args:
      operation: its name in the table.
      platform: "cpu", "cuda", ...
      allowed: the forms to choose from.

    Returns:
      Its name.
    """
    measured = MEASURED.get(platform, {}).get(operation, {}).values()
    names = sorted(allowed & set().union(*measured))
    cases = [case for case in measured if case.keys() >= set(names)]
    if not names or not cases:
        return _UNMEASURED[operation]
    return min(names, key=lambda name: sum(float(np.log(case[name])) for case in cases))
