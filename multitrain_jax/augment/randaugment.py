"""RandAugment (arXiv 1909.13719) on clips, with timm's and PySlowFast's operations and severities.

Every operation works on u8[T, H, W, 3], gives the pixels that Pillow's would (to one grey level
where it rounds differently), and treats all frames of a clip alike; what depends on image
statistics (auto contrast, equalise, contrast) uses each frame's own, as an image library would.
Geometric operations interpolate bilinearly and fill with mid-grey.

Only the "increasing" set is offered, in which a larger magnitude always changes the clip more.
"""

from collections.abc import Callable
import dataclasses
import re

import jax
from jax import lax
import jax.numpy as jnp

MAX_LEVEL = 10.0
_FILL = 128  # grey of pixels that a geometric operation brings in from outside
_APPLY_PROBABILITY = 0.5  # of each drawn operation
_TRANSLATE = 0.45  # share of the frame's side at the largest level
_SOLARIZE_ADD_THRESHOLD = 128


@dataclasses.dataclass(frozen=True)
class RandAugmentConfig:
    """Operations per clip, and the normal distribution of their level (0..10)."""

    magnitude: float
    num_layers: int
    magnitude_std: float


def parse_rand_augment(text: str) -> RandAugmentConfig:
    """Reads the usual notation: `rand-m7-n4-mstd0.5-inc1`.

    m: magnitude, 0..10; n: operations per clip (default 2); mstd: standard deviation of the
    magnitude (default 0); inc1: the increasing set, required.

    Raises:
        ValueError: another notation.
    """
    problem = (
        f'rand_augment={text!r}: must look like rand-m7-n4-mstd0.5-inc1 '
        '(magnitude 0..10, operations per clip, deviation of the magnitude, increasing set)'
    )
    kind, *parts = text.split('-')
    values = {}
    for part in parts:
        match = re.fullmatch(r'(m|n|mstd|inc)(\d+(?:\.\d+)?)', part)
        if not match or match[1] in values:
            raise ValueError(problem)
        values[match[1]] = float(match[2])
    layers = values.get('n', 2.0)
    if (
        kind != 'rand'
        or values.get('inc') != 1
        or not 0 <= values.get('m', -1) <= MAX_LEVEL
        or layers != int(layers)
        or layers < 1
    ):
        raise ValueError(problem)
    return RandAugmentConfig(values['m'], int(layers), values.get('mstd', 0.0))


def rand_augment(video: jax.Array, keys: jax.Array, config: RandAugmentConfig) -> jax.Array:
    """Applies `num_layers` operations, drawn with replacement, one after the other to every clip.

    Each is skipped with probability 0.5, and has its own level and sign.

    Args:
        video: u8[B, T, H, W, 3].
        keys: B typed PRNG keys.
        config: from `parse_rand_augment`.

    Returns:
        u8[B, T, H, W, 3].
    """
    branches = [lambda clip, level, sign: clip, *OPERATIONS.values()]

    def layer(clip: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        key_choices, key_level = jax.random.split(key)
        apply, operation, sign = jax.random.uniform(key_choices, (3,))
        operation = 1 + jnp.floor(operation * len(OPERATIONS)).astype(jnp.int32)
        operation = jnp.where(apply < _APPLY_PROBABILITY, operation, 0)
        sign = jnp.where(sign < 0.5, -1.0, 1.0)
        level = config.magnitude + config.magnitude_std * jax.random.normal(key_level)
        level = jnp.clip(level, 0.0, MAX_LEVEL)
        return lax.switch(operation, branches, clip, level, sign), None

    def one_clip(clip_and_key: tuple[jax.Array, jax.Array]) -> jax.Array:
        clip, key = clip_and_key
        return lax.scan(layer, clip, jax.random.split(key, config.num_layers))[0]

    # One clip after the other: under vmap a switch computes all of its branches for every clip.
    return lax.map(one_clip, (video, keys))


# The operations. Each takes the clip u8[T, H, W, 3], the level f32[] in 0..10 and a sign f32[] that
# is 1 or -1 at random, and returns u8[T, H, W, 3].


def auto_contrast(clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Stretches every channel of every frame to 0..255."""
    del level, sign
    pixels = clip.astype(jnp.float32)
    low = jnp.min(pixels, axis=(1, 2), keepdims=True)
    high = jnp.max(pixels, axis=(1, 2), keepdims=True)
    # Whole numbers below 2^16 divided and floored: exact in float32, and faster than integer
    # division.
    stretched = jnp.floor((pixels - low) * 255.0 / jnp.maximum(high - low, 1.0))
    return jnp.where(high > low, stretched, pixels).astype(jnp.uint8)


def equalize(clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Flattens the histogram of every channel of every frame."""
    del level, sign
    frames, height, width, channels = clip.shape
    images = jnp.moveaxis(clip, 3, 1).reshape(frames * channels, height * width)
    counts = lax.platform_dependent(
        images, tpu=_histogram_by_product, default=_histogram_by_scatter
    )
    brightest = jnp.max(images, axis=1, keepdims=True).astype(jnp.int32)
    last = jnp.take_along_axis(counts, brightest, axis=1)  # [T * 3, 1]
    step = (height * width - last) // 255
    before = jnp.cumsum(counts, axis=1) - counts
    table = jnp.clip((step // 2 + before) // jnp.maximum(step, 1), 0, 255)
    table = jnp.where(step > 0, table, jnp.arange(256)[None]).astype(jnp.uint8)
    images = lax.platform_dependent(
        table, images, tpu=_look_up_by_product, default=_look_up_by_gather
    )
    return jnp.moveaxis(images.reshape(frames, channels, height, width), 1, 3)


def invert(clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """255 - pixel."""
    del level, sign
    return 255 - clip


def posterize(clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Keeps the highest 4 (level 0) to 1 (from level 7.5) bits; with none, nothing would show."""
    del sign
    dropped = jnp.minimum(4 + jnp.floor(level / MAX_LEVEL * 4).astype(jnp.int32), 7)
    return (clip.astype(jnp.int32) & (0xFF << dropped)).astype(jnp.uint8)


def solarize(clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Inverts pixels from a threshold on, which falls from 256 to 0."""
    del sign
    threshold = 256 - jnp.floor(level / MAX_LEVEL * 256).astype(jnp.int32)
    return jnp.where(clip.astype(jnp.int32) < threshold, clip, 255 - clip)


def solarize_add(clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Adds 0 to 110 to the dark half of the pixels."""
    del sign
    pixels = clip.astype(jnp.int32)
    added = jnp.minimum(pixels + jnp.floor(level / MAX_LEVEL * 110).astype(jnp.int32), 255)
    return jnp.where(pixels < _SOLARIZE_ADD_THRESHOLD, added, pixels).astype(jnp.uint8)


def color(clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Blends with the clip's own grey, or away from it."""
    return _blend(_gray(clip), clip, level, sign)


def contrast(clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Blends with the mean grey of every frame, or away from it."""
    mean = jnp.floor(jnp.mean(_gray(clip), axis=(1, 2, 3), keepdims=True) + 0.5)
    return _blend(mean, clip, level, sign)


def brightness(clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Blends with black, or away from it."""
    return _blend(jnp.zeros((), jnp.float32), clip, level, sign)


def sharpness(clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Blends with a smoothed clip (3 x 3, centre 5 of 13; border kept), or away from it."""
    pixels = clip.astype(jnp.float32)
    down = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]  # sums of 3 rows
    box = down[:, :, :-2] + down[:, :, 1:-1] + down[:, :, 2:]
    smooth = jnp.floor((box + 4.0 * pixels[:, 1:-1, 1:-1]) / 13.0 + 0.5)
    return _blend(pixels.at[:, 1:-1, 1:-1].set(smooth), clip, level, sign)


def rotate(clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Turns by up to 30 degrees about the centre."""
    angle = jnp.deg2rad(sign * level / MAX_LEVEL * 30.0)
    height, width = clip.shape[1:3]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # Source of a pixel at offset (x, y) from the centre: the offset turned back.
    return _warp(
        clip,
        lambda x, y: (
            cos * (x - width / 2) - sin * (y - height / 2) + width / 2,
            sin * (x - width / 2) + cos * (y - height / 2) + height / 2,
        ),
    )


def shear_x(clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Moves rows sideways by up to 0.3 of their height in the frame."""
    factor = sign * level / MAX_LEVEL * 0.3
    return _warp(clip, lambda x, y: (x + factor * y, y))


def shear_y(clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Moves columns up or down by up to 0.3 of their place in the frame."""
    factor = sign * level / MAX_LEVEL * 0.3
    return _warp(clip, lambda x, y: (x, y + factor * x))


def translate_x(clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Moves sideways by up to 0.45 of the width."""
    shift = sign * level / MAX_LEVEL * _TRANSLATE * clip.shape[2]
    return _warp(clip, lambda x, y: (x + shift, y))


def translate_y(clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Moves up or down by up to 0.45 of the height."""
    shift = sign * level / MAX_LEVEL * _TRANSLATE * clip.shape[1]
    return _warp(clip, lambda x, y: (x, y + shift))


OPERATIONS = {
    operation.__name__: operation
    for operation in (
        auto_contrast,
        equalize,
        invert,
        rotate,
        posterize,
        solarize,
        solarize_add,
        color,
        contrast,
        brightness,
        sharpness,
        shear_x,
        shear_y,
        translate_x,
        translate_y,
    )
}


# Counting and table look-up for u8[I, P] images. Scatter and gather of single bytes are serial on a
# TPU; there, a pixel is 16 * high + low and both become products of one-hot matrices. On a CPU
# those are 13 times slower than scatter and gather (66 against 5 ms for 12 images of 224 x 224).
# The products are exact in bfloat16: factors are 0, 1 or whole numbers up to 255, and sums are
# float32.


def _histogram_by_scatter(images: jax.Array) -> jax.Array:
    """i32[I, 256]."""
    rows = jnp.arange(images.shape[0])[:, None]
    return jnp.zeros((images.shape[0], 256), jnp.int32).at[rows, images].add(1)


def _histogram_by_product(images: jax.Array) -> jax.Array:
    """i32[I, 256]."""

    def count(image: jax.Array) -> jax.Array:
        high, low = _one_hot_halves(image)
        return jnp.matmul(high.T, low, preferred_element_type=jnp.float32)  # [16, 16]

    return lax.map(count, images).reshape(-1, 256).astype(jnp.int32)


def _look_up_by_gather(tables: jax.Array, images: jax.Array) -> jax.Array:
    """u8[I, P] of tables u8[I, 256]."""
    return jnp.take_along_axis(tables, images.astype(jnp.int32), axis=1)


def _look_up_by_product(tables: jax.Array, images: jax.Array) -> jax.Array:
    """u8[I, P] of tables u8[I, 256]."""

    def look_up(table_and_image: tuple[jax.Array, jax.Array]) -> jax.Array:
        table, image = table_and_image
        high, low = _one_hot_halves(image)
        rows = jnp.matmul(
            high, table.astype(jnp.bfloat16).reshape(16, 16), preferred_element_type=jnp.float32
        )  # [P, 16]
        return jnp.sum(rows * low, axis=1).astype(jnp.uint8)

    return lax.map(look_up, (tables, images))


def _one_hot_halves(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """bf16[P, 16] of the high and of the low four bits of u8[P]."""
    return tuple(jax.nn.one_hot(half, 16, dtype=jnp.bfloat16) for half in (image >> 4, image & 15))


def _gray(clip: jax.Array) -> jax.Array:
    """f32[T, H, W, 1], whole numbers: luma in 16-bit fixed point, as Pillow's mode "L"."""
    red, green, blue = (clip[..., c : c + 1].astype(jnp.int32) for c in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(jnp.float32)


def _blend(degenerate: jax.Array, clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Weighs the clip with 1 +- up to 0.9 and the degenerate clip with the rest."""
    factor = 1.0 + sign * level / MAX_LEVEL * 0.9
    degenerate = degenerate.reshape((1,) * (clip.ndim - degenerate.ndim) + degenerate.shape)
    blended = degenerate + factor * (clip.astype(jnp.float32) - degenerate)
    return jnp.clip(blended, 0.0, 255.0).astype(jnp.uint8)


def _warp(
    clip: jax.Array, source: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
) -> jax.Array:
    """Samples every frame at `source(x, y)`, of the place (x, y) of each pixel of the result.

    Places are in pixels with pixel centres at .5. Bilinear inside the frame (neighbours beyond its
    border repeat the border), grey outside.
    """
    frames, height, width, channels = clip.shape
    y, x = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing='ij')
    x, y = source(x, y)  # f32[H, W]
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    left, top = jnp.floor(x - 0.5), jnp.floor(y - 0.5)
    right_share, bottom_share = x - 0.5 - left, y - 0.5 - top

    # A row per place and all frames in it: one index fetches T * 3 neighbouring bytes.
    places = jnp.moveaxis(clip, 0, 2).reshape(height * width, frames * channels)

    def corner(dy: int, dx: int, share: jax.Array) -> jax.Array:
        row = jnp.clip(top + dy, 0, height - 1).astype(jnp.int32)
        column = jnp.clip(left + dx, 0, width - 1).astype(jnp.int32)
        fetched = jnp.take(places, (row * width + column).reshape(-1), axis=0)
        return share.reshape(-1, 1) * fetched.astype(jnp.float32)

    sampled = (
        corner(0, 0, (1 - bottom_share) * (1 - right_share))
        + corner(0, 1, (1 - bottom_share) * right_share)
        + corner(1, 0, bottom_share * (1 - right_share))
        + corner(1, 1, bottom_share * right_share)
    )
    sampled = jnp.where(outside.reshape(-1, 1), _FILL, sampled).astype(jnp.uint8)
    return jnp.moveaxis(sampled.reshape(height, width, frames, channels), 2, 0)
