"""Small layers that MViT and the heads share."""

from flax import nnx
import jax
import jax.numpy as jnp


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Normalises the last axis; statistics in float32, result of the type of ``x``.

    ``scale`` and ``bias`` broadcast from the right: [D], or [heads, D] and the like.
    """
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + epsilon)
    lead = (1,) * (x.ndim - scale.ndim)
    y = y * scale.reshape(lead + scale.shape) + bias.reshape(lead + bias.shape)
    return y.astype(x.dtype)


class LayerNorm(nnx.Module):
    """``layer_norm`` with parameters scale (1) and bias (0) of shape [width]."""

    def __init__(self, width: int, *, epsilon: float = 1e-6):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon)


def linear(
    width_in: int, width: int, *, init_std: float, dtype: str = 'float32', rngs: nnx.Rngs
) -> nnx.Linear:
    """A linear layer: kernel N(0, init_std^2), bias 0, parameters float32, arithmetic in ``dtype``.

    The reference draws from a normal truncated at +-2, a hundred deviations away: a plain normal.
    """
    return nnx.Linear(
        width_in,
        width,
        kernel_init=nnx.initializers.normal(init_std),
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.float32,
        rngs=rngs,
    )


class MLP(nnx.Module):
    """Linear, exact GELU, linear."""

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        init_std: float,
        dtype: str = 'float32',
        rngs: nnx.Rngs,
    ):
        self.fc1 = linear(width, hidden, init_std=init_std, dtype=dtype, rngs=rngs)
        self.fc2 = linear(hidden, width, init_std=init_std, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes entries with probability ``rate`` and scales the rest up; nothing without a key."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)


def torch_conv_init(fan_in: int) -> nnx.initializers.Initializer:
    """PyTorch's default for convolutions, kernel and bias: uniform within +-1 / sqrt(fan_in)."""
    bound = fan_in**-0.5

    def draw(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw
