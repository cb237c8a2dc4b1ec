"""Softmax attention.

Implementations that agree in value and in gradient:

* `xla`: two products of matrices and a softmax, on every platform.
* `cudnn`: one fused kernel of NVIDIA's library, forward and backward, which never stores the
  attention matrix; for bfloat16 on GPUs of the Ampere generation or newer.
* `pallas`: one fused kernel of ours for TPUs of version 5 or newer, which stores no attention
  matrix either (`ops.attention_tpu`); keys and values of a clip must fit into the core's memory. A
  CPU simulates it, for tests.
* `auto`: that of the three that suits the device and the sizes best.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from multitrain_jax.ops import attention_tpu
from multitrain_jax.ops.platforms import nvidia_capability, target_device, tpu_core_memory
from multitrain_jax.ops.tensor_parallel import MODEL_AXIS, devices, on_each_device, parts

IMPLEMENTATIONS = ('xla', 'cudnn', 'pallas', 'auto')
CUDNN_WIDTH = 128  # the most that queries and keys may be wide
_CUDNN_MULTIPLE = 8
_CUDNN_CAPABILITY = 8.0  # Ampere


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    scale: float = 1.0,
    add_queries: bool = False,
    implementation: str = 'xla',
    recompute: bool = False,
) -> jax.Array:
    """Softmax attention; the softmax is float32.

    Args:
      q: [B, S', heads, d], float32 or bfloat16.
      k: [B, S'', heads, d].
      v: [B, S'', heads, e].
      scale: factor of the products of queries and keys.
      add_queries: whether the queries are added to the result (MViTv2's residual pooling
          connection); d is e then.
      implementation: one of `IMPLEMENTATIONS`.
      recompute: whether the backward pass computes the attention matrix once more from queries,
          keys and the softmax's
        normalisation instead of reading a kept one; only `xla` has the choice, the others always
        do.

    Returns:
      [B, S', heads, e], of the type of `v`.

    Raises:
      ValueError: an unknown implementation, or types or widths that it does not take.
      RuntimeError: no cuDNN here, or a GPU too old for it.
    """
    device = target_device()
    if implementation == 'auto':
        implementation = _suited(device, q, k, v)
    if implementation == 'pallas':
        if device.platform != 'cpu' and not _fits_pallas(device, q, k, v):
            raise ValueError(
                f'the Pallas kernel cannot take keys {k.shape} and values {v.shape} on '
                f'{device.device_kind}: '
                "all of a clip must fit into the core's memory"
            )
        return _pallas(device, q, k, v, scale, add_queries)
    if implementation == 'xla':
        y = _xla(q if scale == 1.0 else q * scale, k, v, recompute)
    elif implementation == 'cudnn':
        y = _cudnn(q, k, v, scale)
    else:
        raise ValueError(f'unknown implementation {implementation!r}: use one of {IMPLEMENTATIONS}')
    return y + q if add_queries else y


def _suited(device: Any, q: jax.Array, k: jax.Array, v: jax.Array) -> str:
    """The implementation for these types and sizes on a device, real or described."""
    if _fits_pallas(device, q, k, v):
        return 'pallas'
    narrow = max(q.shape[-1], v.shape[-1]) <= CUDNN_WIDTH and q.dtype == jnp.bfloat16
    # cuDNN's kernel does not know that devices share the heads.
    if has_cudnn_attention(device) and narrow and devices() == 1:
        return 'cudnn'
    return 'xla'


def has_cudnn_attention(device: Any) -> bool:
    """Whether cuDNN's fused attention runs on it; described GPUs count as new enough."""
    return nvidia_capability(device) >= _CUDNN_CAPABILITY


def _fits_pallas(device: Any, q: jax.Array, k: jax.Array, v: jax.Array) -> bool:
    memory, heads = tpu_core_memory(device), q.shape[2] // parts(q.shape[2])
    sizes = q.shape[1], k.shape[1], heads, q.shape[3], v.shape[3], q.dtype.itemsize
    return attention_tpu.fits(*sizes, memory)


def _pallas(
    device: Any, q: jax.Array, k: jax.Array, v: jax.Array, scale: float, add_queries: bool
) -> jax.Array:
    # There are few keys: it costs less to scale them.
    k = k if scale == 1.0 else k * scale
    attend = functools.partial(
        attention_tpu.attention,
        add_queries=add_queries,
        memory=tpu_core_memory(device),
        interpret=device.platform == 'cpu',
    )
    spec = PartitionSpec(None, None, MODEL_AXIS if parts(q.shape[2]) > 1 else None)
    return on_each_device(attend, spec, spec)(q, k, v)


def _xla(q: jax.Array, k: jax.Array, v: jax.Array, recompute: bool) -> jax.Array:
    # Heads before tokens: products of plain matrices, for which XLA's CPU backend need not
    # transpose the weights.
    q, k, v = (array.swapaxes(1, 2) for array in (q, k, v))  # [B, heads, S, d]
    return _attend(recompute, q, k, v).swapaxes(1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(recompute: bool, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T) v of [B, heads, S, d].

    The weights are divided by their sum only after they have met the values, and the gradient is
    written out: every pass over an array of the attention matrix's size counts, and at most one
    such array is kept. Gradients are rounded to the type of the arguments before they are
    multiplied, as those of any other product are; by itself JAX would multiply those of the float32
    logits in float32: twice the bytes and half the speed of bfloat16 on a GPU.

    What is recomputed takes one product: `jax.checkpoint` around this function would take a second
    one for the result, and look for maxima and sums again.
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


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, scale: float) -> jax.Array:
    if q.dtype != jnp.bfloat16:
        raise ValueError(f'cuDNN attention needs bfloat16, got {q.dtype}')
    widest = max(q.shape[-1], v.shape[-1])
    width = -(-widest // _CUDNN_MULTIPLE) * _CUDNN_MULTIPLE
    if width > CUDNN_WIDTH:
        raise ValueError(
            f'cuDNN attention takes queries and values up to {CUDNN_WIDTH} wide, got {widest}'
        )
    # Zeros change neither products nor sums; relative positions make queries and keys wider than
    # values.
    wide = functools.partial(_padded, width=width)
    out = jax.nn.dot_product_attention(
        wide(q), wide(k), wide(v), scale=scale, implementation='cudnn'
    )
    return out[..., : v.shape[-1]]


def _padded(x: jax.Array, width: int) -> jax.Array:
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, width - x.shape[-1]),))
