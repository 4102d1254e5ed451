"""Moves batches to the devices while the devices still work on the ones before."""

import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ps_jax.errors import ConfigError
from ps_jax.interface import Batch

_AXIS = "devices"
_PATIENCE = 0.1  # seconds between two looks whether the consumer has gone


def prefetch_to_devices(
    iterator: Iterable[Batch], devices: Sequence[jax.Device], size: int = 2, micro_batches: int = 1
) -> "PrefetchedBatches":
    """Splits host batches over devices as `jax.pmap` wants them, a few batches ahead, in a background thread.

    Args:
      iterator: host batches; every array has the same leading axis.
      devices: the devices of this host.
      size: how many batches are kept ready on the devices.
      micro_batches: blocks of consecutive rows that the step takes one after the other; every block is split over
        the devices.

    Returns:
      An iterator of batches with arrays [devices, rows / devices, ...] or, of several micro-batches,
      [devices, micro_batches, rows / (micro_batches * devices), ...]. It ends where `iterator` ends and
      raises what `iterator` raises, and ConfigError where a batch cannot be split evenly.
    """
    if size < 1:
        raise ValueError(f"size is {size}, wanted is at least one batch ahead")
    devices = list(devices)
    sharding = NamedSharding(Mesh(np.array(devices), (_AXIS,)), PartitionSpec(_AXIS))

    def split(array: np.ndarray) -> jax.Array:
        shares = len(devices) * micro_batches
        if array.shape[0] % shares:
            raise ConfigError(
                f"a batch of {array.shape[0]} rows cannot be split evenly over {len(devices)} devices"
                + (f" in {micro_batches} micro-batches" if micro_batches > 1 else "")
                + f"; choose a batch_size that is a multiple of {shares}"
            )
        blocks = array.reshape(micro_batches, len(devices), -1, *array.shape[1:]).swapaxes(0, 1)
        if micro_batches == 1:
            blocks = blocks[:, 0]
        parts = [jax.device_put(blocks[place : place + 1], device) for place, device in enumerate(devices)]
        return jax.make_array_from_single_device_arrays(blocks.shape, sharding, parts)

    return PrefetchedBatches(iterator, lambda batch: jax.tree.map(split, batch), size)


class PrefetchedBatches(Iterator[Batch]):
    """Batches that a background thread keeps ready; leaving a `with` block, or `close`, stops the thread."""

    def __init__(self, iterator: Iterable[Batch], prepare: Callable[[Batch], Batch], size: int):
        self._ready: queue.Queue = queue.Queue(maxsize=size)
        closed = threading.Event()
        # The thread knows nothing of this object, so that it can be collected, which stops the thread too.
        thread = threading.Thread(
            target=_work, args=(iterator, prepare, self._ready, closed), name="prefetch", daemon=True
        )
        self.close = weakref.finalize(self, _stop, closed, thread)
        self._ended: BaseException | None = None
        thread.start()

    def __next__(self) -> Batch:
        if not self.close.alive:
            raise StopIteration
        if self._ended is None:
            batch, self._ended = self._ready.get()
            if self._ended is None:
                return batch
        raise self._ended

    def __enter__(self) -> "PrefetchedBatches":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _work(
    iterator: Iterable[Batch], prepare: Callable[[Batch], Batch], ready: queue.Queue, closed: threading.Event
) -> None:
    """Puts (batch, None) into the queue for every batch, then (None, what ended the iteration)."""

    def put(*item) -> bool:
        while not closed.is_set():
            try:
                ready.put(item, timeout=_PATIENCE)
                return True
            except queue.Full:
                continue
        return False

    try:
        for batch in iterator:
            if not put(prepare(batch), None):
                return
        put(None, StopIteration())
    except BaseException as error:  # whatever it is, it belongs to the consumer
        put(None, error)


def _stop(closed: threading.Event, thread: threading.Thread) -> None:
    closed.set()
    if thread is not threading.current_thread():  # the garbage collector may run anywhere
        thread.join()
