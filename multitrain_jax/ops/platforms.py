"""Choice of an implementation by the platform that a program is compiled for."""

from collections.abc import Callable

import jax
from jax import lax


def choose(
    implementation: str | None, implementations: dict[str, Callable[..., jax.Array]], *, cpu: str, default: str
) -> Callable:
    """The implementation of that name; None: ``cpu`` in programs for CPU, ``default`` in all others.

    Raises:
      ValueError: for an unknown name.
    """
    if implementation is None:
        return by_platform(cpu=implementations[cpu], default=implementations[default])
    if implementation not in implementations:
        raise ValueError(
            f'unknown implementation {implementation!r}: use one of {tuple(implementations)} or None'
        )
    return implementations[implementation]


def by_platform(*, cpu: Callable[..., jax.Array], default: Callable[..., jax.Array]) -> Callable:
    """A differentiable function: ``cpu`` in programs for CPU, ``default`` in all others.

    The platform is that of the compiled program, not of this process: a TPU program can be compiled
    on a machine without TPU. The choice stands inside one custom gradient that keeps only the
    arguments, so that neither implementation keeps residuals for the other.
    """

    @jax.custom_vjp
    def function(*args):
        return lax.platform_dependent(*args, cpu=cpu, default=default)

    def gradient_of(implementation):
        return lambda args, g: jax.vjp(implementation, *args)[1](g)

    def backward(args, g):
        return lax.platform_dependent(
            args, g, cpu=gradient_of(cpu), default=gradient_of(default)
        )

    function.defvjp(lambda *args: (function(*args), args), backward)
    return function
