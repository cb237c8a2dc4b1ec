import concurrent.futures
import os
import sys
import threading

import numpy as np
import pytest

from data_pipelines.workers import ArrayPool, scratch, yield_to_others


def _place(array):
    return array.__array_interface__['data'][0]


def test_memory_is_given_again_once_no_view_is_left():
    pool = ArrayPool()
    first = pool.empty((3, 4), np.uint8)
    first[:] = 7
    view = first[1:, ::2]
    place = _place(first)
    del first
    second = pool.empty((3, 4), np.uint8)
    second[:] = 0
    assert _place(second) != place and (view == 7).all()
    del view
    other = pool.empty((4, 3), np.uint8)
    assert other.shape == (4, 3) and _place(other) != place
    third = pool.empty((3, 4), np.uint8)
    assert _place(third) == place and third.flags.writeable and third.flags.c_contiguous


def test_only_a_few_idle_arrays_are_kept():
    pool = ArrayPool()
    arrays = [pool.empty((2,), np.uint8) for _ in range(20)]
    del arrays
    assert len(pool._idle) <= 4


def test_a_device_array_keeps_the_memory_that_it_shares():
    """JAX on a CPU may take NumPy's memory as it is."""
    jax = pytest.importorskip('jax')
    pool = ArrayPool()
    for number in range(5):
        batch = pool.empty((4, 64, 64, 3), np.uint8)
        batch[:] = number
        on_device = jax.device_put(batch)
        del batch
        pool.empty((4, 64, 64, 3), np.uint8)[:] = 255
        assert (np.asarray(on_device) == number).all()


def test_scratch_memory_is_used_again_by_its_thread_only():
    first = scratch('a', 100)
    assert len(first) == 100 and first.dtype == np.uint8
    assert np.shares_memory(first, scratch('a', 120)) and not np.shares_memory(
        first, scratch('b', 100)
    )
    assert len(scratch('a', 10_000)) == 10_000
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert not np.shares_memory(scratch('a', 100), pool.submit(scratch, 'a', 100).result())


@pytest.mark.skipif(sys.platform != 'linux', reason='threads have priorities of their own in Linux')
def test_a_thread_that_decodes_yields_to_the_others_alone():
    def niceness():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    with concurrent.futures.ThreadPoolExecutor(1, initializer=yield_to_others) as pool:
        assert pool.submit(niceness).result() == min(before + 10, 19)
    assert niceness() == before
