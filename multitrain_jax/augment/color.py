"""Colour jitter: one random brightness, contrast and saturation for all frames of a clip."""

import jax
import jax.numpy as jnp

# ITU-R 601-2 luma of red, green, blue.
LUMA = (0.299, 0.587, 0.114)


def luma(video: jax.Array) -> jax.Array:
    """f32[..., H, W, 1] brightness of float [..., H, W, 3] RGB."""
    red, green, blue = (video[..., c : c + 1] for c in range(3))
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def adjust_color(
    video: jax.Array, brightness: jax.Array, contrast: jax.Array, saturation: jax.Array
) -> jax.Array:
    """Blends a clip with black, with the mean luma of each frame and with its own luma.

    A factor of 1 changes nothing, 0 leaves only the other image of the blend. Nothing is clipped to
    0..255, so the three are linear and commute, and a random order (as in PySlowFast) would change
    nothing.

    Args:
        video: f32[T, H, W, 3], any range that starts at black = 0.
        brightness, contrast, saturation: f32[].

    Returns:
        f32[T, H, W, 3].
    """
    gray = luma(video)  # [T, H, W, 1]
    pivot = jnp.mean(gray, axis=(1, 2, 3), keepdims=True)  # [T, 1, 1, 1]
    own = saturation * video + (1.0 - saturation) * gray
    return brightness * (contrast * own + (1.0 - contrast) * pivot)


def color_jitter(video: jax.Array, keys: jax.Array, strength: float) -> jax.Array:
    """Adjusts every clip by three factors drawn from [1 - strength, 1 + strength].

    Args:
        video: f32[B, T, H, W, 3].
        keys: B typed PRNG keys.
        strength: 0..1.
    """
    factors = jax.vmap(
        lambda key: jax.random.uniform(key, (3,), minval=1.0 - strength, maxval=1.0 + strength)
    )(keys)  # [B, 3]
    return jax.vmap(adjust_color)(video, factors[:, 0], factors[:, 1], factors[:, 2])
