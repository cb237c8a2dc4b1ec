"""Softmax attention.

Implementations that agree in value and in gradient:

* `xla`: two products of matrices and a softmax, on every platform.
* `cudnn`: one fused kernel of NVIDIA's library, forward and backward, which never stores the attention matrix; for
  bfloat16 on GPUs of the Ampere generation or newer.
"""

import functools

import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ('xla', 'cudnn')
CUDNN_WIDTH = 128  # the most that queries and keys may be wide
_CUDNN_MULTIPLE = 8


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    implementation: str = 'xla',
    recompute: bool = False,
) -> jax.Array:
    """Softmax attention of scaled queries; the softmax is float32.

    Args:
      q: [B, S', heads, d], scaled already, float32 or bfloat16.
      k: [B, S'', heads, d].
      v: [B, S'', heads, e].
      implementation: one of `IMPLEMENTATIONS`.
      recompute: whether the backward pass computes the attention matrix once more from queries, keys and the softmax's
        normalisation instead of reading a kept one; `cudnn` always does.

    Returns:
      [B, S', heads, e], of the type of `v`.

    Raises:
      ValueError: an unknown implementation, or types or widths that cuDNN does not take.
      RuntimeError: no cuDNN here, or a GPU too old for it.
    """
    if implementation == 'xla':
        return _xla(q, k, v, recompute)
    if implementation == 'cudnn':
        return _cudnn(q, k, v)
    raise ValueError(f'unknown implementation {implementation!r}: use one of {IMPLEMENTATIONS}')


def _xla(q: jax.Array, k: jax.Array, v: jax.Array, recompute: bool) -> jax.Array:
    # Heads before tokens: products of plain matrices, for which XLA's CPU backend need not transpose the weights.
    q, k, v = (array.swapaxes(1, 2) for array in (q, k, v))  # [B, heads, S, d]
    return _attend(recompute, q, k, v).swapaxes(1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(recompute: bool, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T) v of [B, heads, S, d].

    The weights are divided by their sum only after they have met the values, and the gradient is written out: every pass
    over an array of the attention matrix's size counts, and at most one such array is kept. Gradients are rounded to
    the type of the arguments before they are multiplied, as those of any other product are; by itself JAX would multiply
    those of the float32 logits in float32: twice the bytes and half the speed of bfloat16 on a GPU.

    What is recomputed takes one product: `jax.checkpoint` around this function would take a second one for the
    result, and look for maxima and sums again.
    """
    return _forward(recompute, q, k, v)[0]


def _forward(recompute, q, k, v):
    logits = _products(q, k)
    largest = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - largest)  # not divided by their sum
    total = weights.sum(-1, keepdims=True)
    factor = 1.0 / total
    weights = weights.astype(v.dtype)
    y = jnp.einsum('bnqk,bnkd->bnqd', weights, v, preferred_element_type=jnp.float32) * factor
    y = y.astype(v.dtype)
    return y, (q, k, v, y, largest + jnp.log(total) if recompute else (weights, factor))


def _backward(recompute, residuals, g):
    q, k, v, y, kept = residuals
    if recompute:
        # Or XLA would see that the forward pass has the same product, and keep that one.
        q, k, g = jax.lax.optimization_barrier((q, k, g))
        weights, factor = jnp.exp(_products(q, k) - kept).astype(v.dtype), 1.0
    else:
        weights, factor = kept
    g = g.astype(jnp.float32) * factor
    # Of a softmax: weights * (gradient - its mean under the weights), and that mean is g . y.
    mean = (g * y.astype(jnp.float32)).sum(-1, keepdims=True)
    g = g.astype(v.dtype)
    of_logits = (weights.astype(jnp.float32) * (_products(g, v) - mean)).astype(q.dtype)
    of_q = jnp.einsum('bnqk,bnkd->bnqd', of_logits, k)
    of_k = jnp.einsum('bnqk,bnqd->bnkd', of_logits, q)
    of_v = jnp.einsum('bnqk,bnqd->bnkd', weights, g)
    return of_q, of_k, of_v


_attend.defvjp(_forward, _backward)


def _products(a: jax.Array, b: jax.Array) -> jax.Array:
    """float32 products of all rows, [B, heads, S', S'']."""
    return jnp.einsum('bnqd,bnkd->bnqk', a, b, preferred_element_type=jnp.float32)


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    if q.dtype != jnp.bfloat16:
        raise ValueError(f'cuDNN attention needs bfloat16, got {q.dtype}')
    widest = max(q.shape[-1], v.shape[-1])
    width = -(-widest // _CUDNN_MULTIPLE) * _CUDNN_MULTIPLE
    if width > CUDNN_WIDTH:
        raise ValueError(
            f'cuDNN attention takes queries and values up to {CUDNN_WIDTH} wide, got {widest}'
        )
    # Zeros change neither products nor sums; relative positions make queries and keys wider than values.
    wide = functools.partial(_padded, width=width)
    out = jax.nn.dot_product_attention(wide(q), wide(k), wide(v), scale=1.0, implementation='cudnn')
    return out[..., : v.shape[-1]]


def _padded(x: jax.Array, width: int) -> jax.Array:
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, width - x.shape[-1]),))
