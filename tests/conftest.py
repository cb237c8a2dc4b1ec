"""Settings that every test shares: simulated devices, strict JAX, a persistent compilation cache."""

import os
import pathlib

# Before JAX starts: 8 simulated devices on the CPU, for the tests that compare 1 device with 8.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
_FLAG = '--xla_force_host_platform_device_count=8'
if _FLAG not in os.environ.get('XLA_FLAGS', ''):
    os.environ['XLA_FLAGS'] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
_CACHE = pathlib.Path(os.environ.get('MULTITRAIN_TEST_CACHE', pathlib.Path.home() / '.cache' / 'multitrain_jax_tests'))
jax.config.update('jax_compilation_cache_dir', str(_CACHE))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


@pytest.fixture(scope='session')
def finished_run(tmp_path_factory):
    """A short run that has finished: (config, source, workdir)."""
    from tests import tiny

    workdir = tmp_path_factory.mktemp('finished_run')
    return *tiny.finish_run(workdir), workdir
