"""One video transformer, many action datasets: MultiTrain and co-finetuning in JAX."""

__all__ = ['load', 'read_clips']


def __getattr__(name: str):
    """`load` and `read_clips` are imported on first use, so that commands start fast."""
    if name in __all__:
        from multitrain_jax.inference import model

        return getattr(model, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
