"""Softmax attention as one kernel for TPUs, forward and backward, which never stores the attention
matrix.

MViT's pooled keys and values are few, so all of a clip's lie in the core's memory (VMEM) at once,
and the queries pass by in blocks of rows. Each block sees all of its logits: no running maxima and
sums as in flash attention (arXiv 2205.14135), and nothing of the softmax is kept for the backward
pass, which computes it anew. Queries, keys and values come as the linear layers make them, [B, S,
heads * d]: numbers of heads whose widths together fill lanes are worked on together, and nothing is
brought into another order or filled up to 128 lanes in the chip's memory.
"""

import dataclasses
import functools
import math

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

_LANES, _SUBLANES = 128, 16  # of a tile of bfloat16
_LOGITS = 512 * 1024  # so many of one head at a time


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How a call is cut up."""

    heads: int  # that one program of the grid works on
    d: int  # width of a head's queries and keys
    e: int  # width of its values
    keys: int  # real ones; there are more where their number is no multiple of 16
    rows: int  # queries of a block
    add_queries: bool  # whether the queries are added to the result
    memory: int  # bytes that the kernel may take in the core's memory
    interpret: bool  # whether the kernel is only simulated


def fits(queries: int, keys: int, heads: int, d: int, e: int, itemsize: int, memory: int) -> bool:
    """Whether these sizes, of `itemsize` bytes a number, fit into so much of the core's memory."""
    heads = _heads_together(heads, d, e) or 1
    keys = _rounded_up(keys, _SUBLANES)
    blocks = (
        2 * 2 * itemsize * keys * (_rounded_up(heads * d, _LANES) + _rounded_up(heads * e, _LANES))
    )
    # Heads apart, and float32 sums of the gradients.
    apart = (itemsize + 4) * heads * keys * (_rounded_up(d, _LANES) + _rounded_up(e, _LANES))
    rows = _rows(queries, keys)
    return blocks + apart + 4 * 4 * rows * _rounded_up(keys, _LANES) < memory


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    add_queries: bool = False,
    memory: int = 0,
    interpret: bool = False,
) -> jax.Array:
    """softmax(q k^T) v, and q added where asked for.

    Args:
      q, k, v: as in `ops.attention`.
      add_queries: likewise.
      memory: bytes that the kernels may take in the core's memory; enough for `fits`.
      interpret: whether to simulate the kernels, on a CPU.

    Returns:
      [B, S', heads, e], of the type of `v`.
    """
    (batch, queries, heads, d), (keys, e) = q.shape, (k.shape[1], v.shape[3])
    together = _heads_together(heads, d, e)
    if together is None:  # each head like a clip of its own
        q, k, v = (
            x.swapaxes(1, 2).reshape(batch * heads, x.shape[1], x.shape[3]) for x in (q, k, v)
        )
    else:
        q, k, v = (x.reshape(batch, x.shape[1], -1) for x in (q, k, v))
    rows = _rows(queries, _rounded_up(keys, _SUBLANES))
    # Rows of zeros give nothing to the gradients of keys and values.
    q = _filled(q, rows)
    k, v = _filled(k, _SUBLANES), _filled(v, _SUBLANES)
    plan = _Plan(together or 1, d, e, keys, rows, add_queries, memory, interpret)
    y = _attend(plan, q, k, v)[:, :queries]
    if together is None:
        return y.reshape(batch, heads, queries, e).swapaxes(1, 2)
    return y.reshape(batch, queries, heads, e)


def _heads_together(heads: int, d: int, e: int) -> int | None:
    """The fewest heads whose queries, and values, together fill lanes; None: it takes too many."""
    if heads * max(d, e) <= 4 * _LANES:
        return heads
    for count in range(1, heads):
        if heads % count == 0 and count * d % _LANES == 0 == count * e % _LANES:
            return count if count * max(d, e) <= 4 * _LANES else None
    return None


def _rows(queries: int, keys: int) -> int:
    """Rows of a block: a large divisor of the queries; without one the last block is filled up."""
    most = min(512, max(64, _LOGITS // keys // _SUBLANES * _SUBLANES))
    for rows in range(most, most // 2, -_SUBLANES):
        if queries % rows == 0:
            return rows
    return _rounded_up(math.ceil(queries / math.ceil(queries / most)), _SUBLANES)


def _rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _filled(x: jax.Array, step: int) -> jax.Array:
    """[B, S, D] with rows of zeros up to a multiple of `step`."""
    missing = -x.shape[1] % step
    return jnp.pad(x, ((0, 0), (0, missing), (0, 0))) if missing else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: _Plan, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """[B, S', heads * e] of q [B, S', heads * d], k [B, S'', heads * d], v [B, S'', heads * e]."""
    of_q, of_k, of_v, of_y = _blocks(plan, q, k)
    out = jax.ShapeDtypeStruct((*q.shape[:2], q.shape[2] // plan.d * plan.e), v.dtype)
    kernel = functools.partial(_forward_kernel, plan)
    return _call(kernel, plan, 2, q, k, [of_q, of_k, of_v], of_y, out, [q, k, v], 'forward')


def _backward(plan, residuals, g):
    q, k, v = residuals
    of_q, of_k, of_v, of_y = _blocks(plan, q, k)
    out = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)]
    kernel = functools.partial(_backward_kernel, plan)
    sums = [pltpu.VMEM((plan.heads, k.shape[1], width), jnp.float32) for width in (plan.d, plan.e)]
    return tuple(
        _call(
            kernel,
            plan,
            5,
            q,
            k,
            [of_q, of_k, of_v, of_y],
            [of_q, of_k, of_v],
            out,
            [q, k, v, g],
            'backward',
            sums,
        )
    )


_attend.defvjp(lambda plan, q, k, v: (_attend(plan, q, k, v), (q, k, v)), _backward)


def _blocks(plan: _Plan, q: jax.Array, k: jax.Array) -> tuple[pl.BlockSpec, ...]:
    """What program (clip, group of heads, block of rows) sees of queries, keys, values, result."""

    def rows(width):
        shape = (1, plan.rows, plan.heads * width)
        return pl.BlockSpec(shape, lambda clip, group, block: (clip, block, group))

    def all_keys(width):
        shape = (1, k.shape[1], plan.heads * width)
        return pl.BlockSpec(shape, lambda clip, group, block: (clip, 0, group))

    return rows(plan.d), all_keys(plan.d), all_keys(plan.e), rows(plan.e)


def _call(kernel, plan, products, q, k, in_specs, out_specs, out_shape, arguments, name, sums=()):
    clips, queries, channels = q.shape
    keys, heads = k.shape[1], channels // plan.d
    apart = [pltpu.VMEM((plan.heads, keys, width), k.dtype) for width in (plan.d, plan.e)]
    pairs = clips * heads * queries * keys
    arrays = [*arguments, *jax.tree.leaves(out_shape)]
    return pl.pallas_call(
        kernel,
        grid=(clips, heads // plan.heads, queries // plan.rows),
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        scratch_shapes=[*apart, *sums],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=('parallel', 'parallel', 'arbitrary'), vmem_limit_bytes=plan.memory
        ),
        cost_estimate=pl.CostEstimate(
            flops=products * pairs * (plan.d + plan.e),
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
            transcendentals=pairs,
        ),
        interpret=plan.interpret,
        name=f'attention_{name}',
    )(*arguments)


def _forward_kernel(plan, q_ref, k_ref, v_ref, y_ref, k_apart, v_apart):
    _take_heads_apart(plan, k_ref, v_ref, k_apart, v_apart)
    for head in range(plan.heads):
        q, k, v = q_ref[0, :, _of(head, plan.d)], k_apart[head], v_apart[head]
        weights, total = _softmax(plan, q, k)
        y = _product(weights.astype(v.dtype), v, 1, 0) / total
        if plan.add_queries:
            y += q.astype(jnp.float32)
        y_ref[0, :, _of(head, plan.e)] = y.astype(y_ref.dtype)


def _backward_kernel(
    plan, q_ref, k_ref, v_ref, g_ref, dq_ref, dk_ref, dv_ref, k_apart, v_apart, dk_sum, dv_sum
):
    _take_heads_apart(plan, k_ref, v_ref, k_apart, v_apart)
    block = pl.program_id(2)

    @pl.when(block == 0)
    def _():
        dk_sum[...], dv_sum[...] = jnp.zeros_like(dk_sum), jnp.zeros_like(dv_sum)

    for head in range(plan.heads):
        of_d, of_e = _of(head, plan.d), _of(head, plan.e)
        q, k, v, g = q_ref[0, :, of_d], k_apart[head], v_apart[head], g_ref[0, :, of_e]
        weights, total = _softmax(plan, q, k)
        weights = weights / total
        of_weights = _product(g, v, 1, 1)
        of_logits = weights * (of_weights - (weights * of_weights).sum(-1, keepdims=True))
        of_logits, weights = of_logits.astype(q.dtype), weights.astype(v.dtype)
        dq = _product(of_logits, k, 1, 0)
        if plan.add_queries:
            dq += g.astype(jnp.float32)
        dq_ref[0, :, of_d] = dq.astype(dq_ref.dtype)
        dk_sum[head] += _product(of_logits, q, 0, 0)
        dv_sum[head] += _product(weights, g, 0, 0)

    @pl.when(block == pl.num_programs(2) - 1)
    def _():
        for head in range(plan.heads):
            dk_ref[0, :, _of(head, plan.d)] = dk_sum[head].astype(dk_ref.dtype)
            dv_ref[0, :, _of(head, plan.e)] = dv_sum[head].astype(dv_ref.dtype)


def _take_heads_apart(plan, k_ref, v_ref, k_apart, v_apart):
    """Once for all blocks of queries: brings each head's keys and values to the first lanes."""

    @pl.when(pl.program_id(2) == 0)
    def _():
        for head in range(plan.heads):
            k_apart[head] = k_ref[0, :, _of(head, plan.d)]
            v_apart[head] = v_ref[0, :, _of(head, plan.e)]


def _of(head: int, width: int) -> slice:
    return slice(head * width, (head + 1) * width)


def _softmax(plan: _Plan, q: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
    """float32 (weights [rows, keys] not divided by their sum, that sum [rows, 1])."""
    logits = _product(q, k, 1, 1)
    if plan.keys < k.shape[0]:
        key = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
        logits = jnp.where(key < plan.keys, logits, -jnp.inf)
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    return weights, weights.sum(-1, keepdims=True)


def _product(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """float32 sums over one axis of each."""
    return jax.lax.dot_general(
        a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=jnp.float32
    )
