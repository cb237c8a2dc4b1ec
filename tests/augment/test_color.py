import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.augment.color import adjust_color, color_jitter

CLIP = np.random.default_rng(0).uniform(0, 255, (3, 5, 6, 3)).astype(np.float32)  # [T, H, W, 3]


def _gray(clip):
    return np.repeat((clip @ np.asarray([0.299, 0.587, 0.114]))[..., None], 3, axis=-1)


STEPS = {
    'brightness': lambda clip, factor: clip * factor,
    'contrast': lambda clip, factor: (
        clip * factor + _gray(clip).mean(axis=(1, 2, 3), keepdims=True) * (1 - factor)
    ),
    'saturation': lambda clip, factor: clip * factor + _gray(clip) * (1 - factor),
}


@pytest.mark.parametrize(
    'order', [('brightness', 'contrast', 'saturation'), ('saturation', 'contrast', 'brightness')]
)
def test_equal_to_the_three_steps_in_any_order(order):
    factors = {'brightness': 1.3, 'contrast': 0.7, 'saturation': 0.65}
    expected = CLIP.astype(np.float64)
    for name in order:
        expected = STEPS[name](expected, factors[name])
    np.testing.assert_allclose(
        jax.jit(adjust_color)(CLIP, **factors), expected, rtol=1e-5, atol=1e-3
    )


def test_strength_bounds_the_change_and_zero_is_the_identity():
    keys = jax.random.split(jax.random.key(0), 16)
    video = jnp.broadcast_to(jnp.asarray(CLIP)[None], (16, *CLIP.shape))
    jitter = jax.jit(color_jitter, static_argnums=2)
    np.testing.assert_allclose(jitter(video, keys, 0.0), video, rtol=1e-5, atol=1e-3)
    # Luma means: contrast and saturation keep them, brightness scales them.
    ratio = np.stack([_gray(np.asarray(clip)).mean() for clip in jitter(video, keys, 0.4)])
    ratio = ratio / _gray(CLIP).mean()
    assert 0.6 <= ratio.min() < 0.75 and 1.25 < ratio.max() <= 1.4
