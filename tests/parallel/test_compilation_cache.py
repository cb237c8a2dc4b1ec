"""Where compiled programs are kept."""

import os

import jax
import pytest

from multitrain_jax.parallel.compilation_cache import DIRECTORY, keep_compiled


@pytest.mark.parametrize(
    ('before', 'directory', 'after'),
    [
        (None, DIRECTORY, os.path.expanduser(DIRECTORY)),
        ('/told', DIRECTORY, '/told'),
        ('/told', '/own', '/own'),
        ('/told', None, '/told'),
        (None, '~/own', os.path.expanduser('~/own')),
    ],
)
def test_where_programs_are_kept(before, directory, after):
    kept = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update('jax_compilation_cache_dir', before)
        keep_compiled(directory)
        assert jax.config.jax_compilation_cache_dir == after
    finally:
        jax.config.update('jax_compilation_cache_dir', kept)
