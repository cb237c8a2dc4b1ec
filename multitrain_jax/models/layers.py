"""Small layers that backbones and heads share."""

from collections.abc import Callable
import functools
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from multitrain_jax.ops.platforms import has_kernels, target_device, without_loops
from multitrain_jax.ops.sums import sum_over, sums
from multitrain_jax.ops.tensor_parallel import on_each_device, parts, split


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Normalises the last axis; statistics in float32, result of the type of `x`.

    The gradient is written out: the derived one takes half again as many passes over `x` and far
    longer to compile.

    Args:
      x: [..., D].
      scale: [D], or of more axes that broadcast against `x` from the right.
      bias: of the shape of `scale`.
      epsilon: added to the variance.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon):
    y = x.astype(jnp.float32)
    mean = y.mean(-1, keepdims=True)
    y = y - mean
    # The sum of the deviations is 0 but for rounding, for which it corrects the variance. Above
    # all, on CPU a sum of its own would first write the squares to memory: with both, a step of
    # quickstart takes a tenth less.
    squares, rest = (total[..., None] for total in sums([jnp.square(y), y], [x.ndim - 1]))
    variance = (squares - jnp.square(rest) / x.shape[-1]) / x.shape[-1]
    inverse_std = jax.lax.rsqrt(variance + epsilon)
    y = y * inverse_std * _leading(scale, x) + _leading(bias, x)
    return y.astype(x.dtype), (x, scale, mean, inverse_std)


def _layer_norm_backward(epsilon, residuals, g):
    del epsilon
    x, scale, mean, inverse_std = residuals
    g = g.astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * inverse_std
    scaled = g * _leading(scale, x)
    means = [
        total[..., None] / x.shape[-1] for total in sums([scaled, scaled * normal], [x.ndim - 1])
    ]
    inner = scaled - means[0] - normal * means[1]
    axes = [i for i, n in enumerate(_leading(scale, x).shape) if n == 1]
    of_scale, of_bias = (sum_over(array, axes).reshape(scale.shape) for array in (g * normal, g))
    return (inner * inverse_std).astype(x.dtype), of_scale, of_bias


def _leading(parameter: jax.Array, x: jax.Array) -> jax.Array:
    return parameter.reshape((1,) * (x.ndim - parameter.ndim) + parameter.shape)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, `x * Phi(x)`, computed in float32; result of the type of `x`.

    By erf, as PyTorch does, and not by erfc, as `jax.nn.gelu`: the TPU compiler takes 14 s of
    processor time instead of 50 for the gradient of one MLP, whose program then accesses a quarter
    fewer bytes. Of the forward pass only `x` is kept.
    """
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (y * _normal_cdf(y)).astype(x.dtype)


def _gelu_backward(x, g):
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    density = math.sqrt(0.5 / math.pi) * jnp.exp(-0.5 * jnp.square(y))
    return ((g * (_normal_cdf(y) + y * density)).astype(x.dtype),)


def _normal_cdf(y: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * jax.lax.erf(math.sqrt(0.5) * y)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def gelu_by_tanh(x: jax.Array) -> jax.Array:
    """The approximation of GELU by tanh (arXiv 1606.08415); float32 inside, of the type of `x`."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


ACTIVATIONS = {'exact': gelu, 'tanh': gelu_by_tanh}


class LayerNorm(nnx.Module):
    """`layer_norm` with parameters scale (1) and bias (0) of shape [width].

    Args:
      width: of the last axis.
      epsilon: added to the variance.
      fused: whether it is one kernel forward and one backward, on devices that have them
        (`ops.layer_norm_gpu`).
    """

    def __init__(self, width: int, *, epsilon: float = 1e-6, fused: bool = False):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.epsilon = epsilon
        self.fused = fused

    def __call__(self, x: jax.Array) -> jax.Array:
        return self._normalise(x, skip=False)

    def beside(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`x` for a skip path, and normalised: one kernel adds the gradients of both."""
        return self._normalise(x, skip=True)

    @jax.named_scope('layer_norm')
    def _normalise(self, x: jax.Array, skip: bool) -> Any:
        scale, bias = self.scale[...], self.bias[...]
        if self.fused and has_kernels(target_device()):
            from multitrain_jax.ops import layer_norm_gpu  # loads what others need not

            if layer_norm_gpu.fits(x.shape, x.dtype):
                kernel = functools.partial(
                    layer_norm_gpu.layer_norm, epsilon=self.epsilon, skip=skip
                )
                return on_each_device(kernel, PartitionSpec(), PartitionSpec())(x, scale, bias)
        y = layer_norm(x, scale, bias, self.epsilon)
        return (x, y) if skip else y


def linear(
    width_in: int,
    width: int,
    *,
    init_std: float,
    dtype: str = 'float32',
    bias: bool = True,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """A linear layer: kernel N(0, init_std^2), bias 0, parameters float32, arithmetic in `dtype`.

    The reference draws from a normal truncated at +-2, a hundred deviations away: a plain normal.
    """
    return nnx.Linear(
        width_in,
        width,
        use_bias=bias,
        kernel_init=nnx.initializers.normal(init_std),
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.float32,
        dot_general=_product_of_tokens,
        rngs=rngs,
    )


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel` for tokens `x` [..., D] and `kernel` [D, E], as one product of two matrices.

    With the leading axes apart, the gradients are products over several axes: on CPU, where they
    are copied into another order first, forward and gradient of [1, 25088, 96] @ [96, 384] take 1.4
    times as long.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def _product_of_tokens(x, kernel, dimension_numbers, **unused):
    """`project` in the place of `lax.dot_general` in a linear layer."""
    del dimension_numbers, unused
    return project(x, kernel)


@jax.named_scope('attention_linear')
def project_groups(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, *, heads: int, dtype: str
) -> jax.Array:
    """Queries, keys, values [B, S, groups, 3, E / groups] of tokens [B, S, D], kernel [D, 3 * E].

    The devices along the mesh axis `model` share the heads, each with a group of them. For that the
    channels are put in the order group, q/k/v, head: then a device's part is in one piece. Where
    the number of devices does not divide the heads, all of them are one group, on every device.
    """
    groups, width = parts(heads), kernel.shape[-1] // 3

    def grouped(array: jax.Array) -> jax.Array:
        """[..., 3 * E] in the order q/k/v, group, head -> group, q/k/v, head."""
        array = array.astype(dtype).reshape(*array.shape[:-1], 3, groups, width // groups)
        array = split(array.swapaxes(-3, -2), axis=-3)
        return array.reshape(*array.shape[:-3], -1)

    qkv = project(x.astype(dtype), grouped(kernel))
    if bias is not None:
        qkv = qkv + grouped(bias)[None, None]
    return qkv.reshape(*qkv.shape[:-1], groups, 3, width // groups)


def project_qkv(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, *, heads: int, dtype: str
) -> list[jax.Array]:
    """Queries, keys and values [B, S, heads, d]: those of `project_groups`, whose arguments see."""
    qkv = project_groups(x, kernel, bias, heads=heads, dtype=dtype)
    qkv = qkv.reshape(*qkv.shape[:-1], heads // qkv.shape[2], -1)
    return [qkv[..., i, :, :].reshape(*x.shape[:2], heads, -1) for i in range(3)]


class MLP(nnx.Module):
    """Linear, GELU, linear. The devices along the mesh axis `model` share the hidden units."""

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        init_std: float,
        dtype: str = 'float32',
        activation: str = 'exact',
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        self.fc1 = linear(width, hidden, init_std=init_std, dtype=dtype, rngs=rngs)
        self.fc2 = linear(hidden, width, init_std=init_std, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = split(self.fc1(x), axis=-1)
        return self.fc2(ACTIVATIONS[self.activation](hidden))


def run_stacked(body: Callable, x: jax.Array, layers: Any, *, recompute: bool) -> jax.Array:
    """Runs identical blocks in turn: the size of the program does not grow with the depth.

    For GPUs the loop is written out, unless little is kept for the backward pass: XLA copies
    what a loop keeps into stacked arrays and out of them again, a quarter of the bytes that a
    step of MViTv2-B moves (benchmarks/RESULTS.md). In ONNX, too: its runtimes optimise no loops,
    and jax2onnx loses the number of clips in them.

    Args:
      body: (x, layer) -> x.
      x: what goes through all blocks.
      layers: arrays [blocks, ...], of which every block gets its own part.
      recompute: whether the backward pass computes each block once more from its input.
    """
    body = jax.checkpoint(body) if recompute else body
    if recompute or not without_loops():
        return jax.lax.scan(lambda x, layer: (body(x, layer), None), x, layers)[0]
    for i in range(jax.tree.leaves(layers)[0].shape[0]):
        x = body(x, jax.tree.map(lambda array: array[i], layers))
    return x


def stochastic_depth(
    x: jax.Array, rate: jax.Array | float, key: jax.Array | None
) -> tuple[jax.Array | None, jax.Array | None]:
    """Factors [B, 1, 1] of a block's two branches: 0 at `rate`, else 1 / (1 - rate); or None."""
    if key is None:
        return None, None
    keep = jax.random.bernoulli(key, 1.0 - rate, (2, x.shape[0], 1, 1))
    attention_scale, mlp_scale = (keep / (1.0 - rate)).astype(x.dtype)
    return attention_scale, mlp_scale


def scale_branch(branch: jax.Array, scale: jax.Array | None) -> jax.Array:
    return branch if scale is None else branch * scale


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes entries with probability `rate` and scales the rest up; nothing without a key."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)


def torch_conv_init(fan_in: int) -> nnx.initializers.Initializer:
    """PyTorch's default for convolutions, kernel and bias: uniform within +-1 / sqrt(fan_in)."""
    bound = fan_in**-0.5

    def draw(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw
