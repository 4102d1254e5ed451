"""Timing of two ways of doing the same thing, in turns, so that a machine's drift hits both alike."""

import statistics
import time
from collections.abc import Callable

import jax


def seconds(function: Callable, *arguments) -> float:
    """Wall time of one call, all results computed."""
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def compare(first: Callable, second: Callable, *arguments, rounds: int = 5) -> tuple[float, float, float]:
    """Median seconds of two functions and the median of the ratios first / second, measured in turns.

    Both are called once before, so that compilation does not count.
    """
    seconds(first, *arguments), seconds(second, *arguments)
    pairs = [(seconds(first, *arguments), seconds(second, *arguments)) for _ in range(rounds)]
    firsts, seconds_ = zip(*pairs, strict=True)
    ratios = [a / b for a, b in pairs]
    return statistics.median(firsts), statistics.median(seconds_), statistics.median(ratios)
