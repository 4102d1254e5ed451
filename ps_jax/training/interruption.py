"""A stop asked for from outside (SIGTERM, Ctrl-C) becomes a saved checkpoint and a clean exit.

The process leaves with 128 + the signal's number, as a shell reports it: 143 after SIGTERM, 130 after SIGINT.
"""

import contextlib
import signal
import threading
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Context manager that notes the first signal instead of dying of it; a second one ends at once.

    Attributes:
      received: the signal, None while there was none.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._at_once = False

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception):
        self._put_back()

    def _put_back(self):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number, frame):
        self.received = signal.Signals(number)
        self._put_back()
        if self._at_once:
            raise SystemExit(self.exit_code)

    @property
    def exit_code(self) -> int:
        """128 + number of the signal received, 0 where there was none."""
        return 128 + self.received if self.received else 0

    @contextlib.contextmanager
    def leaves_at_once(self):
        """Within, a signal raises SystemExit right where it arrives: for long work that needs no saving."""
        self._at_once = True
        try:
            if self.received:
                raise SystemExit(self.exit_code)
            yield
        finally:
            self._at_once = False
