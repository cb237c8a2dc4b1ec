"""Rotary positions over time, height and width (V-JEPA 2, arXiv 2506.09985, section 2.1)."""

import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.ops.windows import Triple

Angles = tuple[np.ndarray, np.ndarray]  # cosines, sines, float32 [t*h*w, 1, d]


def rotary_angles(thw: Triple, width: int) -> Angles:
    """Cosines and sines for heads `width` wide, on a grid of tokens, time slowest.

    A third of the channels turns with time, a third with the row, a third with the column; what is
    left over does not turn. Channels 2i and 2i + 1 are a pair. As in the published models, the
    frequencies are repeated rather than interleaved: channel c of a third that is D wide has that
    of number c mod D/2, so that the two of a pair turn by different angles.
    """
    third = 2 * (width // 3 // 2)
    waves = np.tile(10000.0 ** (-np.arange(third // 2) / (third / 2)), 2)
    places = np.indices(thw).reshape(3, -1)  # of every token
    turning = np.concatenate([place[:, None] * waves for place in places], 1)
    angles = np.pad(turning, ((0, 0), (0, width - 3 * third)))[:, None]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: jax.Array, angles: Angles) -> jax.Array:
    """Turns queries or keys [B, S, heads, d]; float32 inside, of the type of `x`."""
    cosines, sines = (jnp.asarray(a)[None] for a in angles)
    y = x.astype(jnp.float32)
    pairs = y.reshape(*y.shape[:-1], -1, 2)
    turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], -1).reshape(y.shape)
    return (y * cosines + turned * sines).astype(x.dtype)
