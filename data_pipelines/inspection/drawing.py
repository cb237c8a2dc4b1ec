"""Boxes and short texts drawn into pictures."""

from collections.abc import Sequence
import unicodedata

import cv2
import numpy as np

Colour = tuple[int, int, int]  # RGB

INK, PAPER = (20, 20, 20), (255, 255, 255)
COLOURS = (  # RGB, told apart by most people with a colour vision deficiency too
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167), (148, 103, 189),
)  # fmt: skip
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_box(
    image: np.ndarray, box: Sequence[float], colour: Colour, thickness: int = 2
) -> tuple[int, int]:
    """Draws the outline of a box, shares of the width and height, into u8[H, W, 3].

    Returns:
        Its upper left corner: x, y, pixels.
    """
    shape = np.array([image.shape[1], image.shape[0]] * 2)
    x1, y1, x2, y2 = np.minimum((np.asarray(box) * shape).round().astype(int), shape - 1).tolist()
    cv2.rectangle(image, (x1, y1), (x2, y2), colour, thickness)
    return x1, y1


def draw_tag(
    image: np.ndarray, text: str, x: int, y: int, colour: Colour, scale: float = 0.38
) -> int:
    """Writes on a coloured ground, its corner at (x, y), inside the image; returns its height."""
    (width, height), below = cv2.getTextSize(plain(text), FONT, scale, 1)
    x = max(0, min(x, image.shape[1] - width - 4))
    y = max(0, min(y, image.shape[0] - height - below - 4))
    cv2.rectangle(image, (x, y), (x + width + 3, y + height + below + 2), colour, cv2.FILLED)
    draw_text(image, text, x + 2, y + height + 2, INK if sum(colour) > 330 else PAPER, scale)
    return height + below + 3


def draw_text(image: np.ndarray, text: str, x: int, y: int, colour: Colour, scale: float) -> None:
    """Writes with the base line's left end at (x, y)."""
    cv2.putText(image, plain(text), (x, y), FONT, scale, colour, 1, cv2.LINE_AA)


def plain(text: str) -> str:
    """OpenCV's letters are ASCII: accents are dropped, other signs become question marks."""
    parts = unicodedata.normalize('NFKD', text)
    parts = ''.join(sign for sign in parts if not unicodedata.combining(sign))
    return parts.encode('ascii', 'replace').decode()
