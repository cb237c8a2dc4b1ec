"""Memory of the host that programs for CPU take and give back."""

import ctypes
import importlib.metadata
import importlib.util
import os
import re
import sys

import jax

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


def keep_freed_memory() -> None:
    """Where JAX computes on CPU: freed memory stays with the process, for the next step. To be
    called before JAX's first use.

    XLA takes the memory of a step anew every time, and glibc asks the system for every large block
    and gives it back at once; the system fills each page with zeros when it is first touched.
    Measured for forward and gradient of S 16x4, one clip: 1.7 of 8.9 s of processor time, and 5.3 s
    instead of 3.9 until it is done.

    glibc keeps blocks above 64 MB only in its first arena, and gives threads arenas of their own
    when they meet at the first one's lock. On a single device the thread that starts a program also
    takes its memory and waits for it, instead of one of XLA's (a training step of S 16x4 in 0.84 of
    the time); two arenas are then enough that XLA's threads do not wait for each other while they
    compile (one: 11.2 s for the quickstart's step instead of 6.8), and few enough that no block is
    lost (with many, one of 6 processes on a busy machine lost every block: 146,481 page faults in
    three programs of 200 MB, instead of 0 to 100). Several devices compute in threads, each of
    which lost its blocks: for them there is one arena (two devices 73,227 faults, now 15; eight
    210,000, now 37,000), and decoding in 8 threads takes 3 to 8 % more processor time.

    The process holds on to its largest use of memory, and to some more, as small blocks come to lie
    in the holes of large ones.
    """
    # Read when JAX makes its devices, before it can be asked what they are. On an accelerator only
    # what is computed on its host is waited for.
    jax.config.update('jax_cpu_enable_async_dispatch', False)
    # Other systems, and other C libraries of Linux, have none.
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    if mallopt is not None and _only_cpu():
        arenas = 2 if _cpu_devices() == 1 else 1
        mallopt(_M_ARENA_MAX, arenas)  # before JAX starts its threads: a thread keeps its arena
    if mallopt is not None and jax.default_backend() == 'cpu':
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def _only_cpu() -> bool:
    """Whether JAX will find nothing but CPUs, which it is not asked yet."""
    if jax.config.jax_platforms:
        return jax.config.jax_platforms.split(',')[0] == 'cpu'
    return not (
        importlib.metadata.entry_points(group='jax_plugins')
        or importlib.util.find_spec('jax_plugins')
        or importlib.util.find_spec('libtpu')
    )


def _cpu_devices() -> int:
    """How many devices the CPU will be to JAX, which it is not asked yet."""
    flags = os.environ.get('XLA_FLAGS', '')
    forced = re.findall(r'--xla_force_host_platform_device_count=(\d+)', flags)
    return int(forced[-1]) if forced else max(1, jax.config.jax_num_cpu_devices)
