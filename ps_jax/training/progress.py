"""What a person watching sees: a bar on a terminal, a line at every log step elsewhere."""

import sys
from collections.abc import Mapping

from absl import logging
from tqdm import tqdm


class Progress:
    """Progress of one phase with rate, time left and the main losses; a context manager."""

    def __init__(self, phase: str, start: int, total: int, shown: bool = True):
        self._phase = phase
        self._bar = tqdm(
            total=total,
            initial=start,
            desc=phase,
            unit="step",
            dynamic_ncols=True,
            disable=not (shown and sys.stderr.isatty()),
        )
        self._start, self._total = start, total

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._bar.close()

    def advance(self) -> None:
        """One step was taken."""
        self._bar.update()

    def show(self, step: int, metrics: Mapping[str, float], steps_per_second: float) -> None:
        """Shows the losses of a step and how long the rest takes."""
        losses = {
            name.removeprefix("loss/"): value for name, value in metrics.items() if name.startswith("loss/")
        }
        if not self._bar.disable:
            self._bar.set_postfix({name: f"{value:.3g}" for name, value in losses.items()})
            return
        left = tqdm.format_interval((self._total - step) / max(steps_per_second, 1e-9))
        values = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
        logging.info(
            "%s %d/%d, %.3g steps/s, %s left: %s",
            *(self._phase, step, self._total, steps_per_second, left, values),
        )
