"""Pictures of textured shapes and backgrounds, and how they are put into a frame.

Interpolation and blending are done in whole numbers (fixed point), and noise is enlarged by the
bit-exact method of OpenCV, whose ordinary resize and affine warp round differently from processor
to processor. So the same numbers give the same pixels on every machine.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

SPRITE_SIZE = 64  # side of a sprite, pixels
_BORDER = 2  # pixels around the circle that an outline is drawn into
_OVERSAMPLING = 4  # of the outline
_FIXED = 16  # bits of fraction of affine coefficients
_FRACTION = 5  # bits of fraction that cv2.remap interpolates with


def _circle(radius: float) -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _star(inner: float) -> list[tuple[float, float]]:
    corners = []
    for corner in range(10):
        radius, angle = inner if corner % 2 else 1.0, math.pi * (corner / 5 - 0.5)
        corners.append((radius * math.cos(angle), radius * math.sin(angle)))
    return corners


_CROSS = [
    (-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3),
    (0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3),
]  # fmt: skip
# Outlines within the circle of radius 1, as polygons; a polygon within another one is a hole.
SHAPES = {
    'star': [_star(0.42)],
    'ring': [_circle(0.95), _circle(0.6)],
    'disc': [_circle(0.9)],
    'square': [[(-0.72, -0.72), (0.72, -0.72), (0.72, 0.72), (-0.72, 0.72)]],
    'triangle': [[(0, -1), (0.87, 0.6), (-0.87, 0.6)]],
    'cross': [_CROSS],
}


def draw_sprite(
    rng: np.random.Generator,
    shape: str,
    *,
    grey: float,
    two_tone: float,
    tint: float,
    texture: float,
) -> np.ndarray:
    """A shape with two halves of different colours under noise.

    Args:
        rng: draws the two tints, which half is brighter, and the noise.
        shape: one of `SHAPES`.
        grey: mean brightness, grey levels.
        two_tone: difference between the halves, grey levels.
        tint: greatest departure of a colour channel from grey, grey levels.
        texture: half the range of the noise, grey levels.

    Returns:
        u8[S, S, 4]: red, green, blue, opacity.
    """
    step = two_tone * rng.choice([-1, 1]) / 2
    first, second = (draw_colour(rng, grey + sign * step, tint) for sign in (1, -1))
    share = np.clip(np.linspace(-4, 5, SPRITE_SIZE), 0, 1)[:, None, None]  # soft in the middle
    noise = texture * _draw_noise(rng, SPRITE_SIZE, SPRITE_SIZE // 4)[..., None]
    colour = first * (1 - share) + second * share + noise  # [S, S, 3]
    return np.concatenate([_to_uint8(colour), _opacity(shape)[..., None]], axis=2)


def draw_background(
    rng: np.random.Generator, side: int, *, grey: float, cell: int, tint: float, texture: float
) -> np.ndarray:
    """Blotches of about `cell` pixels, with finer ones in them, u8[side, side, 3]."""
    noise = _draw_noise(rng, side, cell)[..., None]
    swing = 2 * texture + draw_colour(rng, 0, tint)
    return _to_uint8(draw_colour(rng, grey, tint) + swing * noise)


def draw_colour(rng: np.random.Generator, grey: float, tint: float) -> np.ndarray:
    """A random colour of mean `grey`, f64[3]."""
    departure = rng.uniform(-tint, tint, size=3)
    return grey + departure - departure.mean()


def _draw_noise(rng: np.random.Generator, side: int, cell: int) -> np.ndarray:
    """Three octaves of smooth noise, f64[side, side] in -1..1."""
    total = np.zeros((side, side))
    for weight, size in ((4, cell), (2, cell // 2), (1, cell // 4)):
        grid = -(-side // max(size, 1)) + 1
        blotches = rng.integers(0, 256, (grid, grid), dtype=np.uint8)
        total += weight * cv2.resize(
            blotches, (side, side), interpolation=cv2.INTER_LINEAR_EXACT
        ).astype(np.float64)
    return total / (7 * 127.5) - 1


def _to_uint8(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _opacity(shape: str) -> np.ndarray:
    """The outline filled, u8[S, S]."""
    side = SPRITE_SIZE * _OVERSAMPLING
    radius = side / 2 - _BORDER * _OVERSAMPLING
    picture = np.zeros((side, side), np.uint8)
    corners = (np.rint(side / 2 + radius * np.array(polygon)) for polygon in SHAPES[shape])
    cv2.fillPoly(picture, [polygon.astype(np.int32) for polygon in corners], 255)
    blocks = picture.reshape(SPRITE_SIZE, _OVERSAMPLING, SPRITE_SIZE, _OVERSAMPLING)
    return (blocks.sum(axis=(1, 3), dtype=np.int32) // _OVERSAMPLING**2).astype(np.uint8)


def pyramid(sprite: np.ndarray) -> list[np.ndarray]:
    """The sprite, u8[S, S, 4], at full, half and quarter size: small shapes must not flicker."""
    levels = [sprite]
    for _ in range(2):
        side = levels[-1].shape[0] // 2
        blocks = levels[-1].reshape(side, 2, side, 2, 4)
        levels.append(((blocks.sum(axis=(1, 3), dtype=np.int32) + 2) // 4).astype(np.uint8))
    return levels


def paste_background(
    frame: np.ndarray,
    background: np.ndarray,
    centre: np.ndarray,
    offset: np.ndarray,
    degrees: float,
) -> None:
    """Fills `frame`, u8[H, W, 3], in place; the background is mirrored beyond its edges.

    Args:
        frame: what is filled.
        background: u8[S, S, 3].
        centre: x, y in the frame, pixels, about which the background is turned.
        offset: x, y by which the middle of the background lies beside `centre`, pixels.
        degrees: clockwise.
    """
    height, width, _ = frame.shape
    middle = np.full(2, (background.shape[0] - 1) / 2)
    affine = _inverse_affine(degrees, 1.0, centre, middle - offset)
    frame[:] = _sample(background, affine, 0, 0, width, height, cv2.BORDER_REFLECT_101)


def paste_sprite(
    frame: np.ndarray, levels: list[np.ndarray], centre: np.ndarray, diameter: float, degrees: float
) -> None:
    """Draws a sprite, as `pyramid` gives it, into `frame`, u8[H, W, 3], in place.

    Args:
        frame: what is drawn into; the sprite may lie partly or wholly outside.
        levels: the sprite's pyramid.
        centre: x, y of its middle, pixels.
        diameter: of the circle around its outline, pixels.
        degrees: clockwise.
    """
    height, width, _ = frame.shape
    reach = diameter / 2 + 1
    left, top = (max(0, math.floor(middle - reach)) for middle in centre)
    right, bottom = (
        min(length, math.ceil(middle + reach) + 1)
        for middle, length in zip(centre, (width, height))
    )
    if left >= right or top >= bottom:
        return
    sprite = next((level for level in reversed(levels) if len(level) >= diameter), levels[0])
    side = len(sprite)
    scale = diameter / (side * (1 - 2 * _BORDER / SPRITE_SIZE))
    affine = _inverse_affine(degrees, scale, centre, np.full(2, (side - 1) / 2))
    patch = _sample(sprite, affine, left, top, right - left, bottom - top, cv2.BORDER_CONSTANT)
    under = frame[top:bottom, left:right]
    opacity = patch[..., 3:].astype(np.uint16)
    total = patch[..., :3] * opacity + under * (255 - opacity) + 128
    under[:] = (total + (total >> 8)) >> 8  # total / 255, rounded; fits into 16 bits


def _inverse_affine(
    degrees: float, scale: float, centre: np.ndarray, source_centre: np.ndarray
) -> np.ndarray:
    """The map from a frame's pixels back to a picture that is turned clockwise, enlarged by
    `scale` and put with its `source_centre` on `centre`, f64[2, 3]."""
    cos = math.cos(math.radians(degrees)) / scale
    sin = math.sin(math.radians(degrees)) / scale
    linear = np.array([[cos, sin], [-sin, cos]])
    return np.concatenate([linear, (source_centre - linear @ centre)[:, None]], axis=1)


def _sample(
    source: np.ndarray,
    affine: np.ndarray,
    left: int,
    top: int,
    width: int,
    height: int,
    border: int,
) -> np.ndarray:
    """What a frame's rectangle shows of `source`, u8[height, width, channels]."""
    fixed = np.rint(affine * (1 << _FIXED)).astype(np.int32)
    across = np.arange(left, left + width, dtype=np.int32)
    down = np.arange(top, top + height, dtype=np.int32)[:, None]
    half = 1 << (_FIXED - _FRACTION - 1)
    x, y = (
        (row[0] * across + (row[1] * down + (row[2] + half))) >> (_FIXED - _FRACTION)
        for row in fixed
    )
    whole = np.empty((height, width, 2), np.int16)
    whole[..., 0], whole[..., 1] = x >> _FRACTION, y >> _FRACTION
    mask = (1 << _FRACTION) - 1
    fraction = (((y & mask) << _FRACTION) | (x & mask)).astype(np.uint16)
    return cv2.remap(source, whole, fraction, cv2.INTER_LINEAR, borderMode=border)
