"""Memory that was freed is taken again without the system's help."""

import subprocess
import sys

import pytest

# Page faults of the second time that 200 MB are written; in a process of its own, for the setting stays.
_COUNT = """
import resource
import numpy as np
from multitrain_jax.devices import host_memory
if {keep}:
    host_memory.keep_freed_memory()
np.ones(25_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(25_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='the setting is of the C library of Linux')
def test_freed_memory_is_used_again():
    def faults(keep: bool) -> int:
        command = [sys.executable, '-c', _COUNT.format(keep=keep)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    without, kept = faults(False), faults(True)
    assert without > 50  # huge pages, where the system gives them, are 2 MB
    assert kept < 0.2 * without
