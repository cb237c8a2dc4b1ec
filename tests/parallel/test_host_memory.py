"""Memory that was freed is taken again without the system's help."""

import os
import subprocess
import sys

import pytest

# The fewest page faults of some times that much memory is taken, after the first two: once in a
# while a small block comes to lie in the hole of a large one, which then needs another place. In a
# process of its own, for the setting stays.
_COUNT = """
import resource
import jax
import jax.numpy as jnp
import numpy as np
from multitrain_jax.parallel import host_memory
if {keep}:
    host_memory.keep_freed_memory()
{take}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    take()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min([faults() for _ in range(6)][2:]))
"""
_BY_NUMPY = """
def take():
    np.ones(25_000_000)
"""
_BY_A_PROGRAM = """
product = jax.jit(lambda x: jnp.exp(x @ x.T) @ x)  # 200 MB between its products
x = jnp.ones((7071, 4))
def take():
    product(x).block_until_ready()
"""
_BY_TWO_DEVICES = """
product = jax.pmap(lambda x: jnp.exp(x @ x.T) @ x)  # 50 MB on each
x = np.ones((2, 3535, 4), np.float32)
def take():
    jax.block_until_ready(product(x))
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='the setting is of the C library of Linux')
@pytest.mark.parametrize(
    ('devices', 'take'),
    [(1, _BY_NUMPY), (1, _BY_A_PROGRAM), (2, _BY_TWO_DEVICES)],
    ids=['numpy', 'program', 'two devices'],
)
def test_freed_memory_is_used_again(devices, take):
    flag = f'--xla_force_host_platform_device_count={devices}'
    environment = os.environ | {'XLA_FLAGS': flag, 'JAX_PLATFORMS': 'cpu'}

    def faults(keep: bool) -> int:
        command = [sys.executable, '-c', _COUNT.format(keep=keep, take=take)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return int(done.stdout)

    without, kept = faults(False), faults(True)
    assert without > 50  # huge pages, where the system gives them, are 2 MB
    assert kept < 0.2 * without
