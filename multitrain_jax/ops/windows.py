"""Strided windows over a (t, h, w) grid without gather, scatter or inserted zeros.

A pooling is written here as plain arithmetic over shifted views, one view per tap of its window.
XLA fuses such a sum or maximum into one vectorised loop, which on CPU is far faster than its
general windowed operations.
Windows are centred: a kernel of k taps is padded by k // 2 on both sides.
"""

from collections.abc import Callable, Sequence
import itertools
import math

import jax
from jax import lax
import jax.numpy as jnp

from multitrain_jax.ops.platforms import by_platform, only_platform, without_loops

Triple = tuple[int, int, int]


def taps_of(kernel: Triple) -> list[Triple]:
    """All positions (dt, dh, dw) inside a window, last axis fastest."""
    return list(itertools.product(*map(range, kernel)))


def pooled_size(size: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    """Grid after a centred pooling with an odd kernel: size / stride, rounded up."""
    return tuple((n - 1) // s + 1 for n, s in zip(size, stride, strict=True))


def clip_by_clip(function: Callable, *arrays: jax.Array):
    """`function(*arrays)` for arrays with a leading clip axis, computed in a loop over clips.

    A clip's intermediate arrays stay in the cache, and the loop keeps XLA from copying a long
    expression into each of its readers (a normalisation reads its input three times): measured on
    CPU, that made the model's gradient 1.5 times slower and its compilation several times. A GPU,
    where a loop would copy what it makes, computes all clips at once, and so does ONNX, where
    nothing is fused.
    """
    if without_loops():
        return function(*arrays)
    if arrays[0].shape[0] == 1:
        return _apart(function, *arrays)
    return lax.map(lambda clip: _first(function(*(a[None] for a in clip))), arrays)


def sum_over_clips(function: Callable, *arrays: jax.Array) -> jax.Array:
    """The sum of `function` of each clip, for arrays with a leading clip axis."""
    if arrays[0].shape[0] == 1:
        return _apart(function, *arrays)

    def add(total, clip):
        return total + function(*(a[None] for a in clip)), None

    shape = jax.eval_shape(function, *(a[:1] for a in arrays))
    return lax.scan(add, jnp.zeros(shape.shape, shape.dtype), arrays)[0]


def _first(tree):
    return jax.tree.map(lambda a: a[0], tree)


def _apart(function: Callable, *arrays: jax.Array):
    """`function(*arrays)`; on CPU fused neither with what makes the arrays, one of floats among
    them, nor with its readers.

    XLA dissolves a loop over a single clip, and its CPU compiler removes `lax.optimization_barrier`
    before it fuses. A branch it leaves alone as long as it cannot tell that it is always taken: 0
    times a float may be NaN. A GPU would wait for the host to look at the condition.
    """

    def never(*arrays):
        return jax.tree.map(
            lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(function, *arrays)
        )

    def in_branch(*arrays):
        number = next(a for a in arrays if jnp.issubdtype(a.dtype, jnp.floating)).ravel()[0]
        return lax.cond(0 * number != 1, function, never, *arrays)

    return by_platform(cpu=in_branch, default=function)(*arrays)


def pad(
    x: jax.Array, margins: Sequence[tuple[int, int]], *, padding_value: float = 0.0
) -> jax.Array:
    """`jnp.pad` by margins (before, after) of every axis.

    In ONNX by concatenation: jax2onnx knows no padding where the number of clips is free.
    """
    if only_platform() != 'onnx':
        return jnp.pad(x, margins, constant_values=padding_value)
    for axis, counts in enumerate(margins):
        shapes = [(*x.shape[:axis], count, *x.shape[axis + 1 :]) for count in counts]
        before, after = (jnp.broadcast_to(jnp.asarray(padding_value, x.dtype), s) for s in shapes)
        x = jnp.concatenate([before] * (counts[0] > 0) + [x] + [after] * (counts[1] > 0), axis)
    return x


def frame_views(x: jax.Array, kernel: int, stride: int) -> list[jax.Array]:
    """What each tap of windows along time sees: `kernel` arrays [B, t', h, w, D].

    Args:
      x: [B, t, h, w, D].
      kernel: taps of a window.
      stride: steps between windows.
    """
    padded = pad(x, ((0, 0), (kernel // 2, kernel // 2), (0, 0), (0, 0), (0, 0)))
    reach = (x.shape[1] - 1) // stride * stride + 1
    return [padded[:, first : first + reach : stride] for first in range(kernel)]


def window_views(
    x: jax.Array, kernel: Triple, stride: Triple, *, padding_value: float = 0.0
) -> dict[Triple, jax.Array]:
    """What each tap of the windows sees: strided slices [B, t', h', w', D] of x [B, t, h, w, D].

    Args:
      x: the grid.
      kernel: taps of a window along t, h, w.
      stride: steps between windows.
      padding_value: what the points hold that are added around the grid.
    """
    margins = ((0, 0), *((k // 2, k // 2) for k in kernel), (0, 0))
    padded = pad(x, margins, padding_value=padding_value)
    out = [(n - k) // s + 1 for n, k, s in zip(padded.shape[1:4], kernel, stride)]
    views = {}
    for tap in taps_of(kernel):
        stop = [first + (n - 1) * s + 1 for first, n, s in zip(tap, out, stride)]
        views[tap] = lax.slice(
            padded, (0, *tap, 0), (x.shape[0], *stop, x.shape[-1]), (1, *stride, 1)
        )
    return views


def sum_over_windows(
    outputs: tuple[jax.Array, ...],
    term: Callable[..., jax.Array],
    kernel: Triple,
    stride: Triple,
    size: Triple,
) -> jax.Array:
    """For every grid point, the sum of a term over all windows that contain it.

    This is the input gradient of a pooling. Position p of the padded grid has phase p mod stride,
    and only taps congruent to that phase reach it. Each phase is a small sum of shifted views of
    `outputs`; the phases are then interleaved by a reshape.

    Args:
      outputs: arrays [B, t', h', w', D], one value per window; 0 stands for missing windows.
      term: `term(tap, *views)` is what the point at `tap` of a window receives from it.
      kernel: taps of a window along t, h, w.
      stride: steps between windows.
      size: (t, h, w) of the grid before pooling.

    Returns:
      [B, t, h, w, D].
    """
    reach = [(k - 1) // s for k, s in zip(kernel, stride)]  # windows that a tap can lie back
    blocks = [math.ceil((n + k - 1) / s) for n, k, s in zip(size, kernel, stride)]
    grid = outputs[0].shape[1:4]
    margins = [(m, max(0, b - n)) for m, b, n in zip(reach, blocks, grid)]
    padded = [jnp.pad(o, ((0, 0), *margins, (0, 0))) for o in outputs]

    def view(array: jax.Array, tap: Triple) -> jax.Array:
        start = [m - k // s for m, k, s in zip(reach, tap, stride)]
        stop = [a + b for a, b in zip(start, blocks)]
        return lax.slice(array, (0, *start, 0), (array.shape[0], *stop, array.shape[-1]))

    def one_phase(phase: Triple) -> jax.Array:
        taps = itertools.product(*(range(p, k, s) for p, k, s in zip(phase, kernel, stride)))
        terms = [term(tap, *(view(array, tap) for array in padded)) for tap in taps]
        return sum(terms[1:], terms[0])

    def interleaved(phase: tuple[int, ...], axis: int) -> jax.Array:
        """All phases of the axes from `axis` on, for the given phases of the axes before it."""
        if axis == 3:
            return one_phase(phase)
        used = min(stride[axis], kernel[axis])  # later phases are reached by no tap
        parts = jnp.stack([interleaved((*phase, p), axis + 1) for p in range(used)], axis + 2)
        margin = [(0, 0)] * parts.ndim
        margin[axis + 2] = (0, stride[axis] - used)
        parts = jnp.pad(parts, margin)  # [..., blocks, stride, ...]
        return parts.reshape(*parts.shape[: axis + 1], -1, *parts.shape[axis + 3 :])

    whole = interleaved((), 0)
    start = [k // 2 for k in kernel]
    stop = [a + n for a, n in zip(start, size)]
    return lax.slice(whole, (0, *start, 0), (whole.shape[0], *stop, whole.shape[-1]))
