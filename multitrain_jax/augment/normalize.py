"""From stored pixels to what the model was trained on.

By which mean and deviation: `pipeline.AugmentConfig`.
"""

import jax
import jax.numpy as jnp

from data_pipelines.settings import AnyFloat

Rgb = tuple[AnyFloat, AnyFloat, AnyFloat]

# Of pixels scaled to 0..1; the values that the published Kinetics models were trained with.
MEAN: Rgb = (0.45, 0.45, 0.45)
STD: Rgb = (0.225, 0.225, 0.225)
# Those of ImageNet, with which image models, VideoMAE and V-JEPA 2 were trained.
IMAGENET_MEAN: Rgb = (0.485, 0.456, 0.406)
IMAGENET_STD: Rgb = (0.229, 0.224, 0.225)


def normalize(video: jax.Array, *, mean: Rgb = MEAN, std: Rgb = STD) -> jax.Array:
    """(video / 255 - mean) / std per channel.

    Args:
        video: [..., 3], u8, or float with the same 0..255 range.
        mean: of pixels scaled to 0..1.
        std: likewise.

    Returns:
        f32[..., 3].
    """
    # As one multiply-add, which rounds once and vectorises on every backend.
    shape = (1,) * (video.ndim - 1) + (3,)
    scale = jnp.asarray([1.0 / (255.0 * s) for s in std], jnp.float32).reshape(shape)
    offset = jnp.asarray([-m / s for m, s in zip(mean, std)], jnp.float32).reshape(shape)
    return video.astype(jnp.float32) * scale + offset
