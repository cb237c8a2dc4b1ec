"""How frames are stored: as baseline JPEG 4:2:0 that can be cut (see `clip.jpeg_cut`)."""

import cv2
import numpy as np

_MCU = 16  # pixels, of 4:2:0
_MAX_INTERVAL = 4  # MCUs


def encode_jpeg(frame: np.ndarray, quality: int) -> bytes:
    """A frame, RGB u8[H, W, 3], as JPEG: equal to libjpeg's at this quality but for restart
    markers.

    Raises:
        ValueError: it cannot be encoded.
    """
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        cv2.IMWRITE_JPEG_RST_INTERVAL,
        _restart_interval(frame.shape[1]),
    ]
    good, encoded = cv2.imencode('.jpg', cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
    if not good:
        raise ValueError('a frame cannot be encoded as JPEG')
    return encoded.tobytes()


def _restart_interval(width: int) -> int:
    """MCUs from one restart marker to the next: as many rows must consist of.

    A window's edge lies anywhere in a run, which is decoded as a whole; but every marker takes 4
    bytes.
    """
    columns = -(-width // _MCU)
    return max(interval for interval in range(1, _MAX_INTERVAL + 1) if columns % interval == 0)
