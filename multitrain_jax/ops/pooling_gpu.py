"""Pooling of queries, keys and values with their LayerNorms as kernels for NVIDIA GPUs, forward and
backward.

The same function as `ops.pooling_tpu`: a depthwise convolution, 3x3x3, padded by one and strided
along h and w, and a norm of each head. One kernel reads queries, keys and values as the linear
layer leaves them and writes them pooled and normalised; two compute the gradients: one that of the
convolution's results and the sums for the norms, for which it convolves anew, one those of the
input and of the convolution's kernels. All arithmetic is float32.

A block of threads works on one place (h, w) of one head, in four clips, a warp each, and goes
through the frames: what it reads of a frame counts for three results, those of this frame and its
neighbours. Each thread holds its columns' weights in registers. Nothing is kept in shared memory:
the caches serve the neighbouring places, which read the same rows.
"""

from collections.abc import Callable
import dataclasses
import functools
import itertools
import math

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
import jax.numpy as jnp

from multitrain_jax.ops.layer_norm_gpu import (
    gradient_of_rows,
    launch,
    normalised,
    of_columns,
    once,
)

CLIPS = 8  # that a block of threads works on
_COLUMNS = 32  # that half a warp works on, two in each thread
_WIDEST = 96  # of a head; more weights would not fit into registers
_PARTS = 3  # queries, keys, values
_PLACES = tuple(itertools.product(range(3), range(3)))  # of the taps along h and w
_ROWS = plgpu.Layout.TILED(
    plgpu.Tiling(((CLIPS, _COLUMNS), (2, _COLUMNS), (2,))),
    warp_dims=(-5,),
    lane_dims=(-3, -2),
    vector_dim=-1,
)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Sizes of a call.

    Attributes:
      grid: (t, h, w) of the tokens.
      strides: of queries, keys and values, along h and w.
      heads: of queries, and of keys and of values.
      d: width of a head.
      epsilon: of the LayerNorms.
      interpret: whether the kernels are only simulated.
    """

    grid: tuple[int, int, int]
    strides: tuple[tuple[int, int], ...]
    heads: int
    d: int
    epsilon: float
    interpret: bool

    def size(self, part: int) -> tuple[int, int]:
        """Pooled (h, w)."""
        return tuple((n - 1) // s + 1 for n, s in zip(self.grid[1:], self.strides[part]))

    def tokens(self, part: int) -> int:
        """Of a pooled clip."""
        return self.grid[0] * math.prod(self.size(part))


def fits(clips: int, d: int, dtype: jnp.dtype) -> bool:
    """Whether the kernels take so many clips with heads `d` wide."""
    return clips % CLIPS == 0 and d % _COLUMNS == 0 and d <= _WIDEST and dtype == jnp.bfloat16


def pool(
    qkv: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    grid: tuple[int, int, int],
    q_stride: tuple[int, int, int],
    kv_stride: tuple[int, int, int],
    heads: int,
    epsilon: float,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values, pooled and normalised, and once more the queries.

    Args:
      qkv: [B, S, 3 * heads * d], queries, keys and values side by side; S is t*h*w.
      kernel: [3, 3, 3, 3, d], of queries, keys and values, for all heads.
      scale, bias: [3, d], of their norms.
      grid: (t, h, w).
      q_stride, kv_stride: along t, h, w; 1 along t.
      heads: of queries, and of keys and of values.
      epsilon: of the norms.
      interpret: whether to simulate the kernels, on a CPU.

    Returns:
      Four of [B, S', heads, d], of the type of `qkv`. Where attention reads the first queries and
      its result is added to the last ones, a kernel adds the gradients of both.
    """
    plan = _Plan(
        tuple(grid),
        (tuple(q_stride[1:]), *[tuple(kv_stride[1:])] * 2),
        heads,
        scale.shape[-1],
        epsilon,
        interpret,
    )
    return _pool(plan, qkv, kernel, scale, bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool(plan: _Plan, qkv, kernel, scale, bias):
    return _forward(plan, qkv, kernel, scale, bias)[0]


def _forward(plan: _Plan, qkv, kernel, scale, bias):
    q, k, v = _pooled(plan, qkv, kernel, scale, bias)
    return (q, k, v, q), (qkv, kernel, scale)


@once
def _pooled(plan: _Plan, qkv, kernel, scale, bias) -> list[jax.Array]:
    clips = qkv.shape[0]

    def body(x, taps, scale, bias, *out):
        def place(part: int, n, clip, h, w):
            scales, biases = _of_columns(scale.at[part]), _of_columns(bias.at[part])

            def finish(t, z):
                normal, _ = normalised(z, plan.epsilon)
                result = normal * scales + biases
                _store(out[part], clip, (t, h, w), plan.size(part), n - part * plan.heads, result)

            _convolve(plan, part, x, taps, n, clip, h, w, finish, None)

        _for_each_place(plan, clips, place)

    out = [
        jax.ShapeDtypeStruct((clips, plan.tokens(part), plan.heads, plan.d), qkv.dtype)
        for part in range(_PARTS)
    ]
    blocks = sum(_blocks(plan, clips))
    pooled = launch(body, blocks, out, interpret=plan.interpret)
    return pooled(_split(plan, qkv), _taps(kernel), scale, bias)


def _backward(plan: _Plan, residuals, gradients):
    qkv, kernel, scale = residuals
    x, taps = _split(plan, qkv), _taps(kernel)
    *results, of_scale, of_bias = _backward_to_result(plan, x, taps, scale, *gradients)
    of_input, of_taps = _backward_to_input(plan, x, taps, *results)
    of_taps = of_taps.reshape(kernel.shape).astype(kernel.dtype)
    return of_input.reshape(qkv.shape), of_taps, of_scale, of_bias


_pool.defvjp(_forward, _backward)


@once
def _backward_to_result(plan: _Plan, x, taps, scale, *gradients) -> list[jax.Array]:
    """Gradients of the convolution's results, and of scale and bias."""
    clips = x.shape[0]
    counts = _blocks(plan, clips)

    def body(x, taps, scale, *others):
        (*gradients, of_queries), out, sums = others[:4], others[4:7], others[7]

        def place(part: int, n, clip, h, w):
            scales, head = _of_columns(scale.at[part]), n - part * plan.heads

            def finish(t, z, totals):
                g = _load(gradients[part], clip, (t, h, w), plan.size(part), head)
                if part == 0:
                    g = g + _load(of_queries, clip, (t, h, w), plan.size(part), head)
                normal, inverse_std = normalised(z, plan.epsilon)
                inner = gradient_of_rows(g * scales, normal, inverse_std)
                _store(out[part], clip, (t, h, w), plan.size(part), head, inner)
                return totals[0] + g * normal, totals[1] + g

            totals = _convolve(plan, part, x, taps, n, clip, h, w, finish, (_zeros(plan.d),) * 2)
            for number, total in enumerate(totals):
                sums[lax.axis_index('block'), number] = total.sum(0)

        _for_each_place(plan, clips, place)

    shapes = [jax.ShapeDtypeStruct(g.shape, g.dtype) for g in gradients[:_PARTS]]
    shapes.append(jax.ShapeDtypeStruct((sum(counts), 2, plan.d), jnp.float32))
    kernel = launch(body, sum(counts), shapes, interpret=plan.interpret)
    *results, sums = kernel(x, taps, scale, *gradients)
    bounds = [0, *itertools.accumulate(counts)]
    parts = [sums[first:last].sum(0) for first, last in itertools.pairwise(bounds)]
    return [*results, *jnp.stack(parts, 1)]


@once
def _backward_to_input(plan: _Plan, x, taps, *results) -> tuple[jax.Array, jax.Array]:
    """Gradients of the input and, f32[3, 27, d], of the taps."""
    groups, (_, height, _) = x.shape[0] // CLIPS, plan.grid
    cuts = plan.d // _COLUMNS
    rows = _PARTS * plan.heads * groups * height * cuts

    def body(x, taps, *others):
        results, out, of_taps = others[:3], others[3], others[4]
        index = lax.axis_index('block')
        n, group, h, cut = _digits(index, plan.heads * _PARTS, groups, height, cuts)
        columns = pl.ds(cut * _COLUMNS, _COLUMNS)

        def row(part: int):
            place = (n, group * CLIPS, h, columns)
            sums = _row_to_input(plan, part, x, taps, results[part], out, *place)
            for number, total in enumerate(sums):
                of_taps[index // cuts, number, columns] = total.sum(0)

        for part in range(_PARTS):
            pl.when(n // plan.heads == part)(functools.partial(row, part))

    shapes = [
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        jax.ShapeDtypeStruct((rows // cuts, 27, plan.d), jnp.float32),
    ]
    kernel = launch(body, rows, shapes, interpret=plan.interpret)
    of_input, of_taps = kernel(x, taps, *results)
    return of_input, of_taps.reshape(_PARTS, -1, 27, plan.d).sum(1)


def _split(plan: _Plan, qkv: jax.Array) -> jax.Array:
    """[B, S, 3 * heads, d]"""
    return qkv.reshape(*qkv.shape[:2], _PARTS * plan.heads, plan.d)


def _taps(kernel: jax.Array) -> jax.Array:
    """f32[3, 27, d]"""
    return kernel.astype(jnp.float32).reshape(_PARTS, 27, -1)


def _blocks(plan: _Plan, clips: int) -> list[int]:
    """Blocks of threads that work on the results of queries, of keys and of values."""
    return [clips // CLIPS * plan.heads * math.prod(plan.size(part)) for part in range(_PARTS)]


def _for_each_place(plan: _Plan, clips: int, place: Callable) -> None:
    """Calls `place(part, head among all 3 * heads, first clip, h, w)` for this block's place."""
    first, index = 0, lax.axis_index('block')
    for part, count in enumerate(_blocks(plan, clips)):

        def own(part=part, first=first):
            digits = (plan.heads, clips // CLIPS, *plan.size(part))
            n, group, h, w = _digits(index - first, *digits)
            place(part, n + part * plan.heads, group * CLIPS, h, w)

        pl.when((index >= first) & (index < first + count))(own)
        first += count


def _digits(index, *sizes: int):
    """Of a number whose digits have these ranges, the last one fastest."""
    found = []
    for size in reversed(sizes):
        found.append(index % size)
        index = index // size
    return found[::-1]


def _convolve(plan: _Plan, part: int, x, taps, n, clip, h, w, finish: Callable, carry):
    """Convolves at one place, frame after frame.

    Args:
      x: reference to [B, S, 3 * heads, d].
      taps: likewise, [3, 27, d].
      n: which of the 3 * heads.
      clip: the first of those that this block of threads works on.
      h, w: where, among results.
      finish: (t, result f32[CLIPS, d], carry) -> carry; without carry None -> None.
      carry: for `finish`.

    Returns:
      The last carry.
    """
    (frames, height, width), (sh, sw) = plan.grid, plan.strides[part]
    weights = [_of_columns(taps.at[part, tap]) for tap in range(27)]
    zero = _zeros(plan.d)
    done = (lambda t, z, carry: finish(t, z)) if carry is None else finish

    def frame(t, state):
        before, this, carry = state
        after = zero
        for number, (dh, dw) in enumerate(_PLACES):
            row, column = h * sh + dh - 1, w * sw + dw - 1
            inside = _inside(row, height) & _inside(column, width)
            row, column = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
            seen = _load(x, clip, (t, row, column), (height, width), n)
            seen = _where(inside, seen)
            before += seen * weights[18 + number]
            this += seen * weights[9 + number]
            after += seen * weights[number]
        # The first frame has none before it: what is written then is overwritten.
        wanted = t > 0
        new = done(jnp.maximum(t - 1, 0), before, carry)
        if carry is not None:
            carry = jax.tree.map(functools.partial(_where, wanted), new, carry)
        return this, after, carry

    last, _, carry = lax.fori_loop(0, frames, frame, (zero, zero, carry))
    return done(frames - 1, last, carry)


def _row_to_input(
    plan: _Plan, part: int, x, taps, results, out, n, clip, h, columns
) -> list[jax.Array]:
    """Writes the gradient of the input along one row of places.

    Args:
      x: reference to the input, [B, S, 3 * heads, d].
      taps: likewise, [3, 27, d].
      results: likewise, gradient of the convolution's results, [B, S', heads, d].
      out: likewise, gradient of the input.
      n: which of the 3 * heads.
      clip: the first of those that this block of threads works on.
      h: which row.
      columns: slice of the head's.

    Returns:
      27 of f32[CLIPS, 32]: for each tap the sum of what it saw times the gradient of the result.
    """
    (frames, height, width), (sh, sw) = plan.grid, plan.strides[part]
    size, head = plan.size(part), n - part * plan.heads
    weights = [_of_columns(taps.at[part, tap, columns]) for tap in range(27)]
    zero = _zeros(_COLUMNS)

    def column(w, sums):
        # The results that see this place, and whether there are any.
        reached = []
        for dh, dw in _PLACES:
            row, place = h + 1 - dh, w + 1 - dw
            there = (row >= 0) & (row % sh == 0) & (row // sh < size[0])
            there &= (place >= 0) & (place % sw == 0) & (place // sw < size[1])
            row = jnp.clip(row // sh, 0, size[0] - 1)
            reached.append((there, row, jnp.clip(place // sw, 0, size[1] - 1)))
        steps = jnp.where(functools.reduce(lambda a, b: a | b, [r[0] for r in reached]), frames, 0)

        def frame(t, state):
            before, this, x_before, x_this, sums = state
            sums = list(sums)
            after = zero
            inside = t + 1 < frames
            x_after = _load(
                x, clip, (jnp.minimum(t + 1, frames - 1), h, w), (height, width), n, columns
            )
            x_after = _where(inside, x_after)
            for number, (there, row, place) in enumerate(reached):
                g = _load(results, clip, (t, row, place), size, head, columns)
                g = _where(there, g)
                before += g * weights[number]
                this += g * weights[9 + number]
                after += g * weights[18 + number]
                sums[number] += g * x_before
                sums[9 + number] += g * x_this
                sums[18 + number] += g * x_after
            _store(out, clip, (jnp.maximum(t - 1, 0), h, w), (height, width), n, before, columns)
            return this, after, x_this, x_after, tuple(sums)

        x_first = _load(x, clip, (0, h, w), (height, width), n, columns)
        state = (zero, zero, zero, x_first, sums)
        last, *_, sums = lax.fori_loop(0, steps, frame, state)
        _store(out, clip, (frames - 1, h, w), (height, width), n, last, columns)

        def no_gradient(t, _):
            _store(out, clip, (t, h, w), (height, width), n, zero, columns)

        lax.fori_loop(0, frames - steps, no_gradient, None)
        return sums

    return lax.fori_loop(0, width, column, (zero,) * 27)


def _where(condition, rows: jax.Array, others: jax.Array | None = None) -> jax.Array:
    """Rows where a condition on all of them holds, else others or zeros."""
    others = jnp.zeros_like(rows) if others is None else others
    return jnp.where(jnp.broadcast_to(condition, rows.shape), rows, others)


def _inside(index, size: int):
    return (index >= 0) & (index < size)


def _zeros(columns: int) -> jax.Array:
    return plgpu.layout_cast(jnp.zeros((CLIPS, columns), jnp.float32), _ROWS)


def _of_columns(vector) -> jax.Array:
    return of_columns(vector, CLIPS, _ROWS)


def _at(clip, token, size: tuple[int, int], n, columns):
    """Index of a head's rows of one token (t, h, w) in several clips."""
    t, h, w = token
    return pl.ds(clip, CLIPS), (t * size[0] + h) * size[1] + w, n, columns


def _load(array, clip, token, size: tuple[int, int], n, columns=slice(None)) -> jax.Array:
    rows = array.at[_at(clip, token, size, n, columns)]
    return plgpu.load(rows, layout=_ROWS, optimized=False).astype(jnp.float32)


def _store(
    array, clip, token, size: tuple[int, int], n, rows: jax.Array, columns=slice(None)
) -> None:
    to = array.at[_at(clip, token, size, n, columns)]
    plgpu.store(to, rows.astype(array.dtype), optimized=False)
