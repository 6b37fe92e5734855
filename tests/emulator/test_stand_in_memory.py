"""Memory of the stand-in for CuPy: the pool's blocks and limit, copies from pinned memory."""

import gc
import os
import subprocess
import sys

import numpy as np
import pytest

from minddpm.kernels.emulator import EmulatorError


def sizes(pool):
    """Return the bytes in use, in free blocks, and in all blocks."""
    return pool.used_bytes(), pool.free_bytes(), pool.total_bytes()


@pytest.fixture
def pool(xp):
    """A pool that allocates the test's arrays."""
    own = xp.cuda.MemoryPool()
    with xp.cuda.using_allocator(own.malloc):
        yield own


def test_a_pool_counts_bytes_in_multiples_of_512_and_keeps_freed_ones(xp, pool):
    others = xp.get_default_memory_pool().used_bytes()
    x = xp.empty((10, 100), "float32")
    y, nothing = x[2:], xp.empty(0)
    assert sizes(pool) == (4096, 0, 4096)
    del x
    assert sizes(pool) == (4096, 0, 4096)  # y is a view of it
    del y
    assert sizes(pool) == (0, 4096, 4096)
    x = xp.empty(1024, "float32")
    assert sizes(pool) == (4096, 0, 4096)  # the same block
    del x
    pool.free_all_blocks()
    assert sizes(pool) == (0, 0, 0)
    assert xp.get_default_memory_pool().used_bytes() == others
    assert nothing.size == 0


def test_the_smallest_free_block_that_is_large_enough_is_split(xp, pool):
    kept = [xp.empty(n, "uint8") for n in (4096, 1024, 2048)]
    del kept[:]
    x = xp.empty(1025, "uint8")
    assert sizes(pool) == (1536, 5632, 7168)  # of the 2048
    pool.free_all_blocks()  # the 512 that are left of them are a part of an allocation
    assert sizes(pool) == (1536, 512, 2048)
    y = xp.empty(512, "uint8")
    assert sizes(pool) == (2048, 0, 2048)
    del x, y
    x = xp.empty(2048, "uint8")  # merged again
    assert sizes(pool) == (2048, 0, 2048)
    del x
    pool.free_all_blocks()
    assert sizes(pool) == (0, 0, 0)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2), (1, 2, 0)])
def test_parts_of_an_allocation_are_merged_in_any_order(xp, pool, order):
    x = xp.empty(1536, "uint8")
    del x
    parts = dict(enumerate(xp.empty(512, "uint8") for _ in range(3)))
    assert sizes(pool) == (1536, 0, 1536)
    for part in order:
        del parts[part]
    assert sizes(pool) == (0, 1536, 1536)
    pool.free_all_blocks()
    assert sizes(pool) == (0, 0, 0)


def test_a_stream_does_not_use_the_free_blocks_of_another(xp, pool):
    x, stream = xp.empty(1024, "uint8"), xp.cuda.Stream()
    del x
    with stream:
        y = xp.empty(1024, "uint8")
    assert sizes(pool) == (1024, 1024, 2048)
    del y  # returns to the stream that it was allocated in
    x = [xp.empty(1024, "uint8")]
    assert sizes(pool) == (1024, 1024, 2048)
    pool.free_all_blocks(stream)
    assert sizes(pool) == (1024, 0, 1024)
    del x[:]
    pool.free_all_blocks(stream)
    assert sizes(pool) == (0, 1024, 1024)


def test_the_limit_is_for_new_blocks_only(xp, pool):
    x, y = xp.empty(4096, "uint8"), xp.empty(1024, "uint8")
    del x
    pool.set_limit(size=4096)  # less than the pool has: what is free may still be used
    x = xp.empty(4096, "uint8")
    words = (
        r"^Out of memory allocating 1,024 bytes \(allocated so far: 5,120 bytes, limit set to: "
        r"4,096 bytes\)\.$"
    )
    with pytest.raises(xp.cuda.memory.OutOfMemoryError, match=words):
        xp.asarray(np.ones(100))
    assert (pool.get_limit(), *sizes(pool)) == (4096, 5120, 0, 5120)
    del x
    x = xp.empty(1536, "uint8")
    assert sizes(pool) == (2560, 2560, 5120)
    with pytest.raises(xp.cuda.memory.OutOfMemoryError, match="allocating 4,096 bytes"):
        xp.empty(4096, "uint8")
    assert sizes(pool) == (2560, 2560, 5120)  # x has a part of the allocation
    del x, y
    assert xp.empty(4096, "uint8").size == 4096


def test_free_bytes_count_for_the_limit(xp, pool):
    """Parts of an allocation are of no use to a larger one, and cannot be returned."""
    x = xp.empty(4096, "uint8")
    del x
    x = xp.empty(512, "uint8")
    pool.set_limit(size=6144)
    with pytest.raises(xp.cuda.memory.OutOfMemoryError, match="so far: 4,096 bytes"):
        xp.empty(4096, "uint8")
    assert xp.empty(2048, "uint8").size == 2048
    assert sizes(pool) == (x.nbytes, 3584, 4096)


def test_an_allocation_beyond_the_limit_returns_free_blocks_first(xp, pool):
    pool.set_limit(size=8192)
    x = [xp.empty(4096, "uint8"), xp.empty(4096, "uint8")]
    del x[0]
    for beyond in (8193, 10_000):  # hopeless: nothing is returned for it
        with pytest.raises(xp.cuda.memory.OutOfMemoryError, match="so far: 8,192 bytes"):
            xp.empty(beyond, "uint8")
    assert sizes(pool) == (4096, 4096, 8192)
    with pytest.raises(xp.cuda.memory.OutOfMemoryError, match="so far: 4,096 bytes"):
        xp.empty(8192, "uint8")
    assert sizes(pool) == (4096, 0, 4096)
    x.append(x)  # garbage that only its collection frees
    gc.disable()
    try:
        del x
        y = xp.empty(8192, "uint8")
    finally:
        gc.enable()
    assert sizes(pool) == (8192, 0, 8192)
    assert y.size == 8192


def test_limits_are_bytes_or_a_fraction_of_the_memory(xp, pool):
    pool.set_limit(fraction=0.5)
    half = pool.get_limit()
    pool.set_limit(fraction=1.0)
    assert abs(pool.get_limit() - 2 * half) <= 1
    pool.set_limit()
    assert pool.get_limit() == 0
    for wrong in ({"size": -1}, {"fraction": 1.5}, {"size": 1, "fraction": 0.5}):
        with pytest.raises(ValueError, match=r"limit|at one time"):
            pool.set_limit(**wrong)
    code = (
        "from minddpm.kernels.emulator import cupy_on_cpu as c;"
        "print(c.get_default_memory_pool().get_limit())"
    )
    for text, limit in (("1000", 1000), ("50%", half)):
        environment = {**os.environ, "CUPY_GPU_MEMORY_LIMIT": text}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
        assert int(done.stdout) == limit


# --- pinned memory -------------------------------------------------------------------------------


def pinned(xp, values):
    """Return a copy of the values in pinned memory."""
    buffer = xp.cuda.alloc_pinned_memory(values.nbytes)
    copy = np.frombuffer(buffer, values.dtype, values.size).reshape(values.shape)
    copy[...] = values
    return copy


def test_copies_from_pinned_memory_are_asynchronous(xp):
    host = np.arange(6, dtype=np.float32).reshape(2, 3)
    x = xp.empty((2, 3), "float32")
    xp.stats.reset()
    x.set(pinned(xp, host))
    xp.asarray(pinned(xp, host)[:1])
    xp.asarray(host)  # CuPy copies it into its own pinned memory
    assert (xp.stats.to_device, xp.stats.pageable_to_device, xp.stats.synchronisations) == (3, 0, 0)
    x.set(host)
    assert (xp.stats.to_device, xp.stats.pageable_to_device) == (3, 1)
    assert (x.get() == host).all()
    with pytest.raises(ValueError, match="Shape mismatch"):
        x.set(host[:1])


def test_pinned_memory_may_be_overwritten_after_waiting_for_its_copy(xp):
    host, x = pinned(xp, np.zeros(3, np.float32)), xp.empty(3, "float32")
    for value in range(4):
        host[:] = value
        x.set(host)
        event = xp.cuda.Stream.null.record()
        event.synchronize()
    assert x.tolist() == [3] * 3


@pytest.mark.parametrize("found", ["by the next copy", "by an event", "by the end"])
def test_pinned_memory_that_is_overwritten_too_early(xp, found):
    host, x, event = pinned(xp, np.zeros(3, np.float32)), xp.empty(3, "float32"), xp.cuda.Event()
    event.record()  # before the copy, so that synchronising with it does not finish the copy
    x.set(host)
    event.synchronize()
    host[1] = 1
    wait = {"by the next copy": lambda: x.set(host), "by an event": event.synchronize}
    with pytest.raises(EmulatorError, match="overwritten while its copy"):
        wait.get(found, x.get)()
    x.get()  # reported only once
