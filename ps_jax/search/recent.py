"""What was used last, up to so many bytes of it."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Remembers values by their keys; the longest unused go first, the newest stays however large it is.

    Args:
      most: bytes of all of them.
    """

    def __init__(self, most: int):
        self._most = most
        self._entries: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        """The value of a key; None where it is not, or no longer, there."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def keep(self, key: Hashable, value: Value, size: int) -> None:
        """Remembers a value of so many bytes."""
        with self._lock:
            self._entries[key] = value, size
            while len(self._entries) > 1 and sum(size for _, size in self._entries.values()) > self._most:
                self._entries.popitem(last=False)
