"""Choice of an implementation by the platform that a program is compiled for."""

from collections.abc import Callable

import jax
from jax import lax


def choose(
    implementation: str | None,
    implementations: dict[str, Callable[..., jax.Array]],
    **by_default: str,
) -> Callable:
    """The implementation of that name; None: the one that `by_default` names for the program's platform.

    Args:
      implementation: a name or None.
      implementations: by name.
      by_default: names by platform, such as `cpu='shifted'`, and of all others (`default=...`).

    Raises:
      ValueError: for an unknown name.
    """
    if implementation is None:
        return by_platform(
            **{platform: implementations[name] for platform, name in by_default.items()}
        )
    if implementation not in implementations:
        raise ValueError(
            f'unknown implementation {implementation!r}: use one of {tuple(implementations)} or None'
        )
    return implementations[implementation]


def by_platform(**functions: Callable[..., jax.Array]) -> Callable:
    """A differentiable function: the one named for the program's platform (`cpu`, `tpu`), else `default`.

    The platform is that of the compiled program, not of this process: a TPU program can be compiled
    on a machine without TPU. The choice stands inside one custom gradient that keeps only the
    arguments, so that no implementation keeps residuals for another.
    """

    @jax.custom_vjp
    def function(*args):
        return lax.platform_dependent(*args, **functions)

    def gradient_of(implementation):
        return lambda args, g: jax.vjp(implementation, *args)[1](g)

    def backward(args, g):
        gradients = {platform: gradient_of(function) for platform, function in functions.items()}
        return lax.platform_dependent(args, g, **gradients)

    function.defvjp(lambda *args: (function(*args), args), backward)
    return function
