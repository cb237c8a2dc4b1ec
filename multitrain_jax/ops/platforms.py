"""Choice of an implementation by the platform or the device that a program is compiled for."""

from collections.abc import Callable, Iterator
import contextlib
import contextvars
import re
from typing import Any

import jax
from jax import lax

_ONLY: contextvars.ContextVar[str | None] = contextvars.ContextVar('only', default=None)


def target_device() -> Any:
    """What the program that is being traced will run on: one of this process's devices, or a
    description of another.

    It is told by the mesh that the program is traced for; without one, it is the first device. Has
    `platform` and `device_kind`.
    """
    own = jax.devices()
    described = jax.sharding.get_abstract_mesh().abstract_device
    if described is None:
        return own[0]
    return next((one for one in own if one.device_kind == described.device_kind), described)


def tpu_core_memory(device: Any) -> int:
    """Bytes of VMEM that a kernel of ours may take on a TPU's core: 0 on other devices and on TPUs
    before version 5.

    Seven eighths of what the core has: 128 MiB in v5e and v6e, 64 in the others.
    """
    version = re.match(r'TPU ?v?(\d+)', device.device_kind)
    if version is None or int(version[1]) < 5:
        return 0
    return (112 if device.device_kind.endswith(('lite', 'v5e', 'v6e')) else 56) << 20


def nvidia_capability(device: Any) -> float:
    """Compute capability of an NVIDIA GPU: 8 is Ampere, 9 Hopper, 10 Blackwell; 0 of any other
    device. Described GPUs count as Hopper.
    """
    capability = str(getattr(device, 'compute_capability', 9.0))
    return float(capability) if device.platform == 'gpu' and capability[:1].isdigit() else 0.0


def has_kernels(device: Any) -> bool:
    """Whether it is a GPU for which this JAX compiles our kernels (`ops.layer_norm_gpu`,
    `ops.pooling_gpu`): of the Hopper generation or newer.
    """
    return nvidia_capability(device) >= 9 and jax.__version_info__ >= (0, 12)


def without_loops() -> bool:
    """Whether what is traced now had better have no loops: a GPU copies what they make, and ONNX's
    runtimes optimise nothing in them.
    """
    return only_platform() == 'onnx' or target_device().platform == 'gpu'


@contextlib.contextmanager
def only(platform: str) -> Iterator[None]:
    """Programs that are traced meanwhile are for this platform, whatever they run on. Besides JAX's
    platforms there is `onnx`, of programs that are to be converted.
    """
    token = _ONLY.set(platform)
    try:
        yield
    finally:
        _ONLY.reset(token)


def only_platform() -> str | None:
    """The platform of the surrounding `only`; None outside of one."""
    return _ONLY.get()


def choose(
    implementation: str | None,
    implementations: dict[str, Callable[..., jax.Array]],
    **by_default: str,
) -> Callable:
    """The implementation of that name; None: the one that `by_default` names for the program's
    platform.

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
            f'unknown implementation {implementation!r}: use one of {tuple(implementations)} or '
            'None'
        )
    return implementations[implementation]


def by_platform(**functions: Callable[..., jax.Array]) -> Callable:
    """A differentiable function: the one named for the program's platform (`cpu`, `tpu`), else
    `default`.

    The platform is that of the compiled program, not of this process: a TPU program can be compiled
    on a machine without TPU. The choice stands inside one custom gradient that keeps only the
    arguments, so that no implementation keeps residuals for another. One named for `onnx` is used
    within `only('onnx')`, and nowhere else.
    """
    if (platform := only_platform()) is not None:
        return functions.get(platform, functions['default'])
    functions.pop('onnx', None)

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
