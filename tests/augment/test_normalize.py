import jax.numpy as jnp
import numpy as np

from multitrain_jax.augment.normalize import normalize


def test_scales_by_channel():
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 3)).astype(np.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    expected = (video / 255 - np.asarray(mean)) / np.asarray(std)
    result = normalize(jnp.asarray(video), mean=mean, std=std)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)
    np.testing.assert_allclose(
        normalize(jnp.asarray(video)), (video / 255 - 0.45) / 0.225, atol=1e-6
    )
