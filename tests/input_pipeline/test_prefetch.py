import gc
import os
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from input_pipeline.prefetch import prefetch_to_devices
from ps_jax.errors import DataError
from ps_jax.interface import Batch, People, Scenes


def make_batch(step, rows=4):
    generator = np.random.default_rng(step)
    return Batch(
        Scenes(
            generator.integers(0, 256, (rows, 6, 5, 3), dtype=np.uint8), np.full((rows, 2), step, np.int32)
        ),
        People(
            generator.random((rows, 2, 4), np.float32),
            np.zeros((rows, 2), np.int32),
            np.zeros((rows, 2), np.int32),
            np.ones((rows, 2), bool),
        ),
        np.arange(rows, dtype=np.int32),
    )


def threads():
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_batches_arrive_in_order_and_unchanged():
    batches = prefetch_to_devices(map(make_batch, range(7)), jax.local_devices()[:1])
    for step, batch in enumerate(batches):
        expected = make_batch(step)
        assert jax.tree.structure(batch) == jax.tree.structure(expected)
        for one, two in zip(jax.tree.leaves(batch), jax.tree.leaves(expected), strict=True):
            assert isinstance(one, jax.Array) and one.dtype == two.dtype
            np.testing.assert_array_equal(one, two[None])
    assert step == 6
    wait_until(lambda: threads() == 0)
    with pytest.raises(StopIteration):
        next(batches)


def test_only_so_many_batches_are_made_ahead():
    made = []

    def source():
        for step in range(100):
            made.append(step)
            yield make_batch(step)

    with prefetch_to_devices(source(), jax.local_devices()[:1], size=2) as batches:
        wait_until(lambda: len(made) == 3)  # two in the queue, one in the thread's hands
        time.sleep(0.3)
        assert len(made) == 3
        next(batches)
        wait_until(lambda: len(made) == 4)


def test_errors_reach_the_consumer():
    def source():
        yield make_batch(0)
        raise DataError("s1.jpg: broken")

    batches = prefetch_to_devices(source(), jax.local_devices()[:1])
    next(batches)
    for _ in range(2):
        with pytest.raises(DataError, match=r"s1\.jpg: broken"):
            next(batches)


def test_closing_stops_the_thread_and_the_source():
    ended = threading.Event()

    def source():
        try:
            while True:
                yield make_batch(0)
        finally:
            ended.set()

    batches = prefetch_to_devices(source(), jax.local_devices()[:1])
    next(batches)
    assert threads() == 1
    batches.close()
    assert threads() == 0 and ended.wait(10)
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


def test_a_forgotten_iterator_stops_its_thread():
    batches = prefetch_to_devices(map(make_batch, range(100)), jax.local_devices()[:1])
    assert threads() == 1
    del batches
    gc.collect()
    wait_until(lambda: threads() == 0)


def test_size_has_to_be_positive():
    with pytest.raises(ValueError, match="size is 0"):
        prefetch_to_devices([], jax.local_devices(), size=0)


TWO_DEVICES = """
import sys
import jax, numpy as np
sys.path.insert(0, sys.argv[1])
from test_prefetch import make_batch
from input_pipeline.prefetch import prefetch_to_devices
from ps_jax.errors import ConfigError
devices = jax.local_devices()
assert len(devices) == 2
step = jax.pmap(lambda batch: (batch.scenes.image.sum(), batch.index), axis_name="devices", devices=devices)
for number, batch in enumerate(prefetch_to_devices(map(make_batch, range(3)), devices)):
    expected = make_batch(number)
    assert batch.scenes.image.shape == (2, 2, 6, 5, 3)
    assert [shard.device for shard in batch.index.addressable_shards] == devices
    total, index = step(batch)
    np.testing.assert_array_equal(total, expected.scenes.image.reshape(2, -1).sum(1))
    np.testing.assert_array_equal(index, [[0, 1], [2, 3]])
assert number == 2
try:
    next(prefetch_to_devices([make_batch(0, rows=5)], devices))
except ConfigError as error:
    assert "5 rows cannot be split evenly over 2 devices" in str(error)
else:
    raise AssertionError("an uneven batch went through")
print("done")
"""


def test_two_devices(request):
    here = str(request.path.parent)
    run = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, here],
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "PYTHONPATH": ".",
        },
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "done"
