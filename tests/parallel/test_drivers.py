"""Spreading batches over devices, and preparing them ahead of use."""

import os
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from multitrain_jax.errors import UserError
from multitrain_jax.parallel.drivers import Pmap
from multitrain_jax.parallel.mesh import check_divides, data_mesh, replicate
from multitrain_jax.parallel.prefetch import prefetch


def test_to_devices_gives_every_device_its_rows():
    driver = Pmap(data_mesh(jax.devices()[:4]))
    rows = np.arange(24, dtype=np.int32).reshape(12, 2)
    spread = driver.to_devices({'rows': rows})['rows']
    assert spread.shape == (4, 3, 2)
    for shard in spread.addressable_shards:
        number = list(driver.mesh.devices.flat).index(shard.device)
        np.testing.assert_array_equal(shard.data[0], rows[3 * number : 3 * number + 3])


def test_eval_step_sees_the_same_parameters_everywhere():
    driver = Pmap(data_mesh(jax.devices()[:8]))
    step = driver.eval_step(lambda p, s: p + s['x'].sum())
    got = step(replicate(np.float32(10), driver.mesh), driver.to_devices({'x': np.arange(16.0)}))
    np.testing.assert_array_equal(got, 10 + np.arange(16.0).reshape(8, 2).sum(1))


def test_check_divides_says_what_would_fit():
    mesh = data_mesh(jax.devices()[:8])
    assert check_divides(48, mesh, 'batch_size', micro_batches=2) == 3
    with pytest.raises(
        UserError,
        match='batch_size=20 does not divide over 8 devices; use a multiple of 8, such as 16',
    ):
        check_divides(20, mesh, 'batch_size')
    with pytest.raises(
        UserError, match='8 devices x 2 accumulation steps; use a multiple of 16, such as 16'
    ):
        check_divides(3, mesh, 'batch_size', micro_batches=2)


def test_prefetch_keeps_the_order_and_hands_errors_over():
    def items():
        yield from range(5)
        raise ValueError('damaged')

    got = []
    with pytest.raises(ValueError, match='damaged'):
        for item in prefetch(items(), lambda x: 10 * x):
            got.append(item)
    assert got == [0, 10, 20, 30, 40]


def test_closing_prefetch_early_ends_its_thread_and_closes_the_items():
    closed = threading.Event()

    def items():
        try:
            number = 0
            while True:
                yield (number := number + 1)
        finally:
            closed.set()

    before = set(threading.enumerate())
    batches = prefetch(items(), lambda x: x)
    assert next(batches) == 1
    batches.close()
    assert closed.is_set() and set(threading.enumerate()) <= before


@pytest.mark.parametrize(('given', 'least'), [(None, 12), ('5', 5)])
def test_a_cpu_counts_as_several_devices_with_threads_to_spare(given, least):
    """More threads than one per device, or collectives can wait for each other for ever;
    the user's number is kept.
    """
    code = (
        'import os, jax; from multitrain_jax.parallel import mesh; mesh.use_cpu_devices(3); '
        'print(len(jax.devices()), os.environ["NPROC"])'
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ('XLA_FLAGS', 'NPROC')
    }
    if given:
        environment['NPROC'] = given
    done = subprocess.run(
        [sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=True
    )
    devices, threads = map(int, done.stdout.split())
    assert devices == 3 and threads >= least
    assert not given or threads == int(given)
