"""Compiled programs on disk: what one process has compiled, later ones only load."""

import os

import jax

DIRECTORY = '~/.cache/multitrain_jax/xla'


def keep_compiled(directory: str | None = DIRECTORY) -> None:
    """Keeps the programs of this process, and takes those that are kept.

    Args:
        directory: where; `DIRECTORY` gives way to one that JAX has been told of, for example by
            `JAX_COMPILATION_CACHE_DIR`. None: it stays as it is.
    """
    told = directory == DIRECTORY and jax.config.jax_compilation_cache_dir
    if directory is not None and not told:
        jax.config.update('jax_compilation_cache_dir', os.path.expanduser(directory))
