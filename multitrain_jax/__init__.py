"""One video transformer, many action datasets: MultiTrain and co-finetuning in JAX."""

__all__ = ['load']


def __getattr__(name: str):
    """`load` is imported on first use, so that commands start fast."""
    if name == 'load':
        from multitrain_jax.inference.model import load

        return load
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
