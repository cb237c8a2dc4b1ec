"""Decoded video frames -> upright RGB, of a window only where that is all that is wanted.

FFmpeg's own conversion (swscale), by the colour matrix and the range that a frame states, BT.601
and limited where it states none. Of 8-bit 4:2:0 frames the window is cut out before the conversion:
the same pixels as of the whole frame, in a third of the time.
"""

import struct
import threading

import av
from av.video.reformatter import VideoReformatter
import cv2
import numpy as np

from data_pipelines.clip.crops import Window

_CUT_FORMATS = ('yuv420p', 'yuvj420p')
_thread = threading.local()


def upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """(height, width) of a frame when it is upright, pixels."""
    return _Orientation(frame).upright_size(frame.height, frame.width)


def upright_rgb(
    frame: av.VideoFrame, window: Window | None = None, transposed: bool | None = None
) -> np.ndarray:
    """Upright pixels of a frame, u8[H, W, 3], or of a window in it; the array may be a view.

    The display rotation is applied, mirroring too. Non-square pixels are not stretched.

    Args:
        frame: of any pixel format.
        window: in pixels of the upright frame, inside it; None: all of it.
        transposed: whether the frame's rows are columns of what is shown, whatever else it says of
            its display; None: as it says.
    """
    orientation = _Orientation(frame, transposed)
    if window is not None:
        window = orientation.stored(window, frame.height, frame.width)
        whole = window.height == frame.height and window.width == frame.width
        # Frames of odd size are converted in another way: a part would get other pixels.
        even = not (frame.height % 2 or frame.width % 2)
        worth = orientation.turns or not whole  # Planes are turned faster than pixels.
        if even and worth and frame.format.name in _CUT_FORMATS:
            return orientation.mirrored(_cut(frame, window, orientation.turns))
    image = _convert(frame)
    if window is not None:
        image = image[window.top :, window.left :][: window.height, : window.width]
    return orientation.upright(image)


class _Orientation:
    """How a frame is turned to be upright: by the multiple of 90 degrees nearest.

    The display matrix shows pixel (x, y) at (a x + c y, b x + d y) (ISO/IEC 14496-12, tkhd; front
    cameras write mirrored ones).
    """

    __slots__ = ('turns', '_down', '_right')

    def __init__(self, frame: av.VideoFrame, transposed: bool | None = None):
        self.turns, self._down, self._right = bool(transposed), 1, 1
        data = None if transposed is not None else frame.side_data.get('DISPLAYMATRIX')
        if data is not None:
            a, b, _, c, d, *_ = struct.unpack('=9i', bytes(data)[:36])
            self.turns = abs(b) + abs(c) > abs(a) + abs(d)  # x becomes y
            down, right = (b, c) if self.turns else (d, a)
            self._down, self._right = (-1 if down < 0 else 1), (-1 if right < 0 else 1)

    def upright_size(self, height: int, width: int) -> tuple[int, int]:
        return (width, height) if self.turns else (height, width)

    def upright(self, image: np.ndarray) -> np.ndarray:
        """Turns and mirrors pixels [H, W, 3]; a copy where there is anything to do."""
        return self.mirrored(cv2.transpose(image) if self.turns else image)

    def mirrored(self, image: np.ndarray) -> np.ndarray:
        """Mirrors pixels that are turned already; a copy where there is anything to do."""
        if min(self._down, self._right) < 0:
            image = np.ascontiguousarray(image[:: self._down, :: self._right])
        return image

    def stored(self, window: Window, height: int, width: int) -> Window:
        """What becomes `window` once the frame of this size is upright."""
        top, left, rows, columns = window
        upright_height, upright_width = self.upright_size(height, width)
        if self._down < 0:
            top = upright_height - top - rows
        if self._right < 0:
            left = upright_width - left - columns
        return Window(left, top, columns, rows) if self.turns else Window(top, left, rows, columns)


def _cut(frame: av.VideoFrame, window: Window, turns: bool) -> np.ndarray:
    """RGB of a window of a 4:2:0 frame of even size, cut out on whole samples of colour.

    `turns`: rows of the frame are to be columns.
    """
    top, left = window.top // 2 * 2, window.left // 2 * 2
    bottom = -(-(window.top + window.height) // 2) * 2
    right = -(-(window.left + window.width) // 2) * 2
    size = bottom - top, right - left
    part, planes = _buffer(*(size[::-1] if turns else size), frame.format.name)
    for number, (plane, target) in enumerate(zip(_planes(frame), planes)):
        scale = 2 if number else 1
        plane = plane[top // scale : bottom // scale, left // scale : right // scale]
        if turns:
            cv2.transpose(plane, dst=target)
        else:
            target[:] = plane
    part.colorspace, part.color_range = frame.colorspace, frame.color_range
    image, inside = _convert(part), Window(window.top - top, window.left - left, *window[2:])
    if turns:
        inside = Window(inside.left, inside.top, inside.width, inside.height)
    return image[inside.top :, inside.left :][: inside.height, : inside.width]


def _planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """The planes of an 8-bit frame, u8[h, w] each, without a copy."""
    return [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    ]


def _buffer(height: int, width: int, name: str) -> tuple[av.VideoFrame, list[np.ndarray]]:
    """A frame of the calling thread, and its planes; the same one again at the next such call."""
    if getattr(_thread, 'key', None) != (height, width, name):
        _thread.part = av.VideoFrame(width, height, name)
        _thread.planes = _planes(_thread.part)
        _thread.key = height, width, name
    return _thread.part, _thread.planes


def _convert(frame: av.VideoFrame) -> np.ndarray:
    """RGB of a frame as it is stored, u8[H, W, 3]; a view."""
    if not hasattr(_thread, 'reformatter'):
        _thread.reformatter = VideoReformatter()
    # One thread: on frames of usual size the others cost more than they do.
    (plane,) = _thread.reformatter.reformat(frame, format='rgb24', threads=1).planes
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)
