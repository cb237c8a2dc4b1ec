"""Softmax attention.

Implementations that agree in value and in gradient:

* ``xla``: two products of matrices and a softmax, on every platform.
* ``cudnn``: one fused kernel of NVIDIA's library, forward and backward, which never stores the attention matrix; for
  bfloat16 on GPUs of the Ampere generation or newer.
"""

import functools

import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ('xla', 'cudnn')
CUDNN_WIDTH = 128  # the most that queries and keys may be wide
_CUDNN_MULTIPLE = 8


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, implementation: str = 'xla') -> jax.Array:
    """Softmax attention of scaled queries; the softmax is float32.

    Args:
      q: [B, S', heads, d], scaled already, float32 or bfloat16.
      k: [B, S'', heads, d].
      v: [B, S'', heads, e].
      implementation: one of ``IMPLEMENTATIONS``.

    Returns:
      [B, S', heads, e], of the type of ``v``.

    Raises:
      ValueError: an unknown implementation, or types or widths that cuDNN does not take.
      RuntimeError: no cuDNN here, or a GPU too old for it.
    """
    if implementation == 'xla':
        return _xla(q, k, v)
    if implementation == 'cudnn':
        return _cudnn(q, k, v)
    raise ValueError(f'unknown implementation {implementation!r}: use one of {IMPLEMENTATIONS}')


def _xla(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    # Heads before tokens: products of plain matrices, for which XLA's CPU backend need not transpose the weights.
    q, k, v = (array.swapaxes(1, 2) for array in (q, k, v))  # [B, heads, S, d]
    weights = jax.nn.softmax(_logits(q, k), axis=-1).astype(v.dtype)
    return jnp.einsum('bnqk,bnkd->bnqd', weights, v).swapaxes(1, 2)


@jax.custom_vjp
def _logits(q: jax.Array, k: jax.Array) -> jax.Array:
    """float32 products [B, heads, S', S''].

    Their gradient is rounded to the type of ``q`` before it is multiplied, as that of any other product is: by itself,
    JAX would multiply in float32, twice the bytes and half the speed of bfloat16 on a GPU.
    """
    return jnp.einsum('bnqd,bnkd->bnqk', q, k, preferred_element_type=jnp.float32)


def _logits_backward(residuals, g):
    q, k = residuals
    g = g.astype(q.dtype)
    return jnp.einsum('bnqk,bnkd->bnqd', g, k), jnp.einsum('bnqk,bnqd->bnkd', g, q)


_logits.defvjp(lambda q, k: (_logits(q, k), (q, k)), _logits_backward)


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    if q.dtype != jnp.bfloat16:
        raise ValueError(f'cuDNN attention needs bfloat16, got {q.dtype}')
    widest = max(q.shape[-1], v.shape[-1])
    width = -(-widest // _CUDNN_MULTIPLE) * _CUDNN_MULTIPLE
    if width > CUDNN_WIDTH:
        raise ValueError(f'cuDNN attention takes queries and values up to {CUDNN_WIDTH} wide, got {widest}')
    # Zeros change neither products nor sums; relative positions make queries and keys wider than values.
    wide = functools.partial(_padded, width=width)
    out = jax.nn.dot_product_attention(wide(q), wide(k), wide(v), scale=1.0, implementation='cudnn')
    return out[..., : v.shape[-1]]


def _padded(x: jax.Array, width: int) -> jax.Array:
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, width - x.shape[-1]),))
