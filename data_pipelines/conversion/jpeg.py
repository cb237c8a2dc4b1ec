"""How converted frames are stored: as baseline JPEG 4:2:0 that can be cut (see ``data_pipelines.jpeg_cut``)."""

import cv2
import numpy as np

_MCU = 16  # pixels, of 4:2:0
_MIN_MCUS = 128  # of a frame: a cut of a smaller one costs what it saves
_MAX_INTERVAL = 4  # MCUs: a window's edge lies anywhere in a run, which is decoded as a whole


def encode_jpeg(frame: np.ndarray, quality: int) -> bytes:
    """A frame, RGB u8[H, W, 3], as JPEG: equal to libjpeg's at this quality but for restart markers.

    Raises:
        ValueError: it cannot be encoded.
    """
    options = [
        cv2.IMWRITE_JPEG_QUALITY, quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        cv2.IMWRITE_JPEG_RST_INTERVAL, restart_interval(*frame.shape[:2]),
    ]  # fmt: skip
    good, encoded = cv2.imencode('.jpg', cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
    if not good:
        raise ValueError('a frame cannot be encoded as JPEG')
    return encoded.tobytes()


def restart_interval(height: int, width: int) -> int:
    """MCUs from one restart marker to the next, a divisor of those of a row; 0: no markers.

    Markers every 2, 3 or 4 MCUs make files of 21 kB frames 2 to 3 % larger, after every one, which other widths
    need, 6 %.
    """
    rows, columns = -(-height // _MCU), -(-width // _MCU)
    if rows * columns < _MIN_MCUS:
        return 0
    return max(interval for interval in range(1, _MAX_INTERVAL + 1) if columns % interval == 0)
