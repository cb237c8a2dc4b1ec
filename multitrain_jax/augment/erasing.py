"""Random erasing (arXiv 1708.04896) in its per-pixel mode: a box of every frame becomes noise."""

import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

# Of the erased box, as in timm and PySlowFast: share of the frame's area, and height / width.
_AREA = (0.02, 1.0 / 3.0)
_ASPECT = (0.3, 1.0 / 0.3)
# A drawn box that is as large as the frame is drawn again. At most 2% of boxes in square frames
# are, so that ten draws are enough; a clip for which all ten fail (frames of extreme shape) is left
# as it is.
_TRIES = 10


class Box(NamedTuple):
    """Rows top <= y < bottom and columns left <= x < right; i32[]. Empty when bottom = top."""

    top: jax.Array
    bottom: jax.Array
    left: jax.Array
    right: jax.Array


def random_box(key: jax.Array, height: int, width: int) -> Box:
    """Draws the box to erase in frames of `height` x `width` pixels."""
    uniform = jax.random.uniform(key, (2 * _TRIES + 2,))
    low, high = _AREA
    area = height * width * (low + (high - low) * uniform[:_TRIES])
    low, high = map(math.log, _ASPECT)
    aspect = jnp.exp(low + (high - low) * uniform[_TRIES : 2 * _TRIES])
    rows = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    columns = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (rows < height) & (columns < width)
    first = jnp.argmax(fits)
    rows = jnp.where(fits[first], rows[first], 0)
    columns = jnp.where(fits[first], columns[first], 0)
    top = jnp.floor(uniform[-2] * (height - rows + 1)).astype(jnp.int32)
    left = jnp.floor(uniform[-1] * (width - columns + 1)).astype(jnp.int32)
    return Box(top, top + rows, left, left + columns)


def inside(box: Box, height: int, width: int) -> jax.Array:
    """bool[H, W]: which pixels are in the box."""
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None]
    return ((y >= box.top) & (y < box.bottom)) & ((x >= box.left) & (x < box.right))


def random_erasing(video: jax.Array, keys: jax.Array, probability: float) -> jax.Array:
    """Fills one box of a clip, the same in all its frames, with fresh standard normal noise.

    Args:
        video: f32[B, T, H, W, 3], normalised (the noise has mean 0 and standard deviation 1).
        keys: B typed PRNG keys.
        probability: of a clip being erased.
    """
    height, width = video.shape[2:4]
    keys = jax.vmap(lambda key: jax.random.split(key, 3))(keys)  # [B, 3]
    chosen = jax.vmap(lambda key: jax.random.bernoulli(key, probability))(keys[:, 0])

    def erase(i: jax.Array, video: jax.Array) -> jax.Array:
        clip = order[i]
        mask = inside(random_box(keys[clip, 1], height, width), height, width)[None, :, :, None]
        noise = _normal_noise(keys[clip, 2], video.shape[1:])
        return video.at[clip].set(jnp.where(mask, noise, video[clip]))

    # A loop over the chosen clips only, not vmap over all: noise is the expensive part.
    order = jnp.argsort(~chosen)
    return lax.fori_loop(0, jnp.sum(chosen), erase, video)


def _normal_noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """f32 standard normal noise of 16 random bits per number, which halves their cost.

    The first half of the frames takes the low bits of the words, the second the high ones: pairs of
    neighbours would be the last axis of an array, which a TPU fills up from 2 to 128 numbers (2.7
    GiB for a clip of 32 frames of 224 px).
    """
    frames = shape[0]
    words = jax.random.bits(key, (-(-frames // 2), *shape[1:]), jnp.uint32)
    halves = jnp.concatenate([words & 0xFFFF, words >> 16])[:frames]
    # The centres of 2^16 equal parts of (-1, 1): symmetric, and never +-1, whose quantile is
    # infinite.
    uniform = (halves.astype(jnp.float32) - 32767.5) / 32768.0
    return math.sqrt(2.0) * lax.erf_inv(uniform)
