"""An iterator that runs ahead in a thread of its own, as far as memory allows."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """Runs an iterator in a thread, at most so many items and bytes ahead; leaving the context ends the thread.

    Args:
      items: what is iterated.
      most: items that wait.
      most_bytes: of all that wait; a single one waits however large it is.
      bytes_of: of an item.
    """

    def __init__(self, items: Iterator[Item], most: int, most_bytes: int, bytes_of: Callable[[Item], int]):
        self._items, self._most, self._most_bytes, self._bytes_of = items, most, most_bytes, bytes_of
        self._waiting: deque[Item] = deque()
        self._changed = threading.Condition()
        self._left = self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fill, name="ahead", daemon=True)

    def __enter__(self) -> Iterator[Item]:
        self._thread.start()
        return self._taken()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._left = True
            self._changed.notify_all()
        self._thread.join()

    def _fill(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    self._changed.wait_for(lambda item=item: self._left or self._has_room(item))  # type: ignore[misc]
                    if self._left:
                        return
                    self._waiting.append(item)
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _has_room(self, item: Item) -> bool:
        held = sum(map(self._bytes_of, self._waiting))
        fits = len(self._waiting) < self._most and held + self._bytes_of(item) <= self._most_bytes
        return fits or not self._waiting

    def _taken(self) -> Iterator[Any]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                item = self._waiting.popleft()
                self._changed.notify_all()
            yield item
            del item  # or it would be kept until the next one comes
        if self._error is not None:
            raise self._error
