"""Settings that every test shares: simulated devices,
strict JAX, a persistent compilation cache.
"""

import gc
import os
import pathlib

# Before JAX starts: 8 simulated devices on the CPU, for the tests that compare 1 device with 8.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
_FLAG = '--xla_force_host_platform_device_count=8'
if _FLAG not in os.environ.get('XLA_FLAGS', ''):
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_FLAG}'.strip()
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
_CACHE = pathlib.Path(
    os.environ.get('MULTITRAIN_TEST_CACHE', pathlib.Path.home() / '.cache' / 'multitrain_jax_tests')
)
jax.config.update('jax_compilation_cache_dir', str(_CACHE))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


# A process may hold 65530 memory mappings (Linux), each compiled program takes some, and LLVM ends
# the process when there are no more.
_MAPPINGS = pathlib.Path('/proc/self/maps')
_MOST_MAPPINGS = 20_000


@pytest.fixture(autouse=True, scope='module')
def forget_programs_when_there_are_many():
    """Compiled programs of earlier modules are let go before they are too many;
    the cache on disk has the large ones.
    """
    yield
    if _MAPPINGS.exists() and _MAPPINGS.read_bytes().count(b'\n') > _MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope='session')
def finished_run(tmp_path_factory):
    """A short run that has finished: (config, source, workdir)."""
    from tests.helpers import tiny

    workdir = tmp_path_factory.mktemp('finished_run')
    return *tiny.finish_run(workdir), workdir
