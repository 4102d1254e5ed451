"""Several processes that train together: how they meet, wait for one another, and end.

Every process runs the same program on devices of its own. The first process alone reads and writes checkpoints, keeps
the records and evaluates; the others wait for what comes of it. They wait at JAX's coordination service and not in a
collective operation of the devices, which would run into a time limit of its own.
"""

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from ps_jax import errors
from ps_jax.errors import ConfigError, PersonSearchError
from ps_jax.training._leaves import describe_template, flatten_state, unflatten_state
from ps_jax.training.interruption import Interruption
from ps_jax.training.state import TrainState
from ps_jax.training.step import TrainStep

CONNECT_SECONDS = 300  # to find all other processes
POLL_SECONDS = 1.0  # between two looks at what the others say
FAREWELL_SECONDS = 3.0  # the first process keeps the service alive for, so that the others read why it ends

_FAILURE = "ps_jax/failure"
_turns = itertools.count()  # of `on_first`, the same in all processes
_ending = threading.Lock()

T = TypeVar("T")


def is_first() -> bool:
    """Whether this is the first process, which is also the only one where there are no others."""
    return jax.process_index() == 0


def all_devices() -> list[jax.Device]:
    """The devices of all processes, those of the first process first.

    Raises:
      ConfigError: the processes have not equally many.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    counts = [len(jax.local_devices(process)) for process in range(jax.process_count())]
    if len(set(counts)) > 1:
        raise ConfigError(
            f"the {len(counts)} processes have {', '.join(map(str, counts))} devices; show each equally many "
            "(CUDA_VISIBLE_DEVICES)"
        )
    return devices


@contextlib.contextmanager
def joined(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    timeout: float = CONNECT_SECONDS,
) -> Iterator[None]:
    """Within, this process is one of several; an error in one of them ends all, with the same message.

    To be entered before JAX is used for the first time. Without any of the three values there is only this process.

    Args:
      coordinator: "host:port" that the first process can open and the others reach.
      num_processes: how many there are.
      process_id: the number of this one, 0 for the first.
      timeout: seconds to wait for the others; after them the process ends with exit code 2.

    Raises:
      ConfigError: a value is missing or impossible, or the first process cannot open the port.
    """
    values = {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    missing = [name for name, value in values.items() if value is None]
    if len(missing) == len(values):
        yield
        return
    if missing:
        given = " and ".join(name for name in values if name not in missing)
        raise ConfigError(f"{given} needs {' and '.join(missing)} beside it, to train in several processes")
    assert coordinator is not None and num_processes is not None and process_id is not None
    _connect(coordinator, num_processes, process_id, timeout)
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(process_id, over), name="processes", daemon=True)
    watch.start()
    try:
        yield
    except SystemExit:  # agreed upon by all
        raise
    except BaseException as error:
        _fail(process_id, error)
    finally:
        on_first(lambda: None)  # JAX's own farewell gives up on a first process that still saves
        over.set()
        watch.join()
        jax.distributed.shutdown()


def on_first(function: Callable[[], T], interruption: Interruption | None = None) -> T:
    """Runs a function in the first process; all processes return its result or raise its error.

    The others wait as long as it takes. All must call this in the same order.

    Args:
      function: gives a JSON value; what it raises has to be a PersonSearchError or SystemExit to get through.
      interruption: where given, a signal that reaches a waiting process reaches the first process, too.
    """
    if jax.process_count() == 1:
        return function()
    key = f"ps_jax/turn/{next(_turns)}"
    signal_key = f"{key}/signal"
    if not is_first():
        told = False
        while (outcome := _wait_for(key)) is None:
            if interruption and interruption.received and not told:
                _post(signal_key, int(interruption.received))
                told = True
        if "exit" in outcome:
            raise SystemExit(outcome["exit"])
        if "error" in outcome:
            name, message = outcome["error"]
            raise getattr(errors, name, PersonSearchError)(message)
        return outcome["value"]
    try:
        with _listening(signal_key) if interruption else contextlib.nullcontext():
            value = function()
    except PersonSearchError as error:
        _post(key, {"error": [type(error).__name__, str(error)]})
        raise
    except SystemExit as stop:
        _post(key, {"exit": stop.code})
        raise
    _post(key, {"value": value})
    return value


class StopAgreement:
    """All processes stop before the same step when one of them has received a signal.

    The signal travels with a step to all processes and is looked at one step later, so that nobody waits for the
    step under way. A single process stops before the next step.
    """

    def __init__(self, step: TrainStep, interruption: Interruption):
        self._step, self._interruption = step, interruption
        self._heard: jax.Array | None = None  # with the step before the last

    def stopped(self) -> signal.Signals | None:
        """The signal to stop for; to be asked once before every step."""
        if jax.process_count() == 1:
            return self._interruption.received
        heard, self._heard = self._heard, self._step.heard
        number = 0 if heard is None else int(heard)
        return signal.Signals(number) if number else None


def first_then_others(function: Callable[[], T]) -> T:
    """Runs a function in the first process, then in the others; each returns what it got.

    For work that finds done what was done before on the same disk.
    """
    results: list[T] = []
    on_first(lambda: results.append(function()))
    return results[0] if results else function()


def state_of_first(
    function: Callable[[], tuple[TrainState, Any]], template: TrainState
) -> tuple[TrainState, Any]:
    """Runs a function in the first process and gives its state, bit for bit, and its note to all.

    Args:
      function: gives a state like `template` and a JSON value.
      template: a state of arrays or of shapes.
    """
    if jax.process_count() == 1:
        return function()
    states: list[TrainState] = []

    def run() -> Any:
        state, note = function()
        states.append(state)
        return note

    note = on_first(run)
    if states:
        leaves = flatten_state(states[0])
    else:
        described = describe_template(template)
        leaves = {name: np.zeros(shape, np.dtype(dtype)) for name, (shape, dtype) in described.items()}
    # As bytes, because the broadcast adds zeros, which would make 0.0 of -0.0.
    raw = [np.ascontiguousarray(leaf).reshape(-1).view(np.uint8) for leaf in leaves.values()]
    everything = np.asarray(multihost_utils.broadcast_one_to_all(np.concatenate(raw)))
    parts = np.split(everything, np.cumsum([len(part) for part in raw])[:-1])
    leaves = {
        name: part.view(leaf.dtype).reshape(leaf.shape)
        for (name, leaf), part in zip(leaves.items(), parts, strict=True)
    }
    return unflatten_state(leaves, template), note


def _connect(coordinator: str, num_processes: int, process_id: int, timeout: float) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(
            f"coordinator_address is {coordinator!r}; it must be host:port of the first process"
        )
    if not 0 <= process_id < num_processes:
        raise ConfigError(
            f"process_id is {process_id}; it must be one of 0 .. {num_processes - 1} (num_processes - 1)"
        )
    where = f"process {process_id} of {num_processes}, coordinator {coordinator}"

    def give_up() -> None:
        # JAX itself would abort the process with a stack trace, which no exception handler sees.
        _exit(
            f"{where}: the other processes were not found within {timeout:g} s. Start all {num_processes} with the "
            "same coordinator_address, which process 0 opens and all can reach, and each with its own process_id.",
            2,
        )

    timer = threading.Timer(timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        # It would take SIGTERM for itself; see `Interruption`.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            coordinator, num_processes, process_id, initialization_timeout=int(timeout) + 60
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{where}: cannot connect ({reason}); is the port free on the first process's machine?"
        ) from error
    finally:
        timer.cancel()
    logging.info("%s: %d of %d devices are here", where, jax.local_device_count(), jax.device_count())


def _service() -> Any:
    from jax._src import distributed  # JAX has no public name for its key-value store

    return distributed.global_state.client


def _post(key: str, value: Any) -> None:
    _service().key_value_set(key, json.dumps(value))


def _wait_for(key: str) -> Any | None:
    """The value of a key, None if it does not come within POLL_SECONDS."""
    try:
        return json.loads(_service().blocking_key_value_get(key, int(1000 * POLL_SECONDS)))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        return None


@contextlib.contextmanager
def _listening(key: str) -> Iterator[None]:
    """Sends this process the signal that another one posts."""
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            number = _wait_for(key)
            if number is not None:
                if not over.is_set():
                    os.kill(os.getpid(), signal.Signals(number))
                return

    thread = threading.Thread(target=listen, name="signals of others", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(process_id: int, over: threading.Event) -> None:
    """Ends this process when another one has failed: its main thread may wait for that one for ever."""
    while not over.wait(POLL_SECONDS):
        try:
            failure = json.loads(_service().key_value_try_get(_FAILURE))
        except jax.errors.JaxRuntimeError:  # nobody has failed
            continue
        _end(process_id, failure)


def _fail(process_id: int, error: BaseException) -> NoReturn:
    """Tells the others and ends this process, without JAX's farewell, which would wait for them."""
    if isinstance(error, PersonSearchError):
        failure = {"process": process_id, "message": str(error), "code": 2}
    else:
        failure = {"process": process_id, "message": f"{type(error).__name__}: {error}", "code": 1}
    try:
        _post(_FAILURE, failure)
    except jax.errors.JaxRuntimeError:
        # Most likely another one was earlier, and this error is what came of it.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            failure = json.loads(_service().key_value_try_get(_FAILURE))
    if failure["process"] == process_id and failure["code"] == 1:
        traceback.print_exception(error)
    _end(process_id, failure)


def _end(process_id: int, failure: dict[str, Any]) -> NoReturn:
    _ending.acquire()  # for good: whoever comes second waits for the end
    linger = FAREWELL_SECONDS if process_id == 0 else 0
    _exit(f"process {failure['process']}: {failure['message']}", failure["code"], linger)


def _exit(message: str, code: int, linger: float = 0) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    time.sleep(linger)
    os._exit(code)
