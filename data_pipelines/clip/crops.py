"""Which pixels of its frames a clip shows, by MultiTrain's rules: arithmetic only, no files."""

import math
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """A rectangle in pixels of the stored frame."""

    top: int
    left: int
    height: int
    width: int


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) after a resize to `short_side` that keeps the shape; fractions are cut."""
    if width < height:
        return math.floor(float(height) / width * short_side), short_side
    return short_side, math.floor(float(width) / height * short_side)


def crop_corners(height: int, width: int, crop_size: int, num_crops: int) -> list[tuple[int, int]]:
    """(top, left) of the test crops of a resized frame: the centre, or three along its long side.

    Three crops are left, centre, right; of a frame taller than wide: top, centre, bottom.

    Raises:
        ValueError: the crop does not fit, or `num_crops` is neither 1 nor 3.
    """
    if num_crops not in (1, 3):
        raise ValueError(
            f'spatial views must be 1 (centre) or 3 (left, centre, right), got {num_crops}'
        )
    if crop_size > min(height, width):
        raise ValueError(
            f'crop of {crop_size} px does not fit a frame of {height} x {width} px (height x width)'
        )
    top, left = math.ceil((height - crop_size) / 2), math.ceil((width - crop_size) / 2)
    if num_crops == 1:
        return [(top, left)]
    if height > width:
        return [(0, left), (top, left), (height - crop_size, left)]
    return [(top, 0), (top, left), (top, width - crop_size)]


def random_window(
    rng: np.random.Generator, height: int, width: int, short_side: tuple[int, int], crop_size: int
) -> Window:
    """Training crop: short side resized to a random size, then a random square of it.

    MultiTrain, supplement section 2.1. The size is uniform over [low, high], rounded. The crop is
    returned as the rectangle of the *stored* frame that it shows, so that nothing else needs to be
    resized. That rectangle has whole sides and corners: against resizing the whole frame first it
    is at most half a stored pixel off.

    Raises:
        ValueError: the crop is larger than the smallest short side.
    """
    low, high = short_side
    if not crop_size <= low <= high:
        raise ValueError(
            f'need crop_size <= short_side[0] <= short_side[1], got {crop_size} and {short_side}'
        )
    scaled_height, scaled_width = scaled_size(height, width, int(round(rng.uniform(low, high))))
    window_height = min(max(round(crop_size * height / scaled_height), 1), height)
    window_width = min(max(round(crop_size * width / scaled_width), 1), width)
    return Window(
        top=int(rng.integers(height - window_height + 1)),
        left=int(rng.integers(width - window_width + 1)),
        height=window_height,
        width=window_width,
    )
