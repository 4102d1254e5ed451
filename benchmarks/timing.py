"""Timing of several ways of doing the same thing, in turns, so that a machine's drift hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Clock = Callable[[], float]  # does the work once, or a few times, and returns the seconds of one


class Timing(NamedTuple):
    """Seconds of one call.

    Attributes:
      median, lowest, highest: over the rounds.
    """

    median: float
    lowest: float
    highest: float

    @property
    def milliseconds(self) -> str:
        """As text, with the spread."""
        return f"{1e3 * self.median:.3g} ({1e3 * self.lowest:.3g} - {1e3 * self.highest:.3g})"


def jax_clock(function: Callable, *arguments, calls: int = 1) -> Clock:
    """Times a function of jax arrays until all results are computed.

    Args:
      function: compiled, or to be compiled by its first call.
      *arguments: its arguments.
      calls: how many calls to send off before waiting, so that the time of sending one off hides behind the
        work of the one before.
    """
    import jax

    def clock() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            result = function(*arguments)
        jax.block_until_ready(result)
        return (time.perf_counter() - start) / calls

    return clock


def in_turns(clocks: Mapping[str, Clock], rounds: int = 5) -> dict[str, list[float]]:
    """Seconds of each clock in each round; each is run once before, so that compilation does not count."""
    for clock in clocks.values():
        clock()
    seconds: dict[str, list[float]] = {name: [] for name in clocks}
    for _ in range(rounds):
        for name, clock in clocks.items():
            seconds[name].append(clock())
    return seconds


def summarise(seconds: Sequence[float]) -> Timing:
    """Median and spread of the rounds."""
    return Timing(statistics.median(seconds), min(seconds), max(seconds))


def median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """The median over the rounds of first / second."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def compare(first: Callable, second: Callable, *arguments, rounds: int = 5) -> tuple[float, float, float]:
    """Median seconds of two functions of jax arrays and the median of first / second, measured in turns."""
    clocks = {"first": jax_clock(first, *arguments), "second": jax_clock(second, *arguments)}
    seconds = in_turns(clocks, rounds)
    medians = [statistics.median(values) for values in seconds.values()]
    return medians[0], medians[1], median_ratio(seconds["first"], seconds["second"])
