"""LayerNorm as kernels for NVIDIA GPUs, forward and backward.

Each reads its arguments once and writes its results once. Mean and deviation are computed anew in
the backward pass, which has the rows in registers anyway, and which adds what else flows into the
gradient of the input (a skip path's). All arithmetic is float32. `ops.pooling_gpu` normalises by
the functions at the end.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
import jax.numpy as jnp

_WIDEST = 1024
_NUMBERS = 3072  # of one array, that a block of threads works on at a time: 24 in each
_BLOCKS = 384  # of threads, in the backward pass: three for each core of an H100
_SHAPES = ((32, 4), (16, 4), (8, 4), (16, 2))  # lanes along a row, columns of each


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Sizes of a call.

    Attributes:
      lanes: of a warp along a row; the others are along further rows.
      columns: side by side in a thread.
      rows: that a block of threads works on at a time.
      width: of a row.
      epsilon: added to the variance.
      skip: whether the input is passed on, too.
      interpret: whether the kernels are only simulated.
    """

    lanes: int
    columns: int
    rows: int
    width: int
    epsilon: float
    skip: bool
    interpret: bool

    @property
    def layout(self) -> Any:
        """How rows and columns lie in the four warps of a block of threads."""
        rows, width = 32 // self.lanes, self.lanes * self.columns
        if rows == 1:
            tiles, dims = ((4, width), (self.columns,)), ((-3,), (-2,))
        else:
            tiles, dims = ((4 * rows, width), (rows, width), (self.columns,)), ((-5,), (-3, -2))
        return plgpu.Layout.TILED(
            plgpu.Tiling(tiles), warp_dims=dims[0], lane_dims=dims[1], vector_dim=-1
        )


def fits(shape: tuple[int, ...], dtype: jnp.dtype) -> bool:
    """Whether the kernels take arrays [..., D] of that shape."""
    return dtype == jnp.bfloat16 and _cut(shape) is not None


def _cut(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Lanes and columns as in `_Plan`, and the fewest rows that can be worked on at a time."""
    *leading, width = shape
    for lanes, columns in _SHAPES:
        rows = 4 * 32 // lanes
        if width <= _WIDEST and width % (lanes * columns) == 0 == math.prod(leading) % rows:
            return lanes, columns, rows
    return None


def layer_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    *,
    skip: bool = False,
    interpret: bool = False,
) -> Any:
    """Normalises the last axis.

    Args:
      x: [..., D], of a shape that `fits`.
      scale, bias: [D], float32.
      epsilon: added to the variance.
      skip: whether to return (x, result): what reads `x` beside the norm then reads the first of
        the two, and the backward pass adds both gradients while it has them in registers.
      interpret: whether to simulate the kernels, on a CPU.
    """
    shape, (lanes, columns, fewest) = x.shape, _cut(x.shape)
    width, rows = shape[-1], math.prod(shape[:-1])
    times = range(max(_NUMBERS // width // fewest, 1), 0, -1)
    together = next(n * fewest for n in times if rows % (n * fewest) == 0)
    plan = _Plan(lanes, columns, together, width, epsilon, skip, interpret)
    # Or XLA would add up the branches before a skip path a second time instead of reading it.
    x = lax.optimization_barrier(x.reshape(rows, width)) if skip else x.reshape(rows, width)
    found = _layer_norm(plan, x, scale, bias)
    return jax.tree.map(lambda array: array.reshape(shape), found)


# Of the same sizes there are many norms, many blocks: for them JAX lowers a kernel once.
once = functools.partial(jax.jit, static_argnums=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _layer_norm(plan: _Plan, x, scale, bias):
    return _forward(plan, x, scale, bias)[0]


def _forward(plan: _Plan, x, scale, bias):
    y = _result(plan, x, scale, bias)
    return ((x, y) if plan.skip else y), (x, scale)


@once
def _result(plan: _Plan, x, scale, bias) -> jax.Array:
    def body(x, scale, bias, out):
        at = pl.ds(lax.axis_index('block') * plan.rows, plan.rows)
        normal, _ = normalised(_load(plan, x.at[at]), plan.epsilon)
        result = normal * _of_columns(plan, scale) + _of_columns(plan, bias)
        plgpu.store(out.at[at], result.astype(out.dtype), optimized=False)

    blocks = x.shape[0] // plan.rows
    out = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return launch(body, blocks, out, interpret=plan.interpret)(x, scale, bias)


def _backward(plan: _Plan, residuals, gradients):
    return _gradients(plan, *residuals, *(gradients if plan.skip else (gradients,)))


_layer_norm.defvjp(_forward, _backward)


@once
def _gradients(plan: _Plan, x, scale, *gradients) -> tuple[jax.Array, jax.Array, jax.Array]:
    pieces = x.shape[0] // plan.rows
    blocks = min(pieces, _BLOCKS)

    def body(x, scale, *others):
        *gradients, out, sums = others
        block, scales = lax.axis_index('block'), _of_columns(plan, scale)

        def step(i, totals):
            at = pl.ds((block + i * blocks) * plan.rows, plan.rows)
            normal, inverse_std = normalised(_load(plan, x.at[at]), plan.epsilon)
            g = _load(plan, gradients[-1].at[at])
            inner = gradient_of_rows(g * scales, normal, inverse_std)
            if plan.skip:
                inner = inner + _load(plan, gradients[0].at[at])
            plgpu.store(out.at[at], inner.astype(out.dtype), optimized=False)
            return totals[0] + g * normal, totals[1] + g

        zero = plgpu.layout_cast(jnp.zeros((plan.rows, plan.width), jnp.float32), plan.layout)
        steps = (pieces - block + blocks - 1) // blocks
        for number, total in enumerate(lax.fori_loop(0, steps, step, (zero, zero))):
            sums[block, number] = total.sum(0)

    shapes = [
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        jax.ShapeDtypeStruct((blocks, 2, plan.width), jnp.float32),
    ]
    kernel = launch(body, blocks, shapes, interpret=plan.interpret)
    of_x, sums = kernel(x, scale, *gradients)
    of_scale, of_bias = sums.sum(0)
    return of_x, of_scale, of_bias


def _load(plan: _Plan, rows: Any) -> jax.Array:
    return plgpu.load(rows, layout=plan.layout, optimized=False).astype(jnp.float32)


def _of_columns(plan: _Plan, vector: Any) -> jax.Array:
    return of_columns(vector, plan.rows, plan.layout)


def launch(body: Callable, blocks: int, out: Any, *, interpret: bool) -> Callable:
    """A kernel of so many blocks of threads, which know their number as the axis 'block'."""
    simulated = dict(interpret=plgpu.InterpretGPUParams()) if interpret else {}
    return plgpu.kernel(
        body,
        out_type=out,
        grid=(blocks,),
        grid_names=('block',),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        **simulated,
    )


def of_columns(vector: Any, rows: int, layout: Any) -> jax.Array:
    """f32[rows, columns] of a reference to a number for each column."""
    vector = plgpu.load(vector, layout=layout.reduce(0), optimized=False)
    return lax.broadcast_in_dim(vector, (rows, *vector.shape), (1,))


def normalised(rows: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """Rows without their mean, of deviation 1; and the inverse of what theirs was."""
    rows = rows - _of_rows(_mean(rows), rows)
    inverse_std = _of_rows(lax.rsqrt(_mean(rows * rows) + epsilon), rows)
    return rows * inverse_std, inverse_std


def gradient_of_rows(g: jax.Array, normal: jax.Array, inverse_std: jax.Array) -> jax.Array:
    """That of rows before the norm, by `g`, that of the normalised ones."""
    means = [_of_rows(_mean(a), a) for a in (g, g * normal)]
    return (g - means[0] - normal * means[1]) * inverse_std


def _mean(rows: jax.Array) -> jax.Array:
    return rows.sum(1) / rows.shape[1]


def _of_rows(vector: jax.Array, rows: jax.Array) -> jax.Array:
    """A number for each row, at all of its columns."""
    return lax.broadcast_in_dim(vector, rows.shape, (0,))
