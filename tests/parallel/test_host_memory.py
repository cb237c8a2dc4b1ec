"""Memory that was freed is taken again without the system's help."""

import os
import subprocess
import sys

import pytest

# Page faults of the third time that much memory is taken; in a process of its own, for the setting stays.
_COUNT = """
import resource
import jax
import jax.numpy as jnp
import numpy as np
from multitrain_jax.parallel import host_memory
if {keep}:
    host_memory.keep_freed_memory()
{take}
take()
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
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


@pytest.mark.skipif(sys.platform != 'linux', reason='the setting is of the C library of Linux')
@pytest.mark.parametrize('take', [_BY_NUMPY, _BY_A_PROGRAM], ids=['numpy', 'program'])
def test_freed_memory_is_used_again(take):
    # One device: several compute in threads of their own.
    environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}

    def faults(keep: bool) -> int:
        command = [sys.executable, '-c', _COUNT.format(keep=keep, take=take)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return int(done.stdout)

    without, kept = faults(False), faults(True)
    assert without > 50  # huge pages, where the system gives them, are 2 MB
    assert kept < 0.2 * without
